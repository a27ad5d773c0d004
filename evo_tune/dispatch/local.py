"""A slot on this machine: one long-lived worker process, pinned to its device and replaced when it breaks.

`Process` controls one worker process, a Python subprocess, over a socket: timeouts, process groups, and deaths that do
not close the socket. `LocalSlot` does retries and replaces workers. Each slot has its own process, so that a dying
worker affects no other. `worker` is the code inside the process.
"""

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
import warnings
from multiprocessing.connection import wait
from typing import Any

from evo_tune.dispatch.devices import Device
from evo_tune.dispatch.log import worker_file_name
from evo_tune.dispatch.slot import Slot, SlotClosed, SlotInterrupted, SlotUnfit, Task, keep_log
from evo_tune.dispatch.worker import WORKER, resident_memory
from evo_tune.genome.trial import Candidate, Outcome, Status
from evo_tune.plugins.context import THREAD_VARIABLES
from evo_tune.plugins.scripts.processes import kill_marked, kill_strays
from evo_tune.trust.safe_files import compiled_code_folder

# Seconds between two checks of a silent worker. A timeout counts these ticks, so that a pause of the machine counts as
# at most one second.
TICK = 0.5

# Seconds between two checks of a process that is expected to end.
SHORT = 0.005

# Seconds that a slot may need to close after its training got SIGTERM: a batch system sends it to all processes of a
# job, and such a training has no result.
LEAVING = 20.0

# Seconds after which an incomplete message that makes no progress is abandoned.
STALL = 60.0

# Program of a worker. It sets the parent's import path before any import, so that nothing is imported from the working
# directory, which may have any file.
PROGRAM = """import sys
fd, parent, sys.path[:] = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
del sys.argv[1:]
from evo_tune.dispatch.worker import serve
serve(fd, parent)
"""


class WorkerLost(Exception):
    """No result will come from this worker."""

    def __init__(self, status: Status, text: str, signal: int = 0) -> None:
        super().__init__(text)
        self.status = status
        # Number of the signal that ended the process; 0 for none.
        self.signal = signal


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
        env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled_code_folder()))
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
        # Held while the process is reaped, or a signal is sent to its group.
        self._reaping = threading.Lock()
        self.spool = task.folder(worker_file_name(self.pid, "log"))  # its output, until moved to a trial's folder
        self.curve_file = task.folder(worker_file_name(self.pid, "json"))  # curve of the current training run
        self.send((task, device.inside))

    def send(self, message: Any) -> None:
        """Send a message; see `worker.serve`.

        Raises:
            WorkerLost: The process died.
        """
        try:
            pickle.dump(message, self._file)
            self._file.flush()
        except (OSError, ValueError):  # it died since the last message, or the slot was closed just now
            raise self._lost() from None

    def receive(self, limit: float | None) -> Any:
        """Wait for the reply to the last message, and return it.

        Args:
            limit: Longest wait in seconds; None means no limit.

        Raises:
            WorkerLost: The process died, or the limit has passed.
        """
        spent = 0.0
        while limit is None or spent < limit:
            began = time.monotonic()
            if replies := self._replies(TICK if limit is None else min(TICK, limit - spent)):
                return replies[0]
            spent += min(time.monotonic() - began, 1.0)
            if self.is_dead():
                break  # processes that it forked may keep its end of the socket open
        else:
            raise WorkerLost("timeout", f"no result within {limit:g} s: killed")
        self.kill()
        if replies := self._replies(0.0):  # it came before the worker died
            return replies[0]
        raise self._lost()

    def _replies(self, seconds: float) -> list[Any]:
        """Return the reply, if it comes within some seconds, else nothing."""
        try:
            return [pickle.load(self._file)] if wait([self._socket], seconds) else []
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # it died, or the slot was closed just now
            raise self._lost() from None

    def _lost(self) -> WorkerLost:
        """Return the error that says how the process ended."""
        self.wait_dead(1.0)
        code = self._exit_code()
        if code is None:
            return WorkerLost("crashed", "worker died: nobody knows how")
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return WorkerLost("crashed", f"worker died: {how}", max(0, -code))

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


# Seconds that the evaluator's import may take, if there is a timeout; a longer timeout replaces it.
LOADING = 300.0

# Seconds to wait for the end of a killed worker; one that hangs in a driver may never end.
DYING = 10.0

# Seconds that an idle worker has to exit by itself, exit handlers included.
GRACE = 3.0


