"""A run's signs of life in its own folder, so that `evo-tune status` can tell from anywhere what it is doing.

The file is no part of what is saved: it is written without waiting for the disk, a write that fails costs nothing,
and a run that ends takes it away. A run that was killed leaves its last one, whose age tells it. Knows neither
slots nor strategies.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["HEARTBEAT", "Beat", "Busy", "Heartbeat", "last_beat"]

HEARTBEAT = "_heartbeat.json"

EVERY = 2.0
"""Seconds between two signs."""

LONG = 15.0
"""Seconds after which a run on another machine that gave none is thought dead, or its machine away."""


@dataclass(frozen=True)
class Busy:
    """What a slot is doing.

    Args:
        slot: Its name.
        device: Its device.
        what: 'trial 17', or '' while it waits.
        seconds: For how long.
        memory: Resident memory of its worker, bytes; None if unknown.
    """

    slot: str
    device: str
    what: str
    seconds: float
    memory: int | None


class Heartbeat:
    """Writes the signs.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / HEARTBEAT
        self._next = 0.0

    def beat(self, look: Callable[[], list[Busy]]) -> None:
        """Give a sign, if the last one is old enough.

        Args:
            look: Says what the slots are doing.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        sign = {"pid": os.getpid(), "host": platform.node(), "time": time.time(), "slots": [asdict(b) for b in look()]}
        part = self._path.with_suffix(".part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(sign), encoding="utf-8")
            part.replace(self._path)

    def stop(self) -> None:
        """Take the last sign away, and give no more: the run has ended, and says so itself."""
        self._next = math.inf
        with contextlib.suppress(OSError):
            self._path.unlink()


@dataclass(frozen=True)
class Beat:
    """A sign of life.

    Args:
        pid: The run's process.
        host: Its machine.
        age: Seconds since; by two machines' clocks, which may differ a little.
        slots: What they were doing.
    """

    pid: int
    host: str
    age: float
    slots: tuple[Busy, ...]

    @property
    def alive(self) -> bool:
        """Whether the run may be taken to be running."""
        if self.host != platform.node():
            return self.age < LONG
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return True


def last_beat(folder: Path) -> Beat | None:
    """Return a run's last sign of life; None if there is none."""
    try:
        sign = json.loads((folder / HEARTBEAT).read_text(encoding="utf-8"))
        slots = tuple(Busy(**{name: row[name] for name in Busy.__dataclass_fields__}) for row in sign["slots"])
        age = max(0.0, time.time() - float(sign["time"]))
        return Beat(int(sign["pid"]), str(sign["host"]), age, slots)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
