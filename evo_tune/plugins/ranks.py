"""Several processes (ranks) that train one model together: start, messages, failures and termination.

`launch` starts them; each joins the others with `process_group`. This file knows nothing of models, and loads torch
inside functions only. `python -m evo_tune.plugins.ranks` runs as one rank.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evo_tune.errors import EvoTuneError, PluginError, RecipeError, RunError, is_out_of_memory
from evo_tune.options.declare import check_integer, check_name, check_number
from evo_tune.plugins.find import execute_file

if TYPE_CHECKING:
    import torch

# Seconds to wait for errors of other ranks after a failure, since the first failure is not always the first to be
# received.
GRACE = 2.0

# Words in errors that a rank raises because another rank has ended.
_ECHOES = ("connection", "gloo", "nccl", "peer", "abort")

# torchrun's environment variables.
_PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Group:
    """The group of processes, from the view of one of them. A subclass may add operations on a model.

    Args:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Device of this process's model.
        check_every: Steps between checks that all ranks have the same weights; None: never.
        parts: Number of parts of each micro-batch from the first step on, because larger ones did not fit in memory;
            it does not change the gradient.
    """

    rank: int
    size: int
    device: torch.device
    check_every: int | None = 100
    parts: int = 1


AnyGroup = TypeVar("AnyGroup", bound=Group)


class RankFailed(RunError):
    """A rank failed, so all ranks ended.

    Args:
        rank: Number of the rank that probably failed first.
        text: Its error message.
        status: Status of the rank's error, such as 'diverged' or 'out_of_memory'; 'failed' if it had none.
        smaller: Whether it failed for lack of memory in a pass that could be smaller.
    """

    def __init__(self, rank: int, text: str, status: str = "failed", smaller: bool = False) -> None:
        super().__init__(f"rank {rank}: {text}")
        self.rank = rank
        self.text = text
        self.status = status
        self.smaller = smaller

    def __reduce__(self) -> tuple[type[RankFailed], tuple[int, str, str, bool]]:
        return type(self), (self.rank, self.text, self.status, self.smaller)


def check_ranks(ranks: int, device: str) -> None:
    """Raise an error if this machine does not support a number of ranks; on GPUs, at most one rank per GPU.

    Args:
        ranks: Number of processes on this machine.
        device: 'cpu' or 'cuda', or one of several GPUs such as 'cuda:0', which means all visible GPUs.

    Raises:
        RecipeError: ranks is not an integer of at least 1, or exceeds the number of GPUs; or the device is neither.
    """
    check_integer("ranks", ranks, 1)
    kind = str(device).partition(":")[0]
    check_name("device of ranks", kind, ("cpu", "cuda"))
    if kind == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        if ranks > gpus:
            raise RecipeError("ranks", ranks, f"at most {gpus}, the number of GPUs: NCCL needs one for each rank")


@contextmanager
def process_group(
    device: str = "cpu",
    *,
    group: type[AnyGroup],
    timeout: float = 600.0,
    check_every: int | None = 100,
    init_method: str = "env://",
    parts: int = 1,
) -> Iterator[AnyGroup]:
    """Join the other ranks according to torchrun's environment variables, and leave them at the end.

    An error breaks the group, so that other ranks that wait for this one get an error at once.

    Args:
        device: 'cpu' (gloo) or 'cuda' (NCCL, each rank on the GPU of its local rank).
        group: Class of the result.
        timeout: Seconds that a rank waits for the others.
        check_every: See `Group`.
        init_method: URL where ranks find each other, in torch's format.
        parts: See `Group`.

    Raises:
        RecipeError: Not started by torchrun; more ranks than GPUs; a field is out of its range.
    """
    import torch
    import torch.distributed as dist

    check_number("timeout", timeout, "(0, inf)")
    check_integer("parts", parts, 1)
    if check_every is not None:
        check_integer("check_every", check_every, 1)
    values = [os.environ.get(name, "") for name in _PLACES]
    for name, value in zip(_PLACES, values, strict=True):
        if not value.isdigit():
            raise RecipeError(name, value, "a number in the environment: start with `torchrun --nproc-per-node 2 FILE`")
    rank, size, local_rank, local_size = map(int, values)
    check_ranks(local_size, device)
    rank_device = torch.device("cpu")
    if torch.device(device).type == "cuda":
        rank_device = torch.device("cuda", local_rank)
        torch.cuda.set_device(rank_device)
    # Counts and hashes use gloo in addition to NCCL, so that they never wait for the GPU.
    backend = "gloo" if rank_device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        yield group(rank, size, rank_device, check_every, parts)
    except BaseException:
        if rank_device.type == "cuda":
            # The public `destroy_process_group` waits for collectives, which cannot end once a rank has failed.
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
        raise
    # Replicas in reference cycles keep the group alive; its threads would abort the process at exit.
    gc.collect()
    dist.destroy_process_group()


# ---------------------------------------------------------------- in the process that starts the ranks


# A line from a rank, with its number: a dict, or None after the last one.
Message = tuple[int, dict[str, Any] | None]


def launch(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    ranks: int,
    group: type[Group] = Group,
    device: str = "cpu",
    threads: int = 1,
    timeout: float = 600.0,
    on_message: Callable[[dict[str, Any]], None] | None = None,
    parts: int = 1,
) -> Any:
    """Run `function(group, tell, **arguments)` in several processes and return rank 0's result.

    Function and class travel as names, which each rank imports; nothing is pickled.

    Args:
        function: Module-level function of a file. It gets an object of `group`, and a function that sends a dict to
            this process.
        arguments: Plain data.
        ranks: Number of processes; on GPUs each has its own.
        group: Class of an installed module that represents the group in each rank.
        device: 'cpu' or 'cuda'.
        threads: CPU threads of each process.
        timeout: Seconds that a rank waits for the others.
        on_message: Function called here with each message of rank 0; its errors end the ranks and are raised.
        parts: See `Group`.

    Raises:
        PluginError: The function is not at the top level of a file.
        RecipeError: More ranks than GPUs.
        RankFailed: A rank raised an error or died.
    """
    check_ranks(ranks, device)
    check_integer("threads", threads, 1)
    with tempfile.TemporaryDirectory(prefix="evo-tune-ranks-") as folder:
        order = {
            "function": function_reference(function),
            "group": {"module": group.__module__, "name": group.__name__},
            "arguments": dict(arguments),
            "device": device,
            "threads": threads,
            "timeout": timeout,
            "parts": parts,
            "store": Path(folder, "store").as_uri(),
        }
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        processes: list[subprocess.Popen[bytes]] = []
        results: dict[int, Any] = {}
        try:
            for rank in range(ranks):
                processes.append(_start_rank(rank, ranks, order, messages))
            while len(results) < ranks:
                rank, line = messages.get()
                if line is None and rank in results:
                    continue
                if line is None or "error" in line:
                    raise _cause(processes, messages, (rank, line))
                if "result" in line:
                    results[rank] = line["result"]
                elif rank == 0 and on_message is not None:
                    on_message(line["message"])
            return results[0]
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()


def function_reference(function: Callable[..., Any]) -> dict[str, str]:
    """Return file and name of a function, for `load_function`.

    Raises:
        PluginError: It is not at the top level of a file.
    """
    code = getattr(function, "__code__", None)
    if code is None or function.__qualname__ != function.__name__:
        name = getattr(function, "__qualname__", repr(function))
        raise PluginError(f"{name}: expected a function at the top level of a file, to be found there again")
    return {"file": os.path.abspath(code.co_filename), "name": function.__name__}


def _start_rank(
    rank: int, size: int, order: Mapping[str, Any], messages: queue.SimpleQueue[Message]
) -> subprocess.Popen[bytes]:
    """Start one rank and a thread that reads its messages."""
    env = {**os.environ, **dict(zip(_PLACES, map(str, (rank, size, rank, size)), strict=True))}
    env["OMP_NUM_THREADS"] = str(order["threads"])
    env["PYTHONSAFEPATH"] = "1"  # import only from this process's path, set in the next line
    env["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if sys.platform == "linux":  # one machine, so no port need be open to others
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
        env.setdefault("NCCL_SOCKET_IFNAME", "lo")
    reading_end, writing_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "evo_tune.plugins.ranks"], stdin=subprocess.PIPE, env=env, pass_fds=(writing_end,)
        )
    except BaseException:
        os.close(reading_end)
        raise
    finally:
        os.close(writing_end)

    def read_messages() -> None:
        with open(reading_end, encoding="utf-8") as lines:
            for line in lines:
                messages.put((rank, json.loads(line)))
        messages.put((rank, None))

    threading.Thread(target=read_messages, daemon=True).start()
    assert process.stdin is not None
    # The pipe stays open while this process lives; a rank ends when it closes.
    process.stdin.write(json.dumps({**order, "channel": writing_end}).encode() + b"\n")
    process.stdin.flush()
    return process


def _cause(
    processes: list[subprocess.Popen[bytes]], messages: queue.SimpleQueue[Message], first: Message
) -> RankFailed:
    """Return the failure that caused the others: the earliest one that is not an echo of another."""
    last_lines = dict([first])
    deadline = time.monotonic() + GRACE
    while len(last_lines) < len(processes) and (seconds := deadline - time.monotonic()) > 0:
        try:
            rank, line = messages.get(timeout=seconds)
        except queue.Empty:
            break
        if line is None or "error" in line:
            last_lines.setdefault(rank, line)
    failures = []
    for rank, line in last_lines.items():
        if line is not None:
            failures.append(RankFailed(rank, line["error"], line["status"], line["smaller"]))
            continue
        try:
            code = processes[rank].wait(GRACE)
            text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            text = "ended without a word"
        failures.append(RankFailed(rank, text, "crashed"))
    for failure in failures:
        if failure.status != "failed" or not any(word in failure.text.lower() for word in _ECHOES):
            return failure
    return failures[0]


# ---------------------------------------------------------------- in a rank


def main() -> int:
    """Run as a rank: read the order, execute it, and report the outcome."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    channel = open(order["channel"], "w", encoding="utf-8", buffering=1)  # noqa: SIM115 # open until exit

    def send(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    try:
        import torch

        torch.set_num_threads(order["threads"])
        function = load_function(**order["function"])
        group = getattr(importlib.import_module(order["group"]["module"]), order["group"]["name"])
        with process_group(
            order["device"], group=group, timeout=order["timeout"], init_method=order["store"], parts=order["parts"]
        ) as ranks:
            try:
                result = function(ranks, lambda message: send({"message": message}), **order["arguments"])
                send({"result": result if ranks.rank == 0 else None})
            except BaseException as error:  # report before the group breaks, which makes other ranks fail too
                send(_error_line(error))
                raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # may be a second report, after the reader has gone
            send(_error_line(error))
        if not _is_expected(error):
            traceback.print_exc()
        return 1
    return 0


def _is_expected(error: BaseException) -> bool:
    return isinstance(error, EvoTuneError) or hasattr(error, "status")


def _error_line(error: BaseException) -> dict[str, Any]:
    """Return the message that reports an error: its text, its status, and whether a pass could be smaller."""
    text = " ".join(str(error).split())
    return {
        "error": text if _is_expected(error) and text else f"{type(error).__name__}: {text}",
        "status": "out_of_memory" if is_out_of_memory(error) else getattr(error, "status", "failed"),
        "smaller": getattr(error, "smaller", False),
    }


def load_function(file: str, name: str) -> Callable[..., Any]:
    """Import a file by its path, as for plug-ins, and return a function of it."""
    path = Path(file)
    function: Callable[..., Any] = getattr(execute_file(f"evo_tune_rank_{path.stem}", path, path.read_bytes()), name)
    return function


def _exit_with_parent() -> None:
    """Exit at once when the parent process ends, which closes the other end of the pipe."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
