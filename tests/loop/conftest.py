"""A task with a gene of each kind, and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.dispatch import Plan, Slot, Task
from evo_tune.loop import opening
from evo_tune.loop.search import Search
from tests.here import Here
from tests.loop.cases import TASK


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def search(task: Path, tmp_path: Path) -> Callable[..., Search]:
    """Return a function that makes a run, closed again."""

    def make(**given: Any) -> Search:
        search = Search(str(task), store=tmp_path / "store", name="run", **given)
        search.saved.close()
        return search

    return make


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs done by slots of this process: for tests to which workers of their own would add seconds only."""

    def opened(task: Task, plan: Plan, *others: object) -> list[Slot]:
        slots: list[Slot] = [Here(task) for _ in plan.slots]
        for number, slot in enumerate(slots):
            slot.name = f"slot {number}"
        return slots

    monkeypatch.setattr(opening, "open_slots", opened)
