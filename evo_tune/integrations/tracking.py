"""`--track`: a run written for other people's tools while it goes on, by a process of its own.

The process reads the run's folder, as any onlooker may, so the run waits for nothing and a tracker that dies or hangs
costs it a warning. It ends when its standard input does: at the run's end, or with whatever started it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from evo_tune.errors import StoreError
from evo_tune.integrations.converting import parse_track, sink
from evo_tune.store.inflight import Curve, in_flight
from evo_tune.store.journal import JOURNAL
from evo_tune.store.run import Run
from evo_tune.text import one_line

__all__ = ["check_track", "follow", "tracking"]

EVERY = 2.0
"""Seconds between two looks at the run's journal at least."""

REST = 10
"""How many times as long as it wrote a tracker rests: what it takes from the run is a tenth of a core at most."""

PATIENCE = 15.0
"""Seconds that a tracker has at the end of a run for what it has not written yet."""

START = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from evo_tune.integrations.tracking import main; main(sys.argv[1], sys.argv[2])"
)
"""What the process executes: with this process's path, whatever lies in the folder where it was started."""


@contextlib.contextmanager
def tracking(folder: Path, tracks: Sequence[str], patience: float = PATIENCE) -> Iterator[None]:
    """Have a run written for other tools meanwhile.

    Args:
        folder: The run's.
        tracks: What into: tensorboard:DIR or optuna:FILE.
        patience: Seconds that they have at the end.

    Raises:
        UsageError: One is not understood, or its tool is not installed.
    """
    for text in tracks:
        check_track(text)
    trackers = [_Tracker(folder, text) for text in tracks]
    try:
        yield
    finally:
        until = time.monotonic() + patience
        for tracker in trackers:
            tracker.end()
        for tracker in trackers:
            tracker.wait(max(0.0, until - time.monotonic()))


def check_track(text: str) -> None:
    """Refuse what a run cannot be written into.

    Raises:
        OptionError: It is not understood.
        UsageError: Its tool is not installed, or the path is none for it.
    """
    tool, path = parse_track(text)
    sink(tool, path, f"--track {text}")


class _Tracker:
    """One process."""

    def __init__(self, folder: Path, text: str) -> None:
        self._text = text
        self._folder = folder
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (for as long as the process)
        path = [os.path.abspath(place) for place in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", START, os.path.abspath(folder), text, *path],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,  # the terminal's Ctrl-C is the run's
        )
        self._told = threading.Lock()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        """Say so at once if it dies: whoever started a run of a day may still mend it."""
        if self._process.wait() and self._told.acquire(blocking=False):
            self._said.seek(0)
            lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
            self._warn(one_line(lines[-1]) if lines else f"it ended with code {self._process.returncode}")

    def end(self) -> None:
        """Tell it that no more will come."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait so long at most for it to end; then it is ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if self._told.acquire(blocking=False):
                self._warn("it does not answer")
            self._process.kill()
        self._watching.join()
        self._said.close()

    def _warn(self, why: str) -> None:
        tool = self._text.partition(":")[0]
        warnings.warn(
            f"--track {self._text} is given up ({why}); the run goes on, and is saved as ever: "
            f"`evo-tune convert {self._folder} --to {tool}` writes it afterwards",
            stacklevel=2,
        )


def follow(folder: Path, text: str, ended: threading.Event) -> None:
    """Write a run for a tool until it is said to have ended, and then once more.

    Args:
        folder: The run's.
        text: tensorboard:DIR or optuna:FILE.
        ended: Is set at the run's end.

    Raises:
        EvoTuneError: The run cannot be read at its end, or the target is none.
        OSError: The target cannot be written.
    """
    tool, path = parse_track(text)
    into = sink(tool, path, f"--track {text}")
    seen, rest, last = (-1, -1), 0.0, False
    run: Run | None = None
    told: dict[int, Curve] = {}
    while not last:
        last = ended.wait(max(EVERY if seen != (-1, -1) else 0.0, rest))
        now, flying, began = _version(folder), in_flight(folder), time.monotonic()
        if now != seen:
            try:
                run = Run.open(folder)
            except StoreError:  # half a line, or a shared folder that is away
                if last:
                    raise
                continue
        if run is not None and (now != seen or flying != told):
            into.update(run, flying)
            seen, told, rest = now, flying, REST * (time.monotonic() - began)


def _version(folder: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        found = (folder / JOURNAL).lstat()
        return found.st_size, found.st_mtime_ns
    return -1, -1


def main(folder: str, text: str) -> None:
    """Follow a run until standard input ends: what the process does.

    Args:
        folder: The run's.
        text: tensorboard:DIR or optuna:FILE.
    """
    with contextlib.suppress(OSError):
        os.nice(10)  # the trainings go before
    ended = threading.Event()

    def listen() -> None:
        while os.read(0, 1):  # not through sys.stdin, which could not be closed meanwhile
            pass
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        follow(Path(folder), text, ended)
    except OSError as error:
        sys.exit(one_line(f"cannot write {error.filename or text.partition(':')[2]}: {error.strerror or error}"))
    except Exception as error:
        sys.exit(one_line(str(error)) or type(error).__name__)
