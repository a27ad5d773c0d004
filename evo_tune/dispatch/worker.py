"""Code of a worker process: import the evaluator once, evaluate candidates, turn every result into an Outcome.

No exception reaches the parent: an exception, a NaN or a lack of memory becomes a status and one line of text. This
module does not know the parent's side. It uses torch only where the evaluator has imported it.
"""

import atexit
import contextlib
import ctypes
import errno
import faulthandler
import gc
import importlib
import os
import pickle
import platform
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import psutil  # type: ignore[import-untyped] # it has no types

from evo_tune.dispatch.log import CurveFile, Log, worker_file_name
from evo_tune.dispatch.slot import Task, names_inside
from evo_tune.errors import EvoTuneError, StoreError, is_out_of_memory
from evo_tune.genome.trial import STATUSES, Candidate, Minimize, Objective, Outcome, Status, check_metrics
from evo_tune.plugins.code import local_sources
from evo_tune.plugins.context import UNFINISHED, Context, Pruned
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.scripts.processes import AdoptedOrphans, adopt_orphans, kill_marked, kill_strays
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Characters that are kept of the end of a traceback, whose error may say anything.
MOST_TRACEBACK = 1 << 20

POISONED = ("cuda error", "cudnn error", "hip error")


class Verdict(NamedTuple):
    """Result of an evaluation: its status, metrics and error; `poisoned` means that CUDA is unusable from now on."""

    status: Status
    metrics: dict[str, float]
    error: str | None
    poisoned: bool = False


# Errors of a full disk or quota, which are no fault of the genome: after `resume` the trial is trained again.
DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def verdict_of_error(error: BaseException, path: str, folder: str) -> Verdict:
    """Turn an exception of an evaluation into a verdict; write unexpected ones to error.txt.

    Args:
        error: The exception.
        path: The evaluator's file; the error names a line of it if it can.
        folder: The trial's folder, absolute.
    """
    text = error_text(error)
    if isinstance(error, Pruned):
        return Verdict("pruned", {}, text)
    poisoned = isinstance(error, RuntimeError) and (
        type(error).__name__ == "AcceleratorError" or any(sign in text.lower() for sign in POISONED)
    )
    error_status = getattr(error, "status", None)
    if is_out_of_memory(error, text):
        status: Status = "out_of_memory"
    elif isinstance(error_status, str) and error_status in STATUSES and error_status != "ok":
        status = cast(Status, error_status)
    else:
        status = "crashed" if poisoned else "failed"
    if status in ("failed", "crashed", "out_of_memory"):
        with contextlib.suppress(Exception):
            run, *names = names_inside(folder)
            os.makedirs(run, exist_ok=True)
            content = "".join(traceback.format_exception(error))[-MOST_TRACEBACK:].encode("utf-8", "backslashreplace")
            with safe_files.folder(run, *names, make=True) as folder_fd:
                safe_files.replace(folder_fd, "error.txt", content, part=".error.part", sync=False)
    expected = isinstance(error, EvoTuneError) or status == error_status
    line = text if expected and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    if frames and not isinstance(error, EvoTuneError):
        # The last frame in the evaluator's file, or else the last frame.
        file, number = ([frame for frame in frames if frame[0] == path] or frames)[-1]
        line += f" ({os.path.basename(file)}:{number})"
    return Verdict(status, {}, line, poisoned)


def error_text(error: BaseException) -> str:
    """Return the text of an exception, in one line."""
    try:
        return one_line(str(error))  # the whole text is in error.txt
    except Exception as broken:  # an exception whose __str__ raises
        return f"(its text cannot be read: {type(broken).__name__})"


# Bytes by which a worker may grow after its first evaluation.
KEPT_MEMORY = 2**30

# Evaluations that must grow it beyond that before it is replaced: one or two may fill a cache.
KEPT_TIMES = 3

# Bytes that count as growth: smaller changes come from the allocator.
KEPT_STEP = 4 * 2**20


