"""Where a worker's output goes: into log.txt of the trial in flight. It knows nothing of trainings."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading

from evo_tune.dispatch.slot import keep_log, names_inside
from evo_tune.trust import inside

__all__ = ["Log", "log_name", "sweep"]


class Log:
    """Where the output of the process goes, at the level of file descriptors: C code and subprocesses too.

    A spool file beside the trials' folders takes it. Once something is in it, it becomes log.txt of the
    trial in flight, by a rename: it can be read while it grows, and a silent trial costs nothing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._target: str | None = None
        self._lock = threading.Lock()
        self._open()
        # By lines, because a process that is killed flushes nothing.
        sys.stdout, sys.stderr = (
            open(fd, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 # for life
            for fd in (1, 2)
        )

    def _open(self) -> None:
        try:
            run, *names = names_inside(self._path)
            os.makedirs(run, exist_ok=True)
            with inside.folder(run, names[0], make=True):
                inside.remove(run, *names)
                self._fd, _ = inside.open_to_write(run, *names, append=True)
        except OSError:  # disk full or read-only: that is for the journal to say
            self._fd = os.open(os.devnull, os.O_WRONLY)
        for standard in (1, 2):
            os.dup2(self._fd, standard)

    def begin(self, folder: str) -> None:
        """From now on output belongs to the trial of this folder."""
        self._target = folder

    def publish(self) -> None:
        """Move the spool into the trial's folder if there is something in it."""
        with self._lock:
            if self._target is None or os.fstat(self._fd).st_size == 0:
                return
            with contextlib.suppress(OSError):
                keep_log(self._path, self._target)
            self._target = None

    def end(self) -> None:
        """Output no longer belongs to a trial."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self.publish()
        with self._lock:
            self._target = None
            if os.fstat(self._fd).st_size:
                os.close(self._fd)
                self._open()

    def remove(self) -> None:
        """Leave no spool behind."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def log_name(pid: int) -> str:
    """Return the name of a worker's spool among the trials' folders."""
    return f".worker-{pid}.log"


def sweep(trials_folder: str) -> None:
    """Remove the spools, and last words, of workers that died with their parent, so that nobody has taken them away.

    For whoever has the run to himself: an orphan that still lives loses no more than what it would print.
    """
    run, trials = os.path.split(trials_folder)
    with contextlib.suppress(OSError), inside.folder(run, trials) as at:
        for name in os.listdir(at):
            if re.fullmatch(r"\.worker-[0-9]+\.(log|json|json\.part)", name):
                with contextlib.suppress(OSError):
                    inside.remove(at, name)
