"""A slot on this machine: one long-lived worker process, pinned to its device, replaced when it breaks.

The process is a one-worker executor of loky, joblib's own engine, so that a worker that dies takes no
other with it. A slot that has lost one keeps a spare, warmed while the other trains: where trainings die again and
again, nobody waits for imports. This module owns what loky leaves open: timeouts, retries, whole process groups, death
unnoticed. What happens inside the worker is `worker.py`'s.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.slot import Slot, SlotClosed, Task, keep_log
from evo_tune.dispatch.worker import initialize, load, log_name, work
from evo_tune.genome.trial import Candidate, Outcome, Status

__all__ = ["LocalSlot"]

TICK = 0.5
"""Seconds between two looks at a worker that is silent. A timeout counts ticks, so that a machine that
was paused costs an evaluation one tick and not its life."""

LOADING = 300.0
"""Seconds that importing the evaluator's file may take where there is a timeout at all."""

GRACE = 3.0
"""Seconds that an idle worker has for leaving by itself, exit handlers included."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class _Lost(Exception):
    """No result will come from this worker."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class LocalSlot(Slot):
    """A slot on this machine.

    Args:
        name: For people: 'slot 0'.
        device: What its worker is pinned to.
        task: What its candidates have in common.
        timeout: Seconds after which an evaluation is killed; None waits for ever.
        retries: How often a crashed evaluation is tried again.
        cores: What its worker is kept on; any if empty.
    """

    def __init__(
        self,
        name: str,
        device: Device,
        task: Task,
        timeout: float | None = None,
        retries: int = 0,
        cores: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.device = device.name
        self._pinned = device
        self._task = task
        self._timeout = timeout
        self._retries = retries
        self._cores = cores
        self._lock = threading.Lock()
        self._closed = False
        self._worker: _Process | None = None
        self._spare: _Process | None = None
        self._lost_one = False
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
        except _Lost as lost:
            self._discard(self._task.folder(candidate.id if folder is None else folder))
            if self._closed:
                raise SlotClosed(f"{self.name} was closed") from None
            return Outcome(lost.status, seconds=time.monotonic() - began, device=self.device, error=str(lost))
        except BaseException:  # Ctrl-C in this very thread: the worker must not go on behind its back
            self._discard(None)
            raise
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

    def _ready(self) -> _Process:
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
        with self._lock, contextlib.suppress(_Lost):
            if self._lost_one and not self._closed:
                self._spare = self._start()
        return worker

    def _start(self) -> _Process:
        return _Process(self._pinned, self._task, self._cores)

    def _discard(self, folder: str | None) -> None:
        """Kill the worker and keep what it printed, in the folder of the trial that it was at."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._lost_one = True
            _bury(worker, folder)

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
            with contextlib.suppress(OSError):
                os.unlink(worker.spool)

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
        with contextlib.suppress(OSError):
            os.rmdir(self._task.trials_folder)  # if no trial has a folder


def _bury(worker: _Process, folder: str | None) -> None:
    """Kill a worker; what it printed goes into `folder`, if there is one."""
    worker.kill()
    worker.wait_gone(10.0)  # until then it may hold the GPU's memory and write into the folder
    worker.abandon()
    with contextlib.suppress(OSError):
        if folder is not None and os.path.getsize(worker.spool):
            keep_log(worker.spool, folder)
        else:
            os.unlink(worker.spool)


class _Process:
    """A worker process: a loky executor of one."""

    _starting = threading.Lock()

    def __init__(self, device: Device, task: Task, cores: tuple[int, ...]) -> None:
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        env = {"CUDA_VISIBLE_DEVICES": device.visible, **dict.fromkeys(THREAD_VARIABLES, str(task.threads))}
        env["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED", "0")  # same order of sets in every worker
        with self._starting, _semaphores_made() as semaphores:
            _start_trackers()
            told = (task, device.inside, os.getpid(), cores)
            self._executor = ProcessPoolExecutor(max_workers=1, env=env, initializer=initialize, initargs=told)
            with _no_interrupt():
                self._loading = self._executor.submit(load)
        # Once it is loaded the worker has opened them: from then on, whoever is killed, no name is left over.
        self._loading.add_done_callback(lambda _: [unlink() for unlink in semaphores])
        started = list(self._executor._processes.values())
        if not started:
            raise _Lost("crashed", "worker died as it started")
        self._process = started[0]
        self.pid = int(self._process.pid)
        self.spool = task.folder(log_name(self.pid))  # where its output is until it is in a trial's folder
        # Only the worker is to hold the writing end of its results: if it is killed halfway through one,
        # loky's thread reads the end of the file instead of waiting for the other half.
        with contextlib.suppress(OSError):
            self._executor._result_queue._writer.close()

    def wait_loaded(self, limit: float | None) -> None:
        """Wait until the evaluator is imported; see `work`."""
        self._result(self._loading, limit)

    def work(self, message: dict[str, Any], limit: float | None) -> dict[str, Any]:
        """Have a candidate evaluated.

        Args:
            message: See `worker.work`.
            limit: Seconds that it may take; None waits for ever.

        Returns:
            See `Worker.work`.

        Raises:
            _Lost: The process died, or the limit has passed.
        """
        try:
            future = self._executor.submit(work, message)
        except RuntimeError:  # it died since the last call, or the slot was closed just now
            raise _Lost("crashed", f"worker died: {self._death()}") from None
        reply: dict[str, Any] = self._result(future, limit)
        return reply

    def _result(self, future: concurrent.futures.Future[Any], limit: float | None) -> Any:
        spent = 0.0
        while limit is None or spent < limit:
            began = time.monotonic()
            try:
                return future.result(timeout=TICK if limit is None else min(TICK, limit - spent))
            except concurrent.futures.TimeoutError:
                spent += min(time.monotonic() - began, 1.0)
            except Exception:  # loky's: whatever the evaluation raises, `work` returns
                raise _Lost("crashed", f"worker died: {self._death()}") from None
            if self.gone():
                break  # its end is told by pipes, which the processes that it started may hold open
        else:
            raise _Lost("timeout", f"no result within {limit:g} s: killed")
        self.kill()
        with contextlib.suppress(Exception):
            return future.result(timeout=TICK)  # it may have come before the end
        raise _Lost("crashed", f"worker died: {self._death()}")

    def gone(self) -> bool:
        """Whether the process is dead."""
        if self._process.exitcode is not None:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def wait_gone(self, seconds: float) -> bool:
        """Wait until the process is dead, for so many seconds at most."""
        end = time.monotonic() + seconds
        while not self.gone() and time.monotonic() < end:
            time.sleep(0.002)
        return self.gone()

    def _death(self) -> str:
        end = time.monotonic() + 1.0
        while (code := self._process.exitcode) is None and time.monotonic() < end:
            time.sleep(0.002)
        if code is None:
            return "nobody knows how"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Kill the process and its group, which outlives it if it started others."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:  # no such group: it is all gone, or the worker has not made its own yet
            if self._process.exitcode is None:
                with contextlib.suppress(OSError):
                    os.kill(self.pid, signal.SIGKILL)

    def leave(self, seconds: float) -> None:
        """Ask an idle worker to leave, and wait for it."""
        self._executor.shutdown(wait=False)
        self.wait_gone(seconds)

    def abandon(self) -> None:
        """Let loky's thread and queues of a dead worker go."""
        self._executor.shutdown(wait=False, kill_workers=True)


def _start_trackers() -> None:
    """Start the resource trackers that loky needs, before it does: silent, and with Ctrl-C not yet blocked.

    After a kill -9 of the parent its tracker unlinks what semaphores there are, as it should, but would
    print a warning about it into the user's shell; the parent would print one about a tracker that was
    killed. And the standard library's, as it starts, lets Ctrl-C through.
    """
    from multiprocessing import resource_tracker as standard

    from joblib.externals.loky.backend import resource_tracker

    quiet = "ignore:resource_tracker"
    sys.warnoptions.append(quiet)  # they are started with these
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "resource_tracker")
            resource_tracker.ensure_running()
            standard.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


@contextlib.contextmanager
def _semaphores_made() -> Iterator[list[Callable[[], object]]]:
    """Collect what unlinks the semaphores that loky makes meanwhile.

    Each has a name in the system until its finalizer is called, which by itself is at the parent's end.
    """
    from multiprocessing import util

    from joblib.externals.loky.backend.synchronize import SemLock

    registry: dict[Any, Any] = getattr(util, "_finalizer_registry", {})
    made: list[Callable[[], object]] = []
    before = set(registry)
    yield made
    new = [finalizer for key, finalizer in list(registry.items()) if key not in before]
    made += [finalizer for finalizer in new if getattr(finalizer, "_callback", None) is SemLock._cleanup]


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Block Ctrl-C in this thread: a process that it starts has it blocked from its first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
