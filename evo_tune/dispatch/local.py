"""A slot on this machine: one long-lived worker process, pinned to its device and replaced when it breaks.

A slot that has lost a worker keeps a spare one, which imports the evaluator while the other trains. So repeated crashes
do not wait for imports. This module does retries and replaces workers. `process` controls one process, and `worker` is
the code inside it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.process import Process, WorkerLost
from evo_tune.dispatch.slot import Slot, SlotClosed, SlotInterrupted, SlotUnfit, Task, keep_log
from evo_tune.genome.trial import Candidate, Outcome

LOADING = 300.0
"""Seconds that the evaluator's import may take, if there is a timeout; a longer timeout replaces it."""

DYING = 10.0
"""Seconds to wait for the end of a killed worker; one that hangs in a driver may never end."""

GRACE = 3.0
"""Seconds that an idle worker has to exit by itself, exit handlers included."""


class LocalSlot(Slot):
    """A slot on this machine.

    Args:
        name: Name in messages: 'slot 0'.
        device: Device that its worker is pinned to.
        task: Settings common to its candidates.
        timeout: Seconds after which an evaluation is killed; None means no limit.
        retries: Number of times that a crashed evaluation is repeated.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        task: Task,
        timeout: float | None = None,
        retries: int = 0,
    ) -> None:
        self.name = name
        self.device = device.name
        self._pinned = device
        self._task = task
        self._timeout = timeout
        self._retries = retries
        self._lock = threading.Lock()
        self._closed = False
        self._interrupted = False
        self._worker: Process | None = None
        self._spare: Process | None = None
        self._lost_one = False
        self._stuck: list[Process] = []
        """Workers that could not be killed."""
        self._told = False
        """Whether the warning about workers that keep memory was given."""

    @property
    def closed(self) -> bool:
        """Whether it was closed or killed; it cannot be reopened."""
        return self._closed

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return None if worker is None or worker.is_dead() else worker.pid

    @property
    def memory(self) -> int | None:
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):  # the worker is gone, or this is not Linux
            return None

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        self._interrupted = False
        for _ in range(self._retries + 1):
            outcome = self._attempt(candidate, folder)
            if outcome.status != "crashed":
                break
        return outcome

    def _attempt(self, candidate: Candidate, folder: str | None) -> Outcome:
        began = time.monotonic()
        try:
            worker = self._ready()
            began = time.monotonic()
            reply = worker.work({"candidate": vars(candidate), "folder": folder}, self._timeout)
        except WorkerLost as lost:
            stuck_pid = self._discard(self._task.folder(candidate.id if folder is None else folder))
            if self._closed:
                raise SlotClosed(f"{self.name} was closed") from None
            if stuck_pid is not None:  # it may keep the device's memory, and write to the next attempt's folder
                raise SlotUnfit(
                    f"{self.name}: its worker {stuck_pid} on {self.device} cannot be killed ({lost}): it hangs in the "
                    "system, a driver or a file server; look there"
                ) from None
            if self._interrupted:
                raise SlotInterrupted(f"{self.name} was interrupted") from None
            return Outcome(lost.status, seconds=time.monotonic() - began, device=self.device, error=str(lost))
        except BaseException:  # Ctrl-C in this thread: stop the worker too
            self._discard(None)
            raise
        if "unfit" in reply:
            raise SlotUnfit(f"{self.name}: {reply['unfit']}")
        if reply["replace"]:
            self._discard(None)
        if reply["kept"] and not self._told:
            self._told = True
            warnings.warn(
                f"{self.name}: its worker kept {reply['kept'] / 2**20:.0f} MiB of its evaluations, so a new one has "
                f"taken its place, and will again: look for what evaluate of {self._task.name} leaves behind",
                stacklevel=2,
            )
        return Outcome(**{**reply["outcome"], "device": self.device})

    def _ready(self) -> Process:
        """Return a worker that has imported the evaluator: the current one, or else the spare or a new one."""
        worker = self._worker
        if worker is not None and not worker.is_dead() and not self._closed:
            return worker
        self._discard(None)
        with self._lock:
            if self._closed:
                raise SlotClosed(f"{self.name} is closed")
            spare, self._spare = self._spare, None
            if spare is not None and spare.is_dead():
                _bury(spare, None)
                spare = None
            worker = self._worker = spare or self._start()
        worker.wait_loaded(None if self._timeout is None else max(self._timeout, LOADING))
        with self._lock, contextlib.suppress(WorkerLost):
            if self._lost_one and not self._closed:
                self._spare = self._start()
        return worker

    def _start(self) -> Process:
        return Process(self._pinned, self._task)

    def _discard(self, folder: str | None) -> int | None:
        """Kill the worker and move its output into `folder`; return the same as `_bury`."""
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        self._lost_one = True
        pid = _bury(worker, folder)
        if pid is not None:
            self._stuck.append(worker)
        return pid

    def rest(self) -> None:
        """End an idle worker to free its device's memory; the next candidate gets a new one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            _bury(worker, None)

    def interrupt(self) -> None:
        self._interrupted = True
        worker = self._worker
        if worker is not None:
            worker.kill()

    def kill(self) -> None:
        self._closed = True
        with self._lock:
            workers = [worker for worker in (self._worker, self._spare) if worker is not None]
        for worker in workers:
            worker.kill()
            worker.wait_dead(DYING / 10)
            with contextlib.suppress(OSError):
                os.unlink(worker.spool)
            with contextlib.suppress(OSError):
                os.unlink(worker.curve_file)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            worker = self._worker
            spare, self._spare = self._spare, None
        if spare is not None:
            _bury(spare, None)
        if worker is not None:
            worker.leave(GRACE)
            self._discard(None)  # kills processes that its evaluations left running too
        for stuck in self._stuck:
            stuck.wait_dead(0.1)
            stuck.abandon()  # reaps one that has died since
        with contextlib.suppress(OSError):
            os.rmdir(self._task.trials_folder)  # only if no trial has a folder


def _bury(worker: Process, folder: str | None) -> int | None:
    """Kill a worker, and move its output into `folder` if there is one.

    Returns:
        None if the worker is gone; the process id of one that cannot be killed.
    """
    worker.kill()
    is_dead = worker.wait_dead(DYING)  # until then it may use GPU memory and write to the folder
    worker.abandon()
    with contextlib.suppress(OSError):
        if folder is not None and os.path.getsize(worker.spool):
            keep_log(worker.spool, folder)
        else:
            os.unlink(worker.spool)
    with contextlib.suppress(OSError):
        os.unlink(worker.curve_file)
    return None if is_dead else worker.pid
