"""One worker process of a local slot: a one-worker executor of loky, joblib's own engine.

So a worker that dies takes no other with it. This module owns what loky leaves open: timeouts, whole process groups,
death unnoticed, trackers. It knows neither slots nor what the worker does (see `worker`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.log import log_name
from evo_tune.dispatch.slot import Task
from evo_tune.dispatch.telling import telling_name
from evo_tune.dispatch.worker import SAFE_PATH, WORKER, initialize, load, work
from evo_tune.genome.trial import Status
from evo_tune.plugins.context import THREAD_VARIABLES
from evo_tune.plugins.scripts.processes import kill_marked

__all__ = ["Lost", "Process"]

TICK = 0.5
"""Seconds between two looks at a worker that is silent. A timeout counts ticks, so that a machine that
was paused costs an evaluation one tick and not its life."""


class Lost(Exception):
    """No result will come from this worker."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Process:
    """A worker process: a loky executor of one."""

    _starting = threading.Lock()

    def __init__(self, device: Device, task: Task) -> None:
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        env = {"CUDA_VISIBLE_DEVICES": device.visible, **dict.fromkeys(THREAD_VARIABLES, str(task.threads))}
        env = {**env, **_safe_path()}
        self._mark = f"{WORKER}={uuid.uuid4().hex}"
        env[WORKER] = self._mark.partition("=")[2]
        env["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED", "0")  # same order of sets in every worker
        with self._starting, _semaphores_made() as semaphores:
            _start_trackers()
            told = (task, device.inside, os.getpid())
            self._executor = ProcessPoolExecutor(max_workers=1, env=env, initializer=initialize, initargs=told)
            with _no_interrupt():
                self._loading = self._executor.submit(load)
        # Once it is loaded the worker has opened them: from then on, whoever is killed, no name is left over.
        self._loading.add_done_callback(lambda _: [unlink() for unlink in semaphores])
        started = list(self._executor._processes.values())
        if not started:
            raise Lost("crashed", "worker died as it started")
        self._process = started[0]
        self.pid = int(self._process.pid)
        self.spool = task.folder(log_name(self.pid))  # where its output is until it is in a trial's folder
        self.telling = task.folder(telling_name(self.pid))  # what it tells of the training in flight
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
            Lost: The process died, or the limit has passed.
        """
        try:
            future = self._executor.submit(work, message)
        except RuntimeError:  # it died since the last call, or the slot was closed just now
            raise Lost("crashed", f"worker died: {self._death()}") from None
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
                raise Lost("crashed", f"worker died: {self._death()}") from None
            if self.gone():
                break  # its end is told by pipes, which the processes that it started may hold open
        else:
            raise Lost("timeout", f"no result within {limit:g} s: killed")
        self.kill()
        with contextlib.suppress(Exception):
            return future.result(timeout=TICK)  # it may have come before the end
        raise Lost("crashed", f"worker died: {self._death()}")

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
        """Kill the process, its group, which outlives it if it started others, and what left that group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError:  # no such group: it is all gone, or the worker has not made its own yet
            if self._process.exitcode is None:
                with contextlib.suppress(OSError):
                    os.kill(self.pid, signal.SIGKILL)
        kill_marked(self._mark)

    def leave(self, seconds: float) -> None:
        """Ask an idle worker to leave, and wait for it."""
        self._executor.shutdown(wait=False)
        self.wait_gone(seconds)

    def abandon(self) -> None:
        """Let loky's thread and queues of a dead worker go."""
        self._executor.shutdown(wait=False, kill_workers=True)


def _safe_path() -> dict[str, str]:
    """Return what keeps a Python that is started with `-m` or `-c` from importing out of the working directory.

    From Python 3.11 on; a worker takes it back once it has started (see `worker.initialize`).
    """
    return {} if "PYTHONSAFEPATH" in os.environ else {"PYTHONSAFEPATH": SAFE_PATH}


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
    safe = _safe_path()
    os.environ.update(safe)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "resource_tracker")
            resource_tracker.ensure_running()
            standard.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)
        for name in safe:
            del os.environ[name]


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