class MemoryLevel:
    """Growth of one memory figure over a worker's evaluations."""

    def __init__(self) -> None:
        # The first figure, which is the reference, and each later one that is far above it and the highest so far.
        self._figures: list[int] = []

    def is_high(self, bytes: int) -> bool:
        """Return whether to measure a figure again: it is the first or far above the first."""
        return not self._figures or bytes > self._figures[0] + KEPT_MEMORY

    def note(self, bytes: int) -> int:
        """Note the memory kept after an evaluation; return the excess in bytes, 0 if it is acceptable."""
        is_high = self.is_high(bytes)
        if is_high and (not self._figures or bytes > self._figures[-1] + KEPT_STEP):
            self._figures.append(bytes)
        return bytes - self._figures[0] if is_high and len(self._figures) > KEPT_TIMES else 0


def resident_memory(pid: int) -> tuple[int, int]:
    """Return the bytes of a process in memory, and those of them that only it uses; zeros if they are unknown."""
    with contextlib.suppress(psutil.Error):
        memory = psutil.Process(pid).memory_info()
        return memory.rss, memory.rss - getattr(memory, "shared", 0)  # macOS does not tell the shared ones
    return 0, 0


# Environment variable that marks a worker and all processes that it starts.
WORKER = "EVO_TUNE_WORKER"

# Seconds between two checks of the watchdog.
TICK = 0.5

# Seconds of evaluation after which cyclic garbage is collected, which takes 0.06 s with torch loaded.
COLLECT_EVERY = 5.0

# Metric that the timing of a few steps must return.
TIMED = Minimize("seconds")


