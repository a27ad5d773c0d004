"""Files of a killed evaluation are kept for the next attempt; other files, and those of a failed one, are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from slot_helpers import candidate

from evo_tune.dispatch.worker import Worker

BODY = """
    found = sorted(os.listdir(context.folder))
    for name in ("unfinished.pt", "checkpoint.pt", "other"):
        (context.folder / name).write_text("x")
    if genome["x"] == 1.0:
        raise ValueError("no luck")
    return {"loss": float(len(found))}
    """


@pytest.fixture
def worker(task_of) -> Worker:
    return Worker(task_of(BODY), "cpu")


def attempt(worker: Worker, x: float = 0.0) -> tuple[float, set[str]]:
    """Return how many files an evaluation has found, and those that it has left."""
    outcome = worker.work(candidate(0, genome={"x": x}))["outcome"]
    folder = Path(worker.task.folder(0))
    return outcome["metrics"].get("loss", -1.0), {file.name for file in folder.iterdir()}


def test_the_next_attempt_finds_the_checkpoint_and_what_it_needs_but_nothing_else(worker: Worker) -> None:
    assert attempt(worker) == (0.0, {"unfinished.pt", "checkpoint.pt", "other"})
    assert attempt(worker)[0] == 2.0


def test_without_a_checkpoint_inside_it_finds_nothing(worker: Worker) -> None:
    attempt(worker)
    (Path(worker.task.folder(0)) / "unfinished.pt").unlink()
    assert attempt(worker)[0] == 0.0


def test_a_link_in_its_place_is_removed(worker: Worker) -> None:
    attempt(worker)
    file = Path(worker.task.folder(0)) / "unfinished.pt"
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")
    assert attempt(worker)[0] == 1.0


def test_what_has_failed_is_not_continued(worker: Worker) -> None:
    _, left = attempt(worker, x=1.0)
    assert "unfinished.pt" not in left
    assert attempt(worker)[0] == 0.0
