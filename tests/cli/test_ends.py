"""A best at the end of a range is told by people's output too: at a run's end, and by `show`."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.cli.session import print_summary
from evo_tune.genome.trial import Outcome
from evo_tune.loop.comparison import ComparisonJobs
from evo_tune.loop.driving import Job
from evo_tune.store.run import Run
from tests.cli.conftest import Typed

STORE = Path(__file__).parents[2] / "populations"


def test_the_closing_table_and_show_tell_which_ranges_to_widen(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Run.open(STORE / "sample"))
    shown = CliRunner().invoke(cli, ["show", "sample", "--store", str(STORE)], catch_exceptions=False).output
    for text in (capsys.readouterr().out, shown):
        found = re.search(r"at an end of its range: (\w+) \(", text)
        assert found is not None, "the best of the sample is at no end: take another run"
        assert f"`evo-tune resume sample --gene '{found[1]}=" in text


def test_a_final_comparison_that_was_interrupted_is_continued_and_that_is_said(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh() -> int:
        return len(Run.open(Path("populations/mine")).fresh)

    record = ComparisonJobs.record_outcome

    def record_and_press_ctrl_c(jobs: ComparisonJobs, job: Job, outcome: Outcome) -> None:
        record(jobs, job, outcome)
        os.kill(os.getpid(), signal.SIGINT)
        while not jobs._is_stopping():
            time.sleep(0.01)

    with monkeypatch.context() as patched:
        patched.setattr(ComparisonJobs, "record_outcome", record_and_press_ctrl_c)
        words = ["--trials", "2", "--final-seeds", "2", "--slots", "1", "--no-report", "--name", "mine"]
        interrupted = typed("run", "quick.py", *words)
    assert (interrupted.code, fresh()) == (130, 1)
    assert "Interrupted. Continue with: evo-tune resume mine\n" in interrupted.err
    continued = typed("resume", "mine", "--no-report")
    assert (continued.code, fresh() > 1, "Nothing was left to do" in continued.err) == (0, True, False)
    count = fresh()
    again = typed("resume", "mine", "--no-report")
    assert (again.code, fresh(), "Nothing was left to do: the limit of 2 trials" in again.err) == (0, count, True)