class Worker:
    """Evaluation of one task's candidates on one device.

    Args:
        task: Settings common to the candidates.
        device: Torch's name of the device in this process: 'cpu' or 'cuda:0'.
        log: Receiver of the output; None leaves the output alone.
        telling: Writer of the current training run's curve; None writes no curve.
    """

    def __init__(self, task: Task, device: str, log: Log | None = None, telling: CurveFile | None = None) -> None:
        self.task = task
        self.device = device
        self.objectives = tuple(Objective.parse(text) for text in task.objectives)
        self._log = log
        self._curve_file = telling
        self._home = os.getcwd()
        self._seconds_since_collection = 0.0
        self._host_level, self._gpu_level = MemoryLevel(), MemoryLevel()
        self._adopted = AdoptedOrphans()

    @cached_property
    def evaluator(self) -> BoundEvaluator:
        """The evaluator, imported on first use, together with torch if it uses torch.

        An evaluator imports torch in its functions. Importing it here, before the first evaluation, seeds it for
        the first candidate as for the others, and keeps the import outside the timed evaluation.
        """
        evaluator = self.task.load()
        if any(b"torch" in source.read_bytes() for source in local_sources(evaluator.plugin.path)):
            with contextlib.suppress(ImportError):
                importlib.import_module("torch")
        return evaluator

    @cached_property
    def unfit(self) -> str | None:
        """Reason why no genome can be evaluated here: the run's data are missing or different; None if they match."""
        if not self.task.fingerprint:
            return None
        data, where = f"the data of {self.task.name}", f"on {platform.node()} ({self.device})"
        try:
            evaluator = self.evaluator
        except BaseException:  # `work` reports it
            return None
        try:
            fingerprint = evaluator.fingerprint()
        except Exception as error:
            return one_line(f"{data} cannot be read {where}: {error_text(error)}")
        if fingerprint == self.task.fingerprint:
            return None
        return one_line(
            f"{data} are not the run's {where}: their fingerprint is {fingerprint!r}, "
            f"the run's {self.task.fingerprint!r}"
        )

    def work(self, candidate: Candidate, folder_name: str | None = None) -> dict[str, Any]:
        """Evaluate a candidate.

        Args:
            candidate: Candidate to evaluate.
            folder_name: Name of its folder, if it differs from that of its id.

        Returns:
            Plain data, one of two dicts. After an evaluation: 'outcome' (fields of an Outcome), 'replace' (whether
            this process must be replaced) and 'kept' (bytes kept in excess, 0 if none). Without one: only 'unfit',
            the reason.
        """
        if self.unfit is not None:
            return {"unfit": self.unfit}
        folder = self.task.folder(candidate.id if folder_name is None else folder_name)
        resume = None if candidate.resumes is None else self.task.folder(candidate.resumes)
        context = Context(
            device=self.device,
            threads=self.task.threads,
            seed=candidate.seed,
            budget=candidate.budget,
            folder=folder,
            resume_folder=resume if resume is not None and os.path.isdir(resume) else None,
            stop_if=candidate.stop_if,
            objectives=self.objectives,
            test=candidate.test,
            timing=candidate.timing,
            code=candidate.code,
        )
        began = time.perf_counter()
        if self._curve_file and folder_name is None:
            self._curve_file.begin(candidate.id, context.curve)
        verdict = self._evaluate(candidate, context, folder)
        if verdict.status == "failed" and any(sign in (verdict.error or "") for sign in DISK_FULL):
            return {"unfit": f"the disk is full (trial {candidate.id}: {verdict.error}): make room; its trial waits"}
        if verdict.status != "ok":  # the next attempt, if there is one, must not continue from what has failed
            with contextlib.suppress(OSError):
                run, *names = names_inside(folder)
                safe_files.remove(run, *names, UNFINISHED[0])
        if self._curve_file:
            self._curve_file.end()
        seconds = time.perf_counter() - began
        usable = self._tidy(seconds, verdict.status)
        curve = tuple((fraction, self._visible_metrics(metrics, candidate)) for fraction, metrics in context.curve)
        outcome = Outcome(verdict.status, verdict.metrics, curve, seconds, self.device, verdict.error)
        kept_bytes = self._excess_bytes() if usable else 0
        return {
            "outcome": vars(outcome),
            "replace": verdict.poisoned or not usable or kept_bytes > 0,
            "kept": kept_bytes,
        }

    def _excess_bytes(self) -> int:
        """Return the bytes that this process keeps beyond the accepted limit, on the host or its GPU; 0 if none."""
        host = resident_memory(os.getpid())[1]
        if host and self._host_level.is_high(host):
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):  # musl and macOS have no such call
                ctypes.CDLL(None).malloc_trim(0)  # the allocator may keep gigabytes for the next training run
            host = resident_memory(os.getpid())[1]
        torch: Any = sys.modules.get("torch")
        on_gpu = hasattr(torch, "cuda") and torch.cuda.is_initialized()
        return max(self._host_level.note(host), self._gpu_level.note(torch.cuda.memory_allocated() if on_gpu else 0))

    def _visible_metrics(self, metrics: dict[str, float], candidate: Candidate) -> dict[str, float]:
        """Return the metrics, without those of the test set unless the candidate asks for them."""
        if candidate.test:
            return metrics
        return {name: value for name, value in metrics.items() if not self.evaluator.plugin.is_test(name)}

    def _evaluate(self, candidate: Candidate, context: Context, folder: str) -> Verdict:
        try:
            run, *names = names_inside(folder)
            if os.path.isdir(run):
                if safe_files.exists(run, *names, UNFINISHED[0]):  # a killed attempt, from which this one continues
                    safe_files.remove_all_but(run, *names, files=UNFINISHED)
                else:
                    safe_files.remove(run, *names)
            resume = context.resume_folder
            if resume is not None and resume.is_symlink():  # a stranger's run may have one
                raise StoreError(f"{resume} is a link, and inside a run none is followed: put the folder itself there")
            if self._log:
                self._log.begin(folder)
            evaluator = self.evaluator
            _set_torch_threads(self.task.threads)
            _seed(candidate.seed, self.device)
            began = time.perf_counter()
            if candidate.baseline:
                return Verdict(*check_metrics(evaluator.baseline(), ()))
            returned = evaluator.evaluate(candidate.genome, context)
            if candidate.timing:
                return Verdict(*check_metrics(returned, (TIMED,)))
            if any(objective.metric == "seconds" for objective in self.objectives) and isinstance(returned, Mapping):
                returned = {"seconds": time.perf_counter() - began, **returned}
            tests = evaluator.plugin.tests if candidate.test else {}
            test_objectives = [type(goal)(tests[goal.metric]) for goal in self.objectives if goal.metric in tests]
            status, metrics, error = check_metrics(returned, (*self.objectives, *test_objectives))
            return Verdict(status, self._visible_metrics(metrics, candidate), error)
        except BaseException as error:
            return verdict_of_error(error, self.task.path, folder)
        finally:
            if self._log:
                self._log.end()

    def _tidy(self, seconds: float, status: Status) -> bool:
        """Clean up the process for the next evaluation; return whether it can run one."""
        self._adopted.reap()
        torch = sys.modules.get("torch")
        on_gpu = hasattr(torch, "cuda") and torch.cuda.is_initialized()  # type: ignore[union-attr]
        self._seconds_since_collection += seconds
        if on_gpu or self._seconds_since_collection > COLLECT_EVERY or status == "out_of_memory":
            gc.collect()
            self._seconds_since_collection = 0.0
        try:
            os.chdir(self._home)
            if on_gpu:
                torch.cuda.synchronize()  # type: ignore[union-attr] # raises if the context is poisoned
                torch.cuda.empty_cache()  # type: ignore[union-attr] # others may share the GPU
        except Exception:
            return False
        return True


