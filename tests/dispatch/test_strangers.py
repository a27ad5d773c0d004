"""Trials' folders in a run from a stranger: a worker writes, empties and removes only what lies in the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slot_helpers import candidate

from evo_tune.dispatch.log import Log
from evo_tune.dispatch.slot import keep_log
from evo_tune.dispatch.worker import Worker

BODY = "(context.folder / 'state').write_text('x')\nreturn {'loss': 0.0}"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that is the same in the end."""
    folder = tmp_path / "outside"
    (folder / "000000").mkdir(parents=True)
    files = [folder / "000000" / "precious", folder / "error.txt", folder / "log.txt"]
    for file in files:
        file.write_text("precious")
    yield folder
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(files)
    assert all(file.read_text() == "precious" for file in files)


def test_the_folder_of_a_trial_that_is_a_link_is_replaced(task_of, trials, outside):
    trials.mkdir(parents=True)
    (trials / "000000").symlink_to(outside)
    reply = Worker(task_of(BODY), "cpu").work(candidate(0))
    assert reply["outcome"]["status"] == "ok", reply
    assert not (trials / "000000").is_symlink()
    assert (trials / "000000" / "state").read_text() == "x"


@pytest.mark.parametrize("body", [BODY, "raise OSError('no')"])
def test_folders_below_a_link_are_not_touched(task_of, trials, outside, body):
    trials.parent.mkdir()
    trials.symlink_to(outside)
    outcome = Worker(task_of(body), "cpu").work(candidate(0))["outcome"]
    assert outcome["status"] == "failed"
    assert "is a link" in outcome["error"]


def test_what_another_trial_saved_is_not_read_from_elsewhere(task_of, trials, outside):
    trials.mkdir(parents=True)
    (trials / "000000").symlink_to(outside)
    outcome = Worker(task_of(BODY), "cpu").work(candidate(1, resumes=0))["outcome"]
    assert outcome["status"] == "failed"
    assert "000000 is a link" in outcome["error"]


@pytest.mark.parametrize("name", ["", ".worker-1.log", "000000"])
def test_what_a_worker_prints_goes_into_the_run_or_nowhere(trials, outside, name):
    trials.parent.mkdir()
    if name:
        trials.mkdir()
    (trials / name).symlink_to(outside / "log.txt" if name == ".worker-1.log" else outside)
    standard = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    try:
        log = Log(str(trials / ".worker-1.log"))
        log.begin(str(trials / "000000"))
        os.write(1, b"printed")
        log.end()
        log.remove()
    finally:
        sys.stdout, sys.stderr = streams
        for number, saved in enumerate(standard, 1):
            os.dup2(saved, number)
            os.close(saved)
    if name == ".worker-1.log":
        assert (trials / "000000" / "log.txt").read_text() == "printed"


def test_what_a_dead_worker_printed_goes_into_the_run_or_nowhere(trials, outside):
    trials.mkdir(parents=True)
    (trials / "000000").symlink_to(outside)
    (trials / ".worker-1.log").write_text("printed")
    with pytest.raises(OSError, match="is a link"):
        keep_log(str(trials / ".worker-1.log"), str(trials / "000000"))
