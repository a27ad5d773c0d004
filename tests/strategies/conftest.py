"""Fewer cases of the contract for strategies that are slow."""

from __future__ import annotations

import pytest

from tests.strategies.cases import VARIANTS, cases_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the cases in which a strategy is not checked."""
    items[:] = [item for item in items if not _is_left_out(getattr(item, "callspec", None))]


def _is_left_out(case: object) -> bool:
    given = getattr(case, "params", {})
    cases = cases_of(given["strategy"]) if given.get("strategy") in VARIANTS else {}
    return any(given[name] not in few for name, few in cases.items() if name in given)
