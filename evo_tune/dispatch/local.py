"""A slot on this machine: one long-lived worker process, pinned to its device, replaced when it breaks.

A slot that has lost one keeps a spare, warmed while the other trains: where trainings die again and again, nobody
waits for imports. This module owns retries and what becomes of a worker; how one process is driven is `process`'s,
what happens inside it `worker`'s.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.process import Lost, Process
from evo_tune.dispatch.slot import Slot, SlotClosed, SlotUnfit, Task, keep_log
from evo_tune.genome.trial import Candidate, Outcome

__all__ = ["LocalSlot"]

LOADING = 300.0
"""Seconds that importing the evaluator's file may take where there is a timeout at all."""

DYING = 10.0
"""Seconds that a killed worker may take to be gone: one that hangs in a driver may never be."""

GRACE = 3.0
"""Seconds that an idle worker has for leaving by itself, exit handlers included."""


class LocalSlot(Slot):
    """A slot on this machine.

    Args:
        name: For people: 'slot 0'.
        device: What its worker is pinned to.
        task: What its candidates have in common.
        timeout: Seconds after which an evaluation is killed; None waits for ever.
        retries: How often a crashed evaluation is tried again.
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
        self._worker: Process | None = None
        self._spare: Process | None = None
        self._lost_one = False
        self._stuck: list[Process] = []
        """Workers that could not be killed."""
        self._told = False
        """Whether it was said that workers are replaced for what they keep."""

    @property
    def closed(self) -> bool:
        """Whether it was closed or killed: there is no way back."""
        return self._closed

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return None if worker is None or worker.gone() else worker.pid

    @property
    def memory(self) -> int | None:
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):  # it is gone, or this is no Linux
            return None

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
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
        except Lost as lost:
            left = self._discard(self._task.folder(candidate.id if folder is None else folder))
            if self._closed:
                raise SlotClosed(f"{self.name} was closed") from None
            if left is not None:  # it may hold the device, and write where the next attempt does
                raise SlotUnfit(
                    f"{self.name}: its worker {left} on {self.device} cannot be killed ({lost}): it hangs in the "
                    "system, a driver or a file server; look there"
                ) from None
            return Outcome(lost.status, seconds=time.monotonic() - began, device=self.device, error=str(lost))
        except BaseException:  # Ctrl-C in this very thread: the worker must not go on behind its back
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
        """Return a worker that has imported the evaluator, the spare or a new one where the last one is gone."""
        worker = self._worker
        if worker is not None and not worker.gone() and not self._closed:
            return worker
        self._discard(None)
        with self._lock:
            if self._closed:
                raise SlotClosed(f"{self.name} is closed")
            spare, self._spare = self._spare, None
            if spare is not None and spare.gone():
                _bury(spare, None)
                spare = None
            worker = self._worker = spare or self._start()
        worker.wait_loaded(None if self._timeout is None else max(self._timeout, LOADING))
        with self._lock, contextlib.suppress(Lost):
            if self._lost_one and not self._closed:
                self._spare = self._start()
        return worker

    def _start(self) -> Process:
        return Process(self._pinned, self._task)

    def _discard(self, folder: str | None) -> int | None:
        """Kill the worker and keep what it printed, in the folder of the trial that it was at; see `_bury`."""
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        self._lost_one = True
        pid = _bury(worker, folder)
        if pid is not None:
            self._stuck.append(worker)
        return pid

    def rest(self) -> None:
        """End an idle worker for what it holds of its device; the next candidate gets a new one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            _bury(worker, None)

    def kill(self) -> None:
        self._closed = True
        with self._lock:
            workers = [worker for worker in (self._worker, self._spare) if worker is not None]
        for worker in workers:
            worker.kill()
            worker.wait_gone(DYING / 10)
            with contextlib.suppress(OSError):
                os.unlink(worker.spool)
            with contextlib.suppress(OSError):
                os.unlink(worker.telling)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            worker = self._worker
            spare, self._spare = self._spare, None
        if spare is not None:
            _bury(spare, None)
        if worker is not None:
            worker.leave(GRACE)
            self._discard(None)  # what its evaluations left running goes as well
        for stuck in self._stuck:
            stuck.wait_gone(0.0)  # lets the system forget one that has died since
        with contextlib.suppress(OSError):
            os.rmdir(self._task.trials_folder)  # if no trial has a folder


def _bury(worker: Process, folder: str | None) -> int | None:
    """Kill a worker; what it printed goes into `folder`, if there is one.

    Returns:
        None; the process id of a worker that cannot be killed.
    """
    worker.kill()
    gone = worker.wait_gone(DYING)  # until then it may hold the GPU's memory and write into the folder
    worker.abandon()
    with contextlib.suppress(OSError):
        if folder is not None and os.path.getsize(worker.spool):
            keep_log(worker.spool, folder)
        else:
            os.unlink(worker.spool)
    with contextlib.suppress(OSError):
        os.unlink(worker.telling)
    return None if gone else worker.pid