class LocalSlot(Slot):
    """A slot on this machine.

    Args:
        name: Name in messages: 'slot 0'.
        device: Device that its worker is pinned to.
        task: Settings common to its candidates.
        timeout: Seconds after which an evaluation is killed; None means no limit.
        retries: Number of times that a crashed evaluation is repeated.
    """

    def __init__(self, name: str, device: Device, task: Task, timeout: float | None = None, retries: int = 0) -> None:
        self.name = name
        self.device = device.name
        # Whether it was closed or killed; it cannot be reopened.
        self.closed = False
        self._pinned = device
        self._task = task
        self._timeout = timeout
        self._retries = retries
        self._lock = threading.Lock()
        # Whether its current training was interrupted.
        self.interrupted = False
        self._worker: Process | None = None
        # Workers that could not be killed.
        self._stuck: list[Process] = []
        # Whether the warning about workers that keep memory was given.
        self._told = False

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return None if worker is None or worker.is_dead() else worker.pid

    @property
    def memory(self) -> int | None:
        pid = self.pid
        return None if pid is None else resident_memory(pid)[0] or None

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        self.interrupted = False
        for _ in range(self._retries + 1):
            outcome = self._attempt(candidate, folder)
            if outcome.status != "crashed":
                break
        return outcome

    def _attempt(self, candidate: Candidate, folder: str | None) -> Outcome:
        began = time.monotonic()
        try:
            worker = self._ready_worker()
            began = time.monotonic()
            worker.send({"candidate": vars(candidate), "folder": folder})
            reply = worker.receive(self._timeout)
        except WorkerLost as lost:
            end = time.monotonic() + LEAVING
            while lost.signal == signal.SIGTERM and not self.closed and time.monotonic() < end:
                time.sleep(TICK)
            stuck_pid = self._discard(self._task.folder(candidate.id if folder is None else folder))
            if self.closed:
                raise SlotClosed(f"{self.name} was closed") from None
            if stuck_pid is not None:  # it may keep the device's memory, and write to the next attempt's folder
                raise SlotUnfit(
                    f"{self.name}: its worker {stuck_pid} on {self.device} cannot be killed ({lost}): it hangs in the "
                    "system, a driver or a file server; look there"
                ) from None
            if self.interrupted:
                raise SlotInterrupted(f"{self.name} was interrupted") from None
            return Outcome(lost.status, seconds=time.monotonic() - began, device=self.device, error=str(lost))
        except BaseException:  # Ctrl-C in this thread: stop the worker too
            self._discard()
            raise
        if "unfit" in reply:
            raise SlotUnfit(f"{self.name}: {reply['unfit']}")
        if reply["replace"]:
            self._discard()
        if reply["kept"] and not self._told:
            self._told = True
            warnings.warn(
                f"{self.name}: its worker kept {reply['kept'] / 2**20:.0f} MiB of its evaluations, so a new one has "
                f"taken its place, and will again: look for what evaluate of {self._task.name} leaves behind",
                stacklevel=2,
            )
        return Outcome(**{**reply["outcome"], "device": self.device})

    def _ready_worker(self) -> Process:
        """Return a worker that has imported the evaluator: the current one, or else a new one."""
        worker = self._worker
        if worker is not None and not worker.is_dead() and not self.closed:
            return worker
        self._discard()
        with self._lock:
            if self.closed:
                raise SlotClosed(f"{self.name} is closed")
            worker = self._worker = Process(self._pinned, self._task)
        worker.receive(None if self._timeout is None else max(self._timeout, LOADING))
        return worker

    def _discard(self, folder: str | None = None) -> int | None:
        """Kill the worker, and move its output into `folder` if there is one.

        Returns:
            None if the worker is gone; the process id of one that cannot be killed.
        """
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        worker.kill()
        is_dead = worker.wait_dead(DYING)  # until then it may use GPU memory and write to the folder
        worker.abandon()
        with contextlib.suppress(OSError):
            if folder is not None and os.path.getsize(worker.spool):
                keep_log(worker.spool, folder)
        _remove_files(worker.spool, worker.curve_file)
        if is_dead:
            return None
        self._stuck.append(worker)
        return worker.pid

    def rest(self) -> None:
        """End an idle worker to free its device's memory; the next candidate gets a new one."""
        self._discard()

    def interrupt(self) -> None:
        self.interrupted = True
        worker = self._worker
        if worker is not None:
            worker.kill()

    def kill(self) -> None:
        self.closed = True
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.kill()
            worker.wait_dead(DYING / 10)
            _remove_files(worker.spool, worker.curve_file)

    def close(self) -> None:
        self.closed = True
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.leave(GRACE)
            self._discard()  # kills processes that its evaluations left running too
        for stuck in self._stuck:
            stuck.wait_dead(0.1)
            stuck.abandon()  # reaps one that has died since
        with contextlib.suppress(OSError):
            os.rmdir(self._task.trials_folder)  # only if no trial has a folder


def _remove_files(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
