"""The state of a running run: one line, and the time left."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import pytest

from evo_tune.report.run_data import RunData
from evo_tune.report.serving import LiveReport, current_part
from evo_tune.store.run import Run
from tests.conftest import cut_copy
from tests.report.conftest import Made


def beat(folder: Path, *what: str) -> None:
    usual = {"device": "cpu", "seconds": 2.0, "memory": None}
    slots = [{"slot": f"slot {number}", "work": one, **usual} for number, one in enumerate(what)]
    sign = {"pid": os.getpid(), "host": platform.node(), "time": time.time(), "slots": slots}
    (folder / "_heartbeat.json").write_text(json.dumps(sign))


@pytest.fixture
def going(made: Made, tmp_path: Path) -> Run:
    """A run of some 50 results whose process still writes heartbeats."""
    folder = cut_copy(made(), tmp_path / "going", 160)
    run = Run.open(folder)
    running = [candidate.id for candidate in run.candidates if candidate.id not in run.outcomes]
    beat(folder, f"trial {running[0]}", f"trial {running[1]} (waits for room)", "")
    (folder / "_trials").mkdir()
    told = {"trial": running[0], "curve": [[0.25, {"loss": 4.0}], [0.5, {"loss": 3.0}]]}
    (folder / "_trials" / ".worker-1.json").write_text(json.dumps(told))
    return run


def test_the_state_says_whether_it_runs(going: Run, made: Made) -> None:
    line, part = current_part(RunData(going))
    pending = len(going.candidates) - len(going.outcomes)
    assert line.startswith("Running (last sign of life ")
    assert line.endswith(f"). {len(going.outcomes)} of 80 trials have a result, {pending} pending.")
    assert [row["training"] for row in part.rows][-1] == "none"
    (going.folder / "_heartbeat.json").unlink()
    assert current_part(RunData(going))[0].startswith("Not running, although it has not ended")
    line, part = current_part(RunData(made()))
    assert line.startswith("Ended: the limit of 80 trials is reached.")
    assert part.rows == []


def test_the_page_of_a_running_run_does_not_advise_to_continue_it(going: Run) -> None:
    following = LiveReport(going.folder)
    version, _, parts = following.look()
    assert "next_steps" not in parts
    (going.folder / "_heartbeat.json").unlink()
    later, _, parts = following.look()
    assert "resume" in str(parts["next_steps"].commands)
    assert later != version, "the page asks for it"


def test_a_trial_with_a_result_is_in_training_no_more(going: Run) -> None:
    beat(going.folder, f"trial {going.recorded[-1]}", "final comparison, trial 1")
    rows = current_part(RunData(going))[1].rows
    assert [row["training"] for row in rows] == ["none", "final comparison, trial 1"]
    assert list(rows[0]) == ["slot", "device", "training", "for"], "no column is empty"


def test_each_slot_has_its_curve(going: Run) -> None:
    _, part = current_part(RunData(going))
    assert part.rows[0]["done"] == "50%"
    assert part.rows[0]["loss so far"] == "3"
    assert part.rows[1]["done"] == ""
