"""A run in which everything happens that other people's tools are told of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune import Candidate, Outcome, Search
from evo_tune.integrations.tracking import open_sink
from evo_tune.store.run import Run
from tests.conftest import drive
from tests.training.forked import forked_ranks as forked_ranks

Begin = Callable[..., Search]

FAILED, PRUNED = 4, 5
"""Trials of the eventful run that fail, and that are stopped by their curve."""


def evaluated(search: Search, candidate: Candidate) -> Outcome:
    """Return what comes of a candidate without training it: a curve of three points, and by its id an end."""
    share = candidate.budget
    loss = 1.0 / (1 + candidate.id)
    curve = tuple((share * part, {"loss": loss / part, "grad": part}) for part in (0.25, 0.5, 1.0))
    if candidate.id == FAILED:
        return Outcome("failed", {}, curve[:1], 2.0, "cpu", "ValueError: no luck (quick.py:7)")
    if candidate.id == PRUNED:
        return Outcome("pruned", {}, curve[:2], 1.0, "cpu", "loss is beyond its bound")
    return Outcome("ok", {"loss": loss, "cost": 10.0 + candidate.id}, curve, 3.0 * share, "cpu")


@pytest.fixture
def eventful(begin: Begin, quick: Path) -> Run:
    """Return a finished run of one objective: rungs, a failure, a pruned trial, parents, a constraint."""
    quick.write_text(f"{quick.read_text()}\nSUPPORTS = ['budget']\n")
    search = begin("mine", trials=12, fidelity="1/3,1", subject_to=["cost<=18"])
    return drive(search, slots=2, evaluate=evaluated).saved


def write(run: Run, tool: str, path: Path) -> Path:
    """Write a run for a tool, as its tracker does; return the path."""
    open_sink(tool, path, f"--track {tool}").update(run)
    return path


def studies(path: Path) -> Any:
    """Return Optuna's storage over a journal."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))
