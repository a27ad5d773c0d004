"""A real run in a process of its own ends within its hours, whatever its trainings take."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evo_tune.report.recommendation import comparison_result
from evo_tune.report.summary import RunResult, verdict
from evo_tune.store.run import Run
from tests.loop.cases import Begin

HOURS = 24 / 3600

ALLOWED = 3.0
"""Seconds by which such a short run may be late."""


def seconds_of(*words: str) -> float:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "evo_tune", *words], capture_output=True, text=True, timeout=90)
    assert done.returncode in (0, 1), done.stderr
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("sleep", [0.8, 40.0])
def test_a_process_ends_within_its_hours(quick: Path, tmp_path: Path, resume: Begin, sleep: float) -> None:
    if sleep < 2.0:  # else a training takes a tenth to twice as long
        quick.write_text(quick.read_text().replace("(0.1 + 1.9 * noise)", "1.0"))
    start = seconds_of("--version")
    store = tmp_path / "store"
    words = ("run", str(quick), "-o", f"sleep={sleep}", "--hours", f"{HOURS}", "--slots", "2", "--name", "run")
    took = seconds_of(*words, "--store", str(store))
    assert took <= HOURS * 3600 + start + ALLOWED
    run = Run.open(store / "run")
    assert run.seconds <= HOURS * 3600
    assert re.search(r"hours (are|is) over", str(run.ended))
    if sleep < 2.0:
        state, _ = comparison_result(run)
        assert state is not None
        assert state.over
    else:
        assert len(run.outcomes) < len(run.candidates), "the last trainings were ended"
        assert verdict(RunResult(run)) == "no evaluation finished"
    pending = {one.id for one in run.candidates} - set(run.outcomes)
    again = resume("run", hours=1.0)
    assert all(again.ask().id == id for id in sorted(pending)), "a longer run trains them first"
