"""Whatever a stranger did to a run's folder, every command ends, with one line of error, and touches nothing else.

`HOSTILE_EXAMPLES=1000 pytest tests/test_hostile_fuzz.py` tries so many folders, other ones each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from evo_tune.cli import cli
from evo_tune.errors import EvoTuneError
from evo_tune.loop.search import Search
from evo_tune.report.page import write_shared_library
from tests.conftest import QUICK
from tests.here import Here
from tests.hostile_folder import MUTATIONS, outside_of, snapshot

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "6"))

SECONDS = 10.0
"""Of computing that a command may take; it takes a tenth of one. On a slow machine it may take more: see `allowed`."""

TIMES = 100
"""By which a command on a hostile folder may compute longer than the same command on the untouched folder."""

WAITING = 60.0
"""Seconds that a command may sleep. Waiting for a processor does not count."""

MEMORY = 2 << 30
"""Bytes that a command may take."""

EXPORT = """
BASELINE = "the mean"

def baseline():
    return {"loss": 0.5}

def export(genome, context, folder):
    (folder / "model.txt").write_text(str(genome))
    return {"loss": 1.0}
"""

COMMANDS = (
    ("list",),
    ("list", "--format", "json"),
    ("show", "run"),
    ("show", "run", "--format", "csv"),
    ("best", "run", "--format", "json"),
    ("status", "run"),
    ("report", "run"),
    ("verify", "run"),
    ("export", "run", "out"),
    ("run", "quick.py", "--name", "learnt", "--learn-from", "run", "--trials", "3", "--final-seeds", "0"),
    ("resume", "run", "--as", "copy", "--trials", "6", "--final-seeds", "0", "--accept-changes", "--slots", "1"),
    ("resume", "run", "--trials", "6", "--final-seeds", "0", "--accept-changes", "--slots", "1"),
    ("resume", "run", "--trials", "8", "--accept-changes", "--slots", "2"),
    ("show", "run"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with two runs in its store; beside it what nobody may touch, and code that leaves a mark."""
    top = tmp_path_factory.mktemp("hostile")
    home, outside = top / "home", top / "outside"
    home.mkdir()
    (home / "quick.py").write_text(QUICK + EXPORT)
    evil = f"open({str(top / 'ran')!r}, 'w').close()\n" + QUICK
    before = os.getcwd()
    os.chdir(home)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(top / "state"))
        patched.setattr("evo_tune.loop.slots.open_slots", lambda task, *_: [Here(task)])
        for name in ("base", "other"):
            search = Search(
                str(home / "quick.py"), strategy="ga", population=3, trials=6, final_seeds=1, store="store", name=name
            )
            search.run()
        write_shared_library(home / "store")  # so that no report has to
        trial = home / "store" / "base" / "_trials" / "000003"
        trial.mkdir(parents=True)
        (trial / "log.txt").write_text("x")
        (home / "store" / "base").rename(top / "base")
        (top / "base" / "evil.py").write_text(evil)
        slot = {"slot": "a", "device": "cpu", "work": "", "seconds": 1, "memory": None}
        sign = {"pid": 1, "host": platform.node(), "time": time.time(), "slots": [slot]}
        (top / "base" / "_heartbeat.json").write_text(json.dumps(sign))
        journal = top / "base" / "_journal.jsonl"
        lines = journal.read_text().splitlines(keepends=True)
        journal.write_text("".join(line for line in lines if '"ended"' not in line))  # as if it went on
        (outside / "folder" / "000003").mkdir(parents=True)
        for file in ("precious", "folder/precious", "folder/000003/precious", "folder/_run.json", "folder/log.txt"):
            (outside / file).write_text("precious")
        (outside / "evil.py").write_text(evil)
        os.mkfifo(outside / "fifo")
        yield home
    os.chdir(before)


class Hangs(BaseException):
    """A command takes too long; nothing that it catches."""


