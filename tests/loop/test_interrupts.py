"""Ctrl-C, SIGTERM and SIGHUP, sent to a run in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import drive
from tests.loop.cases import Begin, agrees

RUN = """
    import sys
    from evo_tune import Search
    shape = {"slots": 2, "population": 4, "generations": 50}
    search = Search(sys.argv[1], store=sys.argv[2], name="run", options={"sleep": SLEEP}, **shape)
    search.run()
    print(search.saved.ended, len(search.saved.candidates), len(search.trials))
"""


class Running:
    """A run in a process of its own, as started from a terminal."""

    def __init__(self, quick: Path, store: Path, sleep: float, *before: str) -> None:
        self.mark = uuid.uuid4().hex
        self.said = ""
        self.journal = store / "run" / "_journal.jsonl"
        script = textwrap.dedent(RUN).replace("SLEEP", str(sleep))
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", script, str(quick), str(store)],
            env={**os.environ, "EVO_TUNE_TEST": self.mark},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: bytes, times: int) -> None:
        deadline = time.monotonic() + 60
        while not self.journal.exists() or self.journal.read_bytes().count(event) < times:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole foreground group of the terminal gets it."""
        self.said = "stopping after the running trials; press Ctrl-C again to stop at once\n"
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> str:
        out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert errors == self.said
        return out

    def remaining(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("EVO_TUNE_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return psutil.wait_procs(found, 5.0)[1]


@pytest.fixture
def running(quick: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    begun: list[Running] = []

    def start(sleep: float, *before: str) -> Running:
        begun.append(Running(quick, tmp_path / "store", sleep, *before))
        return begun[-1]

    yield start
    for run in begun:
        run.process.kill()
        run.process.communicate()
        for process in run.remaining():
            process.kill()


@pytest.mark.slow
def test_ctrl_c_once_finishes_what_is_in_flight(running: Callable[..., Running], resume: Begin) -> None:
    run = running(0.15)
    run.wait_for(b'"recorded"', 3)
    run.interrupt()
    reason, born, recorded = run.end().split()
    assert (reason, born) == ("interrupted", recorded)
    assert int(recorded) >= 3
    assert run.remaining() == []
    search = resume("run", trials=int(recorded) + 1)
    assert {trial.outcome.status for trial in search.trials} == {"ok"}
    assert len(pd.read_parquet(search.saved.folder)) == int(recorded)
    assert len(drive(search).trials) == int(recorded) + 1
    assert agrees(search)


TIMED = """
import time
from evo_tune import Float, Minimize, SearchSpace
SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["timing"]
def evaluate(genome, context):
    time.sleep(100 if context.timing else 0)
    return {"loss": genome["x"], "seconds": 1.0}
"""


def test_an_interrupt_while_steps_are_timed_waits_for_no_step(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "timed.py").write_text(TIMED)
    search = begin(evaluator=str(tmp_path / "timed.py"), trials=2, generations=None, slots=1)
    began = time.monotonic()
    search.run(lambda search: search.stop(), forecast=True)
    assert time.monotonic() - began < 60
    assert (search.trials, search.saved.ended) == ([], "interrupted")


def test_ctrl_c_twice_stops_at_once(running: Callable[..., Running], resume: Begin) -> None:
    run = running(100.0)
    run.wait_for(b'"proposed"', 2)
    run.interrupt()
    time.sleep(0.5)
    assert run.process.poll() is None, "the first one waits for what is in flight"
    run.interrupt()
    assert run.end() == "interrupted 2 0\n"
    assert run.remaining() == []
    search = resume("run", trials=3)
    assert len(drive(search).trials) == 3
    assert agrees(search)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_once(running: Callable[..., Running], resume: Begin, number: signal.Signals) -> None:
    run = running(100.0)
    run.wait_for(b'"proposed"', 2)
    run.process.send_signal(number)
    assert run.end() == "interrupted 2 0\n"
    assert run.remaining() == []
    assert len(drive(resume("run", trials=3)).trials) == 3


@pytest.mark.slow
def test_nohup_keeps_a_run_alive(running: Callable[..., Running]) -> None:
    run = running(0.15, "nohup")
    run.wait_for(b'"recorded"', 2)
    run.process.send_signal(signal.SIGHUP)
    run.wait_for(b'"recorded"', 6)
    run.process.terminate()
    assert run.process.wait(timeout=60) == 0
