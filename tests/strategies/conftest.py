"""Fewer cases of the contract for strategies that are slow."""

from __future__ import annotations

import pytest

from tests.strategies.cases import CASES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the cases of a strategy that are not among its CASES."""
    items[:] = [item for item in items if not _is_left_out(getattr(item, "callspec", None))]


def _is_left_out(case: object) -> bool:
    given = getattr(case, "params", {})
    cases = CASES.get(given.get("strategy"), {})
    return any(given[name] not in few for name, few in cases.items() if name in given)