def asleep(since: float) -> float:
    """Return the seconds since a time in which this thread neither computed nor waited for a processor."""
    delayed = Path("/proc/thread-self/schedstat")
    ready = int(delayed.read_text().split()[1]) / 1e9 if delayed.exists() else 0.0
    return time.monotonic() - time.thread_time() - ready - since


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Let what is done here neither compute longer than this, nor sleep for long, nor take all memory."""
    began, computed = asleep(0.0), time.process_time()

    def ring(number: int, frame: Any) -> None:
        if number == signal.SIGPROF or asleep(began) > WAITING:
            took = f"{time.process_time() - computed:.1f} s of computing, {asleep(began):.1f} s asleep"
            raise Hangs(took + "\n" + "".join(traceback.format_stack(frame)[-8:]))

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = [signal.signal(number, ring) for number in (signal.SIGALRM, signal.SIGPROF)]
    try:
        if pages:
            most = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
        signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])
        resource.setrlimit(resource.RLIMIT_AS, limits)


def ended(words: tuple[str, ...], seconds: float) -> tuple[int, list[str], str]:
    """Type a command; return its exit code, each of its messages, and what it printed."""
    with warnings.catch_warnings(record=True) as told, bounded(seconds):
        warnings.simplefilter("always")
        try:
            done = CliRunner().invoke(cli, [*words, "--store", "store"])
        except Hangs as hangs:
            raise AssertionError(f"{' '.join(words)} takes too long:\n{hangs}") from None
    messages = [str(one.message) for one in told]
    if isinstance(done.exception, EvoTuneError):
        return done.exception.exit_code, [*messages, str(done.exception)], done.output
    if isinstance(done.exception, OSError):  # as `main` says it
        return 1, [*messages, f"{done.exception.strerror}: cannot continue"], done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, messages, done.output


def fresh(home: Path) -> None:
    """Put an untouched run into the store, and remove what commands have made of the last one."""
    for folder in ("store/run", "store/copy", "store/learnt", "out"):
        shutil.rmtree(home / folder, ignore_errors=True)
    shutil.copytree(home.parent / "base", home / "store" / "run")


@pytest.fixture(scope="module")
def allowed(home: Path) -> tuple[float, ...]:
    """Return the seconds of computing that each of COMMANDS may take: measured on the untouched run, here and now."""
    fresh(home)
    took = []
    for words in COMMANDS:
        began = time.process_time()
        ended(words, WAITING)
        took.append(time.process_time() - began)
    return tuple(max(SECONDS, TIMES * one) for one in took)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 12,
    phases=[Phase.generate, Phase.shrink],  # the phase that explains traces each line: commands are ten times as slow
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(MUTATIONS, min_size=1, max_size=3))
@pytest.mark.slow
@pytest.mark.timeout(240 + 60 * EXAMPLES)
def test_every_command_ends_and_touches_nothing_outside(
    home: Path, allowed: tuple[float, ...], mutations: list[tuple[Callable[..., None], Any]]
) -> None:
    top, store = home.parent, home / "store"
    run = store / "run"
    own = (run, store / "copy", store / "learnt", home / "out")
    fresh(home)
    evil = (run / "evil.py").read_bytes()
    for change, *values in mutations:
        change(run, *values)
    before = snapshot(top, (*own, top / "state"))
    for words, seconds in zip(COMMANDS, allowed, strict=True):
        code, messages, printed = ended(words, seconds)
        note(f"{' '.join(words)}: {code} {messages}")
        assert code in (0, 1, 2), (words, messages, printed)
        assert all(len(message.splitlines()) == 1 for message in messages), (words, messages)
        assert all(len(message) < 2000 for message in messages), (words, messages)
        if words[0] == "list":
            assert code == 0, messages
            assert "other" in printed, "the other runs are shown all the same"
        assert snapshot(top, (*own, top / "state")) == before, words
    assert outside_of(run).joinpath("precious").read_text() == "precious"
    assert evil.startswith(b"open(")
