"""One worker process of a local slot: a Python subprocess, controlled over a socket.

Each slot has its own process, so that a dying worker affects no other. This module handles timeouts, process groups,
and deaths that do not close the socket. It knows neither slots nor the worker's code (see `worker`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from multiprocessing.connection import wait
from typing import Any

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.log import curve_file_name, log_file_name
from evo_tune.dispatch.slot import Task
from evo_tune.dispatch.worker import WORKER
from evo_tune.genome.trial import Status
from evo_tune.plugins.context import THREAD_VARIABLES
from evo_tune.plugins.scripts.processes import kill_marked, kill_strays

TICK = 0.5
"""Seconds between two checks of a silent worker. A timeout counts these ticks, so that a pause of the machine
counts as at most one second."""

SHORT = 0.005
"""Seconds between two checks of a process that is expected to end."""

STALL = 60.0
"""Seconds after which an incomplete message that makes no progress is abandoned."""

PROGRAM = """import sys
fd, parent, sys.path[:] = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
del sys.argv[1:]
from evo_tune.dispatch.worker import serve
serve(fd, parent)
"""
"""Program of a worker. It sets the parent's import path before any import, so that nothing is imported from the
working directory, which may have any file."""


class WorkerLost(Exception):
    """No result will come from this worker."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Process:
    """A worker process.

    Args:
        device: Device to which it is pinned before it imports anything.
        task: Settings common to its candidates.
    """

    def __init__(self, device: Device, task: Task) -> None:
        mark = uuid.uuid4().hex
        self._mark = f"{WORKER}={mark}"
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": device.visible, WORKER: mark}
        env |= dict.fromkeys(THREAD_VARIABLES, str(task.threads))
        env.setdefault("PYTHONHASHSEED", "0")  # same order of sets in all workers
        ours, theirs = socket.socketpair()
        fd = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)  # 0 to 2 become the worker's standard streams
        theirs.close()
        path = [entry or os.getcwd() for entry in sys.path]
        command = [sys.executable, "-c", PROGRAM, str(fd), str(os.getpid()), *path]
        try:
            # Ctrl-C is blocked in this thread, so that the process has it blocked from the beginning.
            old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process = subprocess.Popen(command, env=env, pass_fds=[fd], stdin=subprocess.DEVNULL)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        finally:
            os.close(fd)  # only the worker keeps its end open, so its death closes the connection
        ours.settimeout(STALL)
        self._socket, self._file = ours, ours.makefile("rwb")
        self.pid = self._process.pid
        self._reaping = threading.Lock()
        """Held while the process is reaped, or a signal is sent to its group."""
        self.spool = task.folder(log_file_name(self.pid))  # its output, until moved to a trial's folder
        self.curve_file = task.folder(curve_file_name(self.pid))  # curve of the current training run
        self._send((task, device.inside))

    def wait_loaded(self, limit: float | None) -> None:
        """Wait until the evaluator is imported; see `work`."""
        self._receive(limit)

    def work(self, message: dict[str, Any], limit: float | None) -> dict[str, Any]:
        """Send a candidate, wait for its evaluation, and return the reply.

        Args:
            message: See `worker.serve`.
            limit: Longest evaluation in seconds; None means no limit.

        Returns:
            See `Worker.work`.

        Raises:
            Lost: The process died, or the limit has passed.
        """
        self._send(message)
        reply: dict[str, Any] = self._receive(limit)
        return reply

    def _send(self, message: Any) -> None:
        try:
            pickle.dump(message, self._file)
            self._file.flush()
        except (OSError, ValueError):  # it died since the last message, or the slot was closed just now
            raise self._lost() from None

    def _receive(self, limit: float | None) -> Any:
        spent = 0.0
        while limit is None or spent < limit:
            began = time.monotonic()
            if self._has_reply(TICK if limit is None else min(TICK, limit - spent)):
                return self._read()
            spent += min(time.monotonic() - began, 1.0)
            if self.is_dead():
                break  # processes that it forked may keep its end of the socket open
        else:
            raise WorkerLost("timeout", f"no result within {limit:g} s: killed")
        self.kill()
        if self._has_reply(0.0):  # it came before the worker died
            return self._read()
        raise self._lost()

    def _has_reply(self, seconds: float) -> bool:
        try:
            return bool(wait([self._socket], seconds))
        except (OSError, ValueError):  # the slot was closed just now
            raise self._lost() from None

    def _read(self) -> Any:
        try:
            return pickle.load(self._file)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            raise self._lost() from None

    def _lost(self) -> WorkerLost:
        """Return the error that says how the process ended."""
        self.wait_dead(1.0)
        code = self._exit_code()
        if code is None:
            return WorkerLost("crashed", "worker died: nobody knows how")
        return WorkerLost("crashed", f"worker died: {f'killed by signal {-code}' if code < 0 else f'exit code {code}'}")

    def _exit_code(self) -> int | None:
        """Return the exit code, -N after signal N; None while the process runs.

        A dead process is not reaped here: until `abandon` does it, no other process can get its id.
        """
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except (AttributeError, ChildProcessError):  # macOS before Python 3.13; reaped already
            return self._process.poll()
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def is_dead(self) -> bool:
        """Return whether the process is dead."""
        return self._exit_code() is not None

    def wait_dead(self, seconds: float) -> bool:
        """Wait up to `seconds` until the process is dead; return whether it is."""
        end = time.monotonic() + seconds
        while not (is_dead := self.is_dead()) and time.monotonic() < end:
            time.sleep(SHORT)
        return is_dead

    def kill(self) -> None:
        """Kill the process, its group (which may outlive it) and its processes that left the group.

        Once the process is reaped, its id may be that of another process or group. Then only processes that carry its
        mark are killed.
        """
        with self._reaping:
            if not self.is_dead():
                os.kill(self.pid, signal.SIGSTOP)  # so that it sends no reply about the loss of a stray
                kill_strays(self.pid)
            if self._process.returncode is None:  # not reaped
                try:
                    os.killpg(self.pid, signal.SIGKILL)
                except OSError:  # no such group: all are gone, or the worker has not created it yet
                    self._process.kill()
        kill_marked(self._mark)

    def leave(self, seconds: float) -> None:
        """Ask an idle worker to exit, and wait up to `seconds` for its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.wait_dead(seconds)

    def abandon(self) -> None:
        """Close the connection to a dead worker, and reap it."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()
        with self._reaping:
            self._process.poll()
