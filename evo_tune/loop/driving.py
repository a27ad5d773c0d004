"""One driver per slot: it fetches a job, runs it in the slot and reports the outcome, until no job is left.

The module knows the activity of each slot and the outcomes that are held back (`health` decides). It handles errors of
drivers, Ctrl-C, SIGTERM and SIGHUP. It does not know the purpose of the jobs.
"""

import contextlib
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from joblib import Parallel, delayed

from evo_tune.dispatch.slot import UNKNOWN, NoMachine, Slot, SlotClosed, SlotInterrupted, SlotUnfit
from evo_tune.errors import EvoTuneError, RunError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.health import Health, Verdict
from evo_tune.store.heartbeat import Heartbeat, SlotWork
from evo_tune.store.run import TRIALS

# Seconds between two checks of signals and lines of progress by the main thread.
TICK = 0.2


@dataclass(frozen=True)
class Job:
    """A job for a slot.

    Args:
        candidate: Candidate to evaluate.
        description: Description: 'trial 17', 'final comparison, trial 17'.
        folder: Name of the job's folder, if it differs from that of the trial.
    """

    candidate: Candidate
    description: str
    folder: str | None = None


# Returned by a source that has no more jobs.
NO_MORE_JOBS: Literal["no more jobs"] = "no more jobs"

# A job; None if there is none now; NO_MORE_JOBS if there will be no more.
JobOrEnd = Job | Literal["no more jobs"] | None


@dataclass(frozen=True)
class Working:
    """Activity of a slot.

    Args:
        description: Description as in `Job`; '' while it waits.
        since: Start of the activity, in seconds of `time.monotonic`.
    """

    description: str
    since: float


