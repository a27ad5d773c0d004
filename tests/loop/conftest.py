"""A task with a gene of each kind, and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.loop.search import Search
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
