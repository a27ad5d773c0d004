"""Heartbeat of a running session: the activity of its slots and the curves of running trials, for other processes.

These files are not part of the saved run. If one is lost or damaged, only the live view is affected.
"""

import contextlib
import math
import os
import platform
import re
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from evo_tune.store.manifest import Finite, Share, Whole
from evo_tune.store.run_folders import HEARTBEAT, TRIALS, read_json_file
from evo_tune.trust import safe_files

PART = "_heartbeat.part"

# Seconds between two heartbeats.
EVERY = 2.0

# Seconds without a heartbeat after which a run on another machine counts as dead or unreachable.
LONG = 15.0


# Maximum size of a heartbeat file in bytes.
LARGEST = 1 << 22

Name = Annotated[str, Meta(max_length=1000)]


@dataclass(frozen=True)
class SlotWork:
    """The present work of a slot.

    Args:
        slot: Name of the slot.
        device: Device of the slot.
        work: 'trial 17', or '' while it waits.
        seconds: Time since that work began. Unit: s.
        memory: Resident memory of the worker; null if unknown. Unit: bytes.
    """

    slot: Name
    device: Name
    work: Name
    seconds: Finite
    memory: Whole | None


class Beat(Struct):
    """A heartbeat, as its file has it; other versions may have more fields.

    Args:
        pid: Process id of the run.
        host: Machine of the run.
        time: Time of the heartbeat, in seconds since 1970.
        slots: Work of the slots at that time.
        started: Start of the process as in /proc, which tells it from a later one with its id; '' if unknown.
    """

    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    host: Name
    time: Finite
    slots: tuple[SlotWork, ...]
    started: Annotated[str, Meta(max_length=20)] = ""

    @property
    def age(self) -> float:
        """Time since the heartbeat, in seconds; the clocks of two machines may differ a little."""
        return max(0.0, time.time() - self.time)

    @property
    def alive(self) -> bool:
        """Whether the run counts as running."""
        if self.host != platform.node():
            return self.age < LONG
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # a process of another user
            pass
        now = _process_start(self.pid)
        return not (now and self.started) or now == self.started


class Heartbeat:
    """Writer of the heartbeat file.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = 0.0

    def beat(self, look: Callable[[], list[SlotWork]]) -> None:
        """Write a heartbeat if the last one is old enough.

        Args:
            look: Returns the present work of each slot.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        beat = Beat(os.getpid(), platform.node(), time.time(), tuple(look()), _process_start(os.getpid()))
        with contextlib.suppress(OSError, ValueError):  # a name that is not valid UTF-8
            data = msgspec.json.encode(beat)
            safe_files.replace(self._folder, HEARTBEAT, data, part=PART, sync=False)

    def stop(self) -> None:
        """Remove the heartbeat file and write no more, because the journal records the end of the session."""
        self._next = math.inf
        with contextlib.suppress(OSError):
            safe_files.remove(self._folder, HEARTBEAT)


def last_beat(folder: Path, finished_ids: Container[int] = ()) -> Beat | None:
    """Return the last heartbeat of a run; None if there is none.

    Args:
        folder: Folder of the run.
        finished_ids: Ids of the trials with a result: a slot that trained one at the heartbeat does so no more.
    """
    if (beat := read_json_file(folder, HEARTBEAT, Beat, LARGEST)) is None:
        return None

    def now(slot_work: SlotWork) -> SlotWork:
        trial = re.match(r"trial (\d{1,15})\b", slot_work.work)
        return replace(slot_work, work="") if trial and int(trial[1]) in finished_ids else slot_work

    return msgspec.structs.replace(beat, slots=tuple(map(now, beat.slots)))


def _process_start(pid: int) -> str:
    """Return the start of a process in clock ticks since the machine started; '' without /proc."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19].decode()  # the name before may have spaces
    return ""


# Maximum size of the file of a curve, in bytes.
LARGEST_CURVE = 1 << 20

# Maximum number of workers whose curves are read.
MOST = 1000

# Points of a curve: fraction of a full training, and the metrics there.
Curve: TypeAlias = tuple[tuple[Share, dict[str, Finite | None]], ...]


class _SavedCurve(Struct):
    trial: Whole
    curve: Curve


def running_curves(folder: Path) -> dict[int, Curve]:
    """Return the known curves of a run's running trials, by id."""
    curves: dict[int, Curve] = {}
    with contextlib.suppress(OSError), safe_files.folder(folder, TRIALS) as descriptor:
        names = sorted(name for name in os.listdir(descriptor) if re.fullmatch(r"\.worker-[0-9]{1,10}\.json", name))
        for name in names[:MOST]:
            if (saved_curve := read_json_file(descriptor, name, _SavedCurve, LARGEST_CURVE)) is not None:
                curves[saved_curve.trial] = saved_curve.curve
    return curves
