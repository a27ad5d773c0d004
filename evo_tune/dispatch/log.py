"""Files that a worker writes while it trains: its output (log.txt), and the curve so far for live display.

Neither is a result, and no decision uses them.
"""

import contextlib
import json
import math
import os
import re
import sys
import threading
from collections.abc import Sequence

from evo_tune.dispatch.slot import keep_log, names_inside
from evo_tune.trust import safe_files

# Bytes of a log above which its middle is left out, and bytes that stay of its beginning and of its end. The journal is
# on the same disk: a training that prints without end must not fill it.
LONGEST, KEPT = 1 << 24, 1 << 22

LEFT_OUT = b"\n[evo-tune has left out a part of the output here: a log has at most 16 MiB]\n"


class Log:
    """Redirection of this process's output into files, by file descriptor: C code and subprocesses are included.

    The output goes to a spool file in the trials' folder. Once the spool has content, a rename makes it log.txt of
    the current trial. So the log can be read while it grows, and a silent trial costs nothing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._target: str | None = None
        self._lock = threading.Lock()
        self._open()
        # Line buffering, because a killed process flushes nothing.
        sys.stdout, sys.stderr = (
            open(fd, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 # open until exit
            for fd in (1, 2)
        )

    def _open(self) -> None:
        try:
            run, *names = names_inside(self._path)
            os.makedirs(run, exist_ok=True)
            with safe_files.folder(run, names[0], make=True):
                safe_files.remove(run, *names)
                self._fd, _ = safe_files.open_to_write(run, *names, append=True)
        except OSError:  # disk full or read-only: the journal reports it
            self._fd = os.open(os.devnull, os.O_WRONLY)
        for standard in (1, 2):
            os.dup2(self._fd, standard)

    def begin(self, folder: str) -> None:
        """Assign further output to the trial of this folder."""
        self._target = folder

    def publish(self) -> None:
        """Move the spool into the trial's folder if it is not empty."""
        with self._lock:
            if self._target is None or os.fstat(self._fd).st_size == 0:
                return
            with contextlib.suppress(OSError):
                keep_log(self._path, self._target)
            self._target = None

    def shorten(self) -> None:
        """Leave out the middle of a log that has become too long; further output is appended."""
        with self._lock, contextlib.suppress(OSError):
            size = os.fstat(self._fd).st_size
            if size > LONGEST:
                end = os.pread(self._fd, KEPT, size - KEPT)
                os.ftruncate(self._fd, KEPT)
                os.write(self._fd, LEFT_OUT + end)

    def end(self) -> None:
        """Assign further output to no trial."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self.publish()
        self.shorten()
        with self._lock:
            self._target = None
            if os.fstat(self._fd).st_size:
                os.close(self._fd)
                self._open()

    def remove(self) -> None:
        """Remove the spool."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def worker_file_name(pid: int, kind: str) -> str:
    """Return the name of a file of a worker process, in the folder of all trials.

    Args:
        pid: Process id of the worker.
        kind: 'log' for its spool; 'json' for the learning curve that it writes.
    """
    return f".worker-{pid}.{kind}"


def remove_stale_files(trials_folder: str) -> None:
    """Remove the spools and curves of workers that died together with their parent.

    Call it only while the run is locked: a live worker would lose its output.
    """
    run, trials = os.path.split(trials_folder)
    with contextlib.suppress(OSError), safe_files.folder(run, trials) as folder:
        for name in os.listdir(folder):
            if re.fullmatch(r"\.worker-[0-9]+\.(log|json|json\.part)", name):
                with contextlib.suppress(OSError):
                    safe_files.remove(folder, name)


# Maximum number of curve points to write; the last point is always written.
MOST = 200

Curve = Sequence[tuple[float, dict[str, float]]]


class CurveFile:
    """The file with the curve of a worker's current trial.

    Args:
        path: Absolute path of the file.
    """

    def __init__(self, path: str) -> None:
        self._run, self._trials, self._name = names_inside(path)
        self._now: tuple[int, Curve] | None = None
        self._written = 0
        self._lock = threading.Lock()

    def begin(self, id: int, curve: Curve) -> None:
        """Follow the curve of trial `id`, to which another thread adds points."""
        with self._lock:
            self._now, self._written = (id, curve), 0

    def end(self) -> None:
        """Stop following a trial, and remove its file."""
        with self._lock:
            self._now = None
            if self._written:
                self.remove()

    def publish(self) -> None:
        """Write the curve, if it has grown."""
        with self._lock:
            if self._now is not None and len(self._now[1]) > self._written:
                id, curve = self._now[0], list(self._now[1])
                self._written = len(curve)
                step = max(1, math.ceil(len(curve) / MOST))
                points = [
                    (fraction, {name: value if math.isfinite(value) else None for name, value in metrics.items()})
                    for fraction, metrics in curve[::-1][::step][::-1]
                ]
                data = json.dumps({"trial": id, "curve": points}).encode()
                with contextlib.suppress(OSError, ValueError), safe_files.folder(self._run, self._trials) as folder:
                    safe_files.replace(folder, self._name, data, part=f"{self._name}.part", sync=False)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            safe_files.remove(self._run, self._trials, self._name)