def _set_torch_threads(threads: int) -> None:
    """Set torch's thread count, if torch is loaded: it does not always follow the environment variables."""
    torch = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads") and torch.get_num_threads() != threads:  # type: ignore[union-attr]
        torch.set_num_threads(threads)  # type: ignore[union-attr]


def _seed(seed: int, device: str) -> None:
    """Seed the global generators, for evaluators that use them without seeding.

    A worker evaluates many trials: without seeding, a result would depend on earlier ones.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if hasattr(torch, "manual_seed"):
        if device == "cpu":
            torch.default_generator.manual_seed(seed)  # type: ignore[union-attr] # 80 times faster than torch.manual_seed
        else:
            torch.manual_seed(seed)  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------------------------
# The process, which evaluates for one slot.


def serve(fd: int, parent: int) -> None:
    """Evaluate the candidates that the parent sends, until it closes the connection.

    The first message is a pair: the Task, and torch's name of the device here. Its reply is None, sent once the
    evaluator is imported. Each further message is a dict: 'candidate', the fields of a Candidate, and 'folder', the
    name of its folder or None. Its reply is that of `Worker.work`.

    Args:
        fd: File descriptor of the connection.
        parent: Process id of the parent.
    """
    connection = socket.socket(fileno=fd)
    connection.set_inheritable(False)
    file = connection.makefile("rwb")
    worker: Worker | None = None
    while True:
        try:
            message, reply = pickle.load(file), None
        except (EOFError, OSError):  # the parent has closed the connection, or is gone
            return
        if worker is None:
            task, device = message
            os.setpgid(0, 0)  # a kill reaches its subprocesses, the terminal's Ctrl-C does not reach it
            adopt_orphans()
            # The first function is called last; after this process nobody finds its strays.
            atexit.register(_end_strays, os.getpid())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was blocked during the start
            log = Log(task.folder(worker_file_name(os.getpid(), "log")))
            telling = CurveFile(task.folder(worker_file_name(os.getpid(), "json")))
            faulthandler.enable(2)
            threading.Thread(target=_watch, args=(parent, log, telling), name="watchdog", daemon=True).start()
            worker = Worker(task, device, log, telling)
            with contextlib.suppress(BaseException):  # outside the timed evaluation; `work` reports errors
                worker.evaluator  # noqa: B018
                worker.unfit  # noqa: B018
        else:
            reply = worker.work(Candidate(**message["candidate"]), message["folder"])
        with contextlib.suppress(OSError):
            pickle.dump(reply, file)
            file.flush()


def _end_strays(worker: int) -> None:
    """Kill what the evaluations have left running in other process groups; do nothing in a fork of the worker."""
    if os.getpid() == worker:
        kill_strays(worker)


def _watch(parent: int, log: Log, telling: CurveFile) -> None:
    """Publish output and curves as they grow; kill this process and all that it started once the parent is gone."""
    while os.getppid() == parent:
        log.publish()
        log.shorten()
        telling.publish()
        time.sleep(TICK)
    log.remove()
    telling.remove()
    kill_strays(os.getpid())
    if mark := os.environ.get(WORKER):
        kill_marked(f"{WORKER}={mark}")
    os.killpg(os.getpgrp(), signal.SIGKILL)
