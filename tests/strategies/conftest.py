"""Fewer cases of the contract for strategies that are slow."""

from __future__ import annotations

import pytest

from tests.strategies.cases import ALIKE, FEW, SLOW


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the cases of a slow strategy that are not among FEW."""
    items[:] = [item for item in items if not _is_left_out(getattr(item, "callspec", None))]


def _is_left_out(case: object) -> bool:
    given = getattr(case, "params", {})
    return given.get("strategy") in (*SLOW, *ALIKE) and any(
        given[name] not in few for name, few in FEW.items() if name in given
    )
