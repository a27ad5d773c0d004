"""One driver per slot: it fetches a job, has the slot do it and hands the outcome over, until there is none.

What slots are doing, which device is sick and what no driver can mend is known here. What the jobs are for, and what
a strategy is told of them, is the business of whoever gives them out.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from evo_tune.dispatch import Slot, SlotClosed
from evo_tune.errors import EvoTuneError, RunError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.store.heartbeat import Busy, Heartbeat

__all__ = ["Drivers", "Job", "Working"]

SICK = 3
"""Crashes in a row after which a device is set aside, if others do well meanwhile."""

TICK = 0.2
"""Seconds between two looks of the main thread at signals and at the live table."""


@dataclass(frozen=True)
class Job:
    """What a slot is given to do.

    Args:
        candidate: To be evaluated.
        what: In words: 'trial 17', 'calibration of trial 17'.
        folder: Name of its folder, where it is not that of its trial.
    """

    candidate: Candidate
    what: str
    folder: str | None = None


@dataclass(frozen=True)
class Working:
    """What a slot is doing.

    Args:
        what: As in `Job`, or '' while it waits.
        since: When it began, in seconds of `time.monotonic`.
    """

    what: str
    since: float


class Drivers:
    """The slots of a run, and the threads that keep them at work.

    Args:
        folder: The run's, for its signs of life.
        stop: Begins nothing new; called where a driver cannot go on.
    """

    def __init__(self, folder: Path, stop: Callable[[], None]) -> None:
        self.slots: list[Slot] = []
        self.working: dict[str, Working] = {}
        """By slot."""
        self.error: EvoTuneError | None = None
        """The first thing that a driver could not mend."""
        self._stop = stop
        self._heart = Heartbeat(folder)
        self._crashes: dict[str, int] = {}
        """By device: crashes since it last did well."""
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def drive(
        self,
        fetch: Callable[[Slot], Job | None],
        take: Callable[[Job, Outcome], None],
        watch: Callable[[], None],
        set_aside: bool = True,
    ) -> None:
        """Have the slots do all jobs, but for those whose device is sick already.

        Args:
            fetch: Returns the next job for a slot, waiting for it; None if there is no more.
            take: Is given what came of a job.
            watch: Called about five times a second, by this thread.
            set_aside: Take no more jobs for a slot whose device crashes them while others do well.
        """

        def drive(slot: Slot) -> None:
            sick = self._crashes.get(slot.device, 0) >= SICK
            while not sick and (job := fetch(slot)) is not None:
                self.working[slot.name] = Working(job.what, time.monotonic())
                outcome = slot.run(job.candidate, job.folder)
                take(job, outcome)
                sick = set_aside and self._sick(slot, outcome)

        self._in_background(drive, watch)

    def waits(self, slot: Slot) -> None:
        """Note that a slot has nothing to do now."""
        self.working[slot.name] = Working("", time.monotonic())

    def _in_background(self, drive: Callable[[Slot], None], watch: Callable[[], None]) -> None:
        """Let one driver per slot run to its end; this thread looks after signals and the live table."""
        drivers = Parallel(n_jobs=len(self.slots), backend="threading", batch_size=1)
        guarded = delayed(self._guarded)
        thread = threading.Thread(target=lambda: drivers(guarded(drive, slot) for slot in self.slots), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(TICK)
                self._heart.beat(self._busy)
                watch()
        except BaseException:
            self._stop()
            self.kill()
            thread.join()
            raise

    def _busy(self) -> list[Busy]:
        rows = []
        for slot in self.slots:
            working = self.working.get(slot.name, Working("", self._started))
            what = f"{working.what} (waits for room)" if slot.waits else working.what
            rows.append(Busy(slot.name, slot.device, what, time.monotonic() - working.since, slot.memory))
        return rows

    def _guarded(self, drive: Callable[[Slot], None], slot: Slot) -> None:
        """Drive a slot: what the driver cannot mend stops the run instead of vanishing in a thread."""
        try:
            drive(slot)
        except SlotClosed:  # killed from the main thread: its candidate is run again on resume
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            self.working.pop(slot.name, None)

    def _fail(self, error: BaseException) -> None:
        """Stop because a driver cannot go on (disk full, a broken strategy); the first error is the one told."""
        with self._lock:
            if self.error is None and isinstance(error, EvoTuneError):
                self.error = error
            elif self.error is None:
                self.error = RunError(f"the run stopped on {type(error).__name__}: {error}")
                self.error.__cause__ = error
        self._stop()

    def _sick(self, slot: Slot, outcome: Outcome) -> bool:
        """Say whether a slot is to be set aside: its device crashes what it is given, while others do well."""
        with self._lock:
            if outcome.status != "crashed":
                self._crashes[slot.device] = 0
                return False
            self._crashes[slot.device] = crashes = self._crashes.get(slot.device, 0) + 1
            if crashes < SICK or not any(n == 0 for device, n in self._crashes.items() if device != slot.device):
                return False
        warnings.warn(
            f"{slot.name} is set aside: {slot.device} crashed {crashes} trainings in a row, the last with "
            f"'{outcome.error}', while other devices did well; the run goes on without it",
            stacklevel=2,
        )
        return True

    def kill(self) -> None:
        """End what is in flight at once."""
        for slot in self.slots:
            slot.kill()

    def close(self) -> None:
        """Let go of the slots; idempotent."""
        if self.slots:
            with ThreadPoolExecutor(len(self.slots)) as threads:  # a worker takes most of a second to leave
                list(threads.map(lambda slot: slot.close(), self.slots))
        self.slots = []
        self.working = {}
        self._heart.stop()
