"""Signs of life of a running session: what it is doing, and the curves of running trials, for other processes.

They are no part of the saved run: a lost or damaged file costs an observer its view and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from evo_tune.store.places import HEARTBEAT, TRIALS
from evo_tune.store.schema import Finite, Share, Whole
from evo_tune.trust import inside

__all__ = ["Beat", "Busy", "Curve", "Heartbeat", "in_flight", "last_beat"]

PART = "_heartbeat.part"

EVERY = 2.0
"""Seconds between two signs."""

LONG = 15.0
"""Seconds after which a run on another machine that gave none is thought dead, or its machine away."""


LARGEST = 1 << 22
"""Bytes of a sign at most."""

Name = Annotated[str, Meta(max_length=1000)]


@dataclass(frozen=True)
class Busy:
    """The present work of a slot.

    Args:
        slot: Name of the slot.
        device: Device of the slot.
        what: 'trial 17', or '' while it waits.
        seconds: Time since that work began. Unit: s.
        memory: Resident memory of the worker; null if unknown. Unit: bytes.
    """

    slot: Name
    device: Name
    what: Name
    seconds: Finite
    memory: Whole | None


class _Sign(Struct):
    """The file; other versions may have more in it."""

    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    host: Name
    time: Finite
    slots: tuple[Busy, ...]


class Heartbeat:
    """Writes the signs.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        sign = _Sign(os.getpid(), platform.node(), time.time(), tuple(look()))
        with contextlib.suppress(OSError, ValueError):  # a name that UTF-8 cannot hold
            data = msgspec.json.encode(sign)
            inside.replace(self._folder, HEARTBEAT, data, part=PART, sync=False)

    def stop(self) -> None:
        """Take the last sign away, and give no more: the run has ended, and says so itself."""
        self._next = math.inf
        with contextlib.suppress(OSError):
            inside.remove(self._folder, HEARTBEAT)


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
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            return True
        return True


def last_beat(folder: Path) -> Beat | None:
    """Return a run's last sign of life; None if there is none."""
    try:
        sign = msgspec.json.decode(inside.read(folder, HEARTBEAT, limit=LARGEST), type=_Sign)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return Beat(sign.pid, sign.host, max(0.0, time.time() - sign.time), sign.slots)


LARGEST_CURVE = 1 << 20
"""Bytes of one at most."""

MOST = 1000
"""Workers that are looked at."""

Curve: TypeAlias = tuple[tuple[Share, dict[str, Finite | None]], ...]
"""Fractions of a full training, and the metrics at each."""


class _Told(Struct):
    trial: Whole
    curve: Curve


def in_flight(folder: Path) -> dict[int, Curve]:
    """Return the curve of each trial of a run that is in flight, as far as it is known, by its id."""
    found: dict[int, Curve] = {}
    try:
        with inside.folder(folder, TRIALS) as at:
            names = sorted(name for name in os.listdir(at) if re.fullmatch(r"\.worker-[0-9]{1,10}\.json", name))
            for name in names[:MOST]:
                try:
                    told = msgspec.json.decode(inside.read(at, name, limit=LARGEST_CURVE), type=_Told)
                except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
                    continue
                found[told.trial] = told.curve
    except OSError:
        return {}
    return found