class Drivers:
    """The slots of a run and the threads that drive them.

    Args:
        folder: Folder of the run.
        stop: Function that prevents new jobs; called if a driver fails.
        stopping: Returns whether no new job may start.
        changed: Lock of the run, notified when there may be new jobs.
    """

    def __init__(
        self, folder: Path, stop: Callable[[], None], stopping: Callable[[], bool], changed: threading.Condition
    ) -> None:
        self.slots: list[Slot] = []
        # Activity by name of the slot.
        self.working: dict[str, Working] = {}
        # First error of a driver.
        self.error: EvoTuneError | None = None
        self.health = Health()
        self._folder = folder
        self._stop = stop
        self._stopping = stopping
        self._heart = Heartbeat(folder)
        self._changed = changed
        # Slots that take jobs, by name.
        self._at_work: dict[str, Slot] = {}
        # Names of the slots that are running a job.
        self._busy_slots: set[str] = set()
        # Jobs for another slot, because their outcome was held back or missing.
        self._put_back_jobs: list[Job] = []
        # Whether no new jobs will come; `_put_back_jobs` may still have some.
        self._over = False
        # Whether the time for these jobs is over.
        self._time_is_over = False
        # Whether any slot has asked for a job.
        self._has_asked = False
        # Devices that were already reported as set aside.
        self._named: set[str] = set()
        self._started = time.monotonic()

    def drive(
        self,
        fetch: Callable[[Slot], JobOrEnd],
        take: Callable[[Job, Outcome], None],
        watch: Callable[[], None],
        default: Callable[[], Candidate | None] | None = None,
        expired: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run all jobs in the slots, except slots whose device is set aside; this thread handles signals.

        Args:
            fetch: Returns the next job for a slot.
            take: Function that is given each job with its outcome.
            watch: Function that this thread calls about five times a second.
            default: Returns the candidate of the default genome once it has succeeded. Without it every outcome is
                taken as it is; with it, a failure that may be caused by the device is held back (see `health`).
            expired: Returns whether the time for these jobs is over: running ones are then ended without an outcome.
        """
        self._at_work = {slot.name: slot for slot in self.slots if slot.device not in self.health.aside}
        self._put_back_jobs.clear()
        self._over = self._time_is_over = self._has_asked = False
        drivers = Parallel(n_jobs=len(self.slots), backend="threading", batch_size=1)
        self._fetch_job, self._take, self._default = fetch, take, default
        tasks = [delayed(self._drive_slot)(slot) for slot in self.slots]
        thread = threading.Thread(target=drivers, args=(tasks,), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(TICK)
                self._heart.beat(self._slot_work)
                if self._time_is_over or expired():  # end the running jobs, and start no others
                    with self._changed:
                        self._time_is_over = True
                        busy_slots = [slot for slot in self.slots if slot.name in self._busy_slots]
                        self._changed.notify_all()
                    for slot in busy_slots:
                        slot.interrupt()
                watch()
        except BaseException:
            self._stop()
            self.kill()
            thread.join()
            raise

    def _drive_slot(self, slot: Slot) -> None:
        """Run jobs in a slot until none is left; an error stops the run instead of being lost in its thread."""
        try:
            while (job := self._next(slot)) is not None:
                try:
                    outcome = self._evaluate(slot, job)
                    if outcome is not None:
                        self._take(job, outcome)
                except SlotUnfit as error:
                    self._put_back(job)
                    if not self._leave(slot, str(error)):
                        return
                except NoMachine:
                    self._put_back(job)
                except SlotInterrupted:
                    pass  # it has no result; a resume trains it
                finally:
                    with self._changed:
                        self._busy_slots.discard(slot.name)
                        self._changed.notify_all()
        except SlotClosed:  # killed from the main thread: its candidate is run again on resume
            pass
        except BaseException as error:  # disk full, a broken strategy; the first error is reported
            with self._changed:
                if self.error is None and isinstance(error, EvoTuneError):
                    self.error = error
                elif self.error is None:
                    self.error = RunError(f"the run stopped on {type(error).__name__}: {error}")
                    self.error.__cause__ = error
            self._stop()
        finally:
            self.working.pop(slot.name, None)

    def beat(self) -> None:
        """Write a heartbeat for a run that is driven by hand; with slots, the main thread writes it."""
        if not self.slots:
            self._heart.beat(list)

    def _next(self, slot: Slot) -> Job | None:
        """Wait for the next job of a slot and return it; None if there are no more jobs."""
        while not (self._stopping() or self._time_is_over):  # jobs held back then have no result; a resume trains them
            ready = slot.available
            if slot.device in self.health.aside:
                if not self._leave(slot, self.health.aside[slot.device]):
                    return None
                continue
            with self._changed:
                # A slot without a machine does not ask: its candidate would be proposed before known results are used.
                # But one asks at the start, so that a complete run ends without a machine; its job waits for another.
                fetched = self._fetch(slot) if ready or not self._has_asked else None
                self._has_asked = True
                if isinstance(fetched, Job) and not ready:
                    self._put_back_jobs.append(fetched)
                    fetched = None
                if isinstance(fetched, Job):
                    self._busy_slots.add(slot.name)
                    self.working[slot.name] = Working(fetched.description, time.monotonic())
                    return fetched
                self._over = self._over or fetched == NO_MORE_JOBS
                if self._over and not (self._busy_slots or self._put_back_jobs):  # a running job may be put back
                    break
                self.working[slot.name] = Working("", time.monotonic())
                self._changed.wait(timeout=1.0)
        with self._changed:
            self._changed.notify_all()
        return None

    def _fetch(self, slot: Slot) -> JobOrEnd:
        """Return the next job of a slot; jobs that another slot gave back come first."""
        for job in self._put_back_jobs:
            if self.health.may_try(slot.device, job.candidate.id, self._devices()):
                self._put_back_jobs.remove(job)
                return job
        return self._fetch_job(slot) if self.health.may_work(slot.device) else None

    def _devices(self) -> set[str]:
        """Return the devices that take jobs."""
        return {slot.device for slot in self._at_work.values()} - {UNKNOWN}

    def _evaluate(self, slot: Slot, job: Job) -> Outcome | None:
        """Run a job in a slot and return its outcome; None if the outcome is held back."""
        outcome = slot.run(job.candidate, job.folder)
        if self._default is None or job.candidate.baseline:
            return outcome
        device, id = slot.device, job.candidate.id
        with self._changed:
            candidate = self._default()
            other_devices = self._devices() - {device}
            verdict = self.health.record_outcome(device, id, outcome, other_devices, candidate is not None)
        if verdict is Verdict.TEST and candidate is not None:
            self.working[slot.name] = Working(f"test of {device} by the default", time.monotonic())
            test_outcome = slot.run(candidate, folder := f"test-{slot.name.replace(' ', '-')}")
            shutil.rmtree(self._folder / TRIALS / folder, ignore_errors=True)
            with self._changed:
                verdict = self.health.record_test(device, id, test_outcome)
        if verdict is Verdict.HOLD:
            self._put_back(job)
        return None if verdict is Verdict.HOLD else outcome

    def _put_back(self, job: Job) -> None:
        with self._changed:
            self._put_back_jobs.append(job)
            self._changed.notify_all()

    def _leave(self, slot: Slot, why: str) -> bool:
        """Take a slot off its device, which is set aside; return whether it gets another one.

        Raises:
            RunError: No slot is left.
        """
        device = slot.device
        if slot.move(why):
            return True
        with self._changed:
            self._at_work.pop(slot.name, None)
            self._changed.notify_all()
            if not self._at_work:
                raise RunError(f"no device is left to train on: {why}")
            named, self._named = device in self._named, {*self._named, device}
        if not (named and device in self.health.aside):
            name = device if device in self.health.aside else slot.name
            warnings.warn(f"{name} is set aside: {why}; the run continues without it", stacklevel=2)
        return False

    def _slot_work(self) -> list[SlotWork]:
        rows = []
        for slot in self.slots:
            working = self.working.get(slot.name, Working("", self._started))
            description = f"{working.description} (waits for room)" if slot.waits else working.description
            rows.append(SlotWork(slot.name, slot.device, description, time.monotonic() - working.since, slot.memory))
        return rows

    def kill(self) -> None:
        """Kill all running jobs, in parallel, because a machine that does not answer delays its own kill."""
        with ThreadPoolExecutor(len(self.slots) or 1) as threads:
            list(threads.map(lambda slot: slot.kill(), self.slots))

    def close(self) -> None:
        """Close the slots; idempotent."""
        with ThreadPoolExecutor(len(self.slots) or 1) as threads:  # a worker takes most of a second to leave
            list(threads.map(lambda slot: slot.close(), self.slots))
        self.slots = []
        self.working = {}
        self._heart.stop()


@contextlib.contextmanager
def handle_interrupts(stop: Callable[[], None], kill: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first Ctrl-C, and `kill` on the second, on SIGTERM, or on SIGHUP (a closed terminal).

    An ignored SIGHUP (`nohup`) stays ignored.
    Outside the main thread (a notebook's worker, a test) it does nothing, because Python allows no handlers there.

    Args:
        stop: Function that prevents new trials.
        kill: Function that stops running trials at once.
    """
    interrupted, handlers_before = False, dict[int, Any]()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        act = kill if interrupted or number != signal.SIGINT else stop
        interrupted = True
        # Not in the handler itself: the interrupted code may hold the same lock.
        threading.Thread(target=act, daemon=True).start()

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    handlers_before[number] = signal.signal(number, handle)
        yield
    finally:
        for changed_number, handler in handlers_before.items():
            signal.signal(changed_number, signal.SIG_DFL if handler is None else handler)  # None: not Python's
