"""What the training in flight has reported so far, in a file that anybody may read while it goes on.

The worker's watchdog writes it, so no training waits for a disk; it is no result, and nothing is decided by it. It
knows nothing of trainings.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Sequence

from evo_tune.dispatch.slot import names_inside
from evo_tune.trust import inside

__all__ = ["Telling", "telling_name"]

MOST = 200
"""Points of a curve that are written, the last one among them."""

Curve = Sequence[tuple[float, dict[str, float]]]


def telling_name(pid: int) -> str:
    """Return the name of a worker's file among the trials' folders."""
    return f".worker-{pid}.json"


class Telling:
    """The file of one worker.

    Args:
        path: It.
    """

    def __init__(self, path: str) -> None:
        self._run, self._trials, self._name = names_inside(path)
        self._now: tuple[int, Curve] | None = None
        self._written = 0
        self._lock = threading.Lock()

    def begin(self, id: int, curve: Curve) -> None:
        """From now on a trial is in flight; its curve grows meanwhile, in another thread."""
        with self._lock:
            self._now, self._written = (id, curve), 0

    def end(self) -> None:
        """No trial is in flight; its file is taken away, if it has one."""
        with self._lock:
            self._now = None
            if self._written:
                self.remove()

    def publish(self) -> None:
        """Write the curve, if it has grown."""
        with self._lock:
            if self._now is not None and len(self._now[1]) > self._written:
                self._write(self._now)

    def _write(self, now: tuple[int, Curve]) -> None:
        id, curve = now[0], list(now[1])
        self._written = len(curve)
        step = max(1, math.ceil(len(curve) / MOST))
        points = [(fraction, _plain(metrics)) for fraction, metrics in curve[::-1][::step][::-1]]
        data = json.dumps({"trial": id, "curve": points}).encode()
        with contextlib.suppress(OSError, ValueError), inside.folder(self._run, self._trials) as at:
            inside.replace(at, self._name, data, part=f"{self._name}.part", sync=False)

    def remove(self) -> None:
        """Leave no file behind."""
        with contextlib.suppress(OSError):
            inside.remove(self._run, self._trials, self._name)


def _plain(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
