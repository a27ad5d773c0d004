"""Several processes that train together: start, communication, and termination."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.util
import inspect
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from evo_tune.errors import EvoTuneError, RecipeError, RunError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.training.hardware.device import IGNORE, MicroBatch
from evo_tune.training.hardware.memory import is_out_of_memory

_NEWER, _OLDER = "forward_sync_buffers", "broadcast_buffers"
_ALONE: dict[str, Any] = {_NEWER if _NEWER in inspect.signature(DistributedDataParallel).parameters else _OLDER: False}
"""Option not to synchronise buffers; newer torch renamed it and warns of the old name."""


class RanksDiffer(RunError):
    """Ranks that must have the same weights differ, because of a bug or a broken machine.

    Args:
        ranks: Ranks whose weights differ from rank 0's.
        step: Number of completed steps.
    """

    def __init__(self, ranks: Sequence[int], step: int) -> None:
        names = ", ".join(map(str, ranks))
        super().__init__(
            f"after step {step} the weights of rank {names} are not those of rank 0: expected the same bits; "
            "look for something that writes weights or buffers on one rank only"
        )
        self.ranks = tuple(ranks)
        self.step = step

    def __reduce__(self) -> tuple[type[RanksDiffer], tuple[tuple[int, ...], int]]:
        return type(self), (self.ranks, self.step)


class PassTooLarge(torch.OutOfMemoryError):
    """A rank has no memory for a pass that could be smaller. It cannot retry alone, since the other ranks wait for it.

    So all ranks end, and the launching process may restart them with more parts (see `Ranks`).
    """


@dataclass(frozen=True)
class Ranks:
    """The group of processes, from the view of one of them. `process_group` makes it.

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

    def share(self, window: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Return this rank's part of a step; all ranks' parts together contain each sample once.

        Micro-batches are dealt in turn; if the number of ranks does not divide theirs, they are cut first. A rank
        without samples gets one sample without targets, since all ranks must take part in each reduction.
        """
        if len(window) % self.size:
            pieces = ([part.tensor_split(self.size) for part in micro] for micro in window)
            window = [piece for micro in pieces for piece in zip(*micro, strict=True) if len(piece[0])]
        mine = window[self.rank :: self.size]
        if not mine and window:
            inputs, targets = window[0][0][:1], window[0][1][:1]
            mine = [(inputs, torch.full_like(targets, IGNORE))]
        return mine

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, bit-identical on each; the tensor is on the CPU or on `device`."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def least(self, *numbers: int) -> list[int]:
        """Return the minimum over all ranks of each number."""
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return [int(value) for value in values]

    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        """Return a model whose backward pass averages gradients over ranks; all ranks start with rank 0's weights.

        Buffers are not synchronised during a pass, see `settle`.
        """
        return DistributedDataParallel(
            model,
            device_ids=None if self.device.type == "cpu" else [self.device],
            gradient_as_bucket_view=True,
            **_ALONE,
        )

    def synchronised(self, model: nn.Module) -> nn.Module:
        """Return the model with batch norms over all ranks' samples; the same model if it has none.

        This works only on GPUs, since torch's SyncBatchNorm has no CPU version. On CPUs each rank uses its own samples.
        """
        if self.size == 1 or self.device.type != "cuda" or not _batch_norms(model):
            return model
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def out_of_memory(self, error: RuntimeError, *, smaller: bool) -> torch.OutOfMemoryError:
        """Return the error to raise if a rank runs out of memory.

        Args:
            error: Error that torch raised.
            smaller: Whether the rank's passes could be smaller.
        """
        text = f"rank {self.rank} is out of memory ({error})"
        if smaller:
            return PassTooLarge(f"{text} in passes of which each is a part of {self.parts}")
        return torch.OutOfMemoryError(f"{text}, and no pass of it can be smaller")

    def settle(self, model: nn.Module, step: int) -> None:
        """Finish a step: copy rank 0's batch norm statistics to all ranks, and regularly compare weights.

        Args:
            model: The model itself, not the result of `wrap`.
            step: Number of completed steps.

        Raises:
            RanksDiffer: The weights of a rank differ from rank 0's.
        """
        for norm in _batch_norms(model):
            if not isinstance(norm, nn.SyncBatchNorm):
                for buffer in norm.buffers():
                    dist.broadcast(buffer, 0)
        if self.check_every is not None and step % self.check_every == 0:
            self.compare(model, step)

    def compare(self, model: nn.Module, step: int) -> None:
        """Raise an error unless the weights and buffers of all ranks are bit-identical.

        Raises:
            RanksDiffer: A rank differs from rank 0; raised on every rank.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        other = [rank for rank, theirs in enumerate(everyone) if not torch.equal(theirs, everyone[0])]
        if other:
            raise RanksDiffer(other, step)


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def check_ranks(ranks: int, device: str) -> None:
    """Raise an error if this machine does not support a number of ranks; on GPUs, at most one rank per GPU.

    Args:
        ranks: Number of processes on this machine.
        device: 'cpu' or 'cuda', or one of several GPUs such as 'cuda:0', which means all visible GPUs.

    Raises:
        RecipeError: ranks is not an integer of at least 1, or exceeds the number of GPUs; or the device is neither.
    """
    check_integer("ranks", ranks, 1)
    kind = torch.device(device).type
    check_name("device of ranks", kind, ("cpu", "cuda"))
    if kind == "cuda" and ranks > torch.cuda.device_count():
        raise RecipeError(
            "ranks", ranks, f"at most {torch.cuda.device_count()}, the number of GPUs: NCCL needs one for each rank"
        )


@contextmanager
def process_group(
    device: str = "cpu",
    *,
    timeout: float = 600.0,
    check_every: int | None = 100,
    init_method: str = "env://",
    parts: int = 1,
) -> Iterator[Ranks]:
    """Join the other ranks according to torchrun's environment variables, and leave them at the end.

    An error breaks the group, so that other ranks that wait for this one get an error at once.

    Args:
        device: 'cpu' (gloo) or 'cuda' (NCCL, each rank on the GPU of its local rank).
        timeout: Seconds that a rank waits for the others.
        check_every: See `Ranks`.
        init_method: URL where ranks find each other, in torch's format.
        parts: See `Ranks`.

    Raises:
        RecipeError: Not started by torchrun; more ranks than GPUs; a field is out of its range.
    """
    check_number("timeout", timeout, "(0, inf)")
    check_integer("parts", parts, 1)
    if check_every is not None:
        check_integer("check_every", check_every, 1)
    rank, size, local, local_size = _places()
    check_ranks(local_size, device)
    where = torch.device("cpu")
    if torch.device(device).type == "cuda":
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    # Counts and hashes use gloo in addition to NCCL, so that they never wait for the GPU.
    backend = "gloo" if where.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        yield Ranks(rank, size, where, check_every, parts)
    except BaseException:
        if where.type == "cuda":
            # The public `destroy_process_group` waits for collectives, which cannot end once a rank has failed.
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
        raise
    # Replicas in reference cycles keep the group alive; its threads would abort the process at exit.
    gc.collect()
    dist.destroy_process_group()


def _places() -> tuple[int, int, int, int]:
    """Return rank and number of ranks, then local rank and local number of ranks."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    for name, value in zip(names, values, strict=True):
        if not value.isdigit():
            raise RecipeError(name, value, "a number in the environment: start with `torchrun --nproc-per-node 2 FILE`")
    rank, size, local, local_size = map(int, values)
    return rank, size, local, local_size


GRACE = 2.0
"""Seconds to wait for errors of other ranks after a failure, since the first failure is not always the first
to be received.
"""

_ECHOES = ("connection", "gloo", "nccl", "peer", "abort")
"""Words in errors that a rank raises because another rank has ended."""


class RankFailed(RunError):
    """A rank failed, so all ranks ended.

    Args:
        rank: Number of the rank that probably failed first.
        text: Its error message.
        status: Status of the rank's error, such as 'diverged' or 'out_of_memory'; 'failed' if it had none.
        smaller: Whether it failed for lack of memory in a pass that could be smaller (see `PassTooLarge`).
    """

    def __init__(self, rank: int, text: str, status: str = "failed", smaller: bool = False) -> None:
        super().__init__(f"rank {rank}: {text}")
        self.rank = rank
        self.text = text
        self.status = status
        self.smaller = smaller

    def __reduce__(self) -> tuple[type[RankFailed], tuple[int, str, str, bool]]:
        return type(self), (self.rank, self.text, self.status, self.smaller)


class _Word(NamedTuple):
    """A message from a rank to the launching process: one line, or None after the last one."""

    rank: int
    line: dict[str, Any] | None


def launch(
    function: FunctionType | Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    ranks: int,
    device: str = "cpu",
    threads: int = 1,
    timeout: float = 600.0,
    on_message: Callable[[dict[str, Any]], None] | None = None,
    parts: int = 1,
) -> Any:
    """Run `function(ranks, tell, **arguments)` in several processes and return rank 0's result.

    Args:
        function: Module-level function of a file. It gets a `Ranks`, and a function that sends a dict to
            this process.
        arguments: Plain data.
        ranks: Number of processes; on GPUs each has its own.
        device: 'cpu' or 'cuda'.
        threads: CPU threads of each process.
        timeout: Seconds that a rank waits for the others.
        on_message: Function called here with each message of rank 0; its errors end the ranks and are raised.
        parts: See `Ranks`.

    Raises:
        RecipeError: More ranks than GPUs, or a function that cannot be found by its file and name.
        RankFailed: A rank raised an error or died.
    """
    check_ranks(ranks, device)
    check_integer("threads", threads, 1)
    code = getattr(function, "__code__", None)
    if code is None or function.__qualname__ != function.__name__:
        raise RecipeError("function", getattr(function, "__qualname__", repr(function)), "a function of a file")
    with tempfile.TemporaryDirectory(prefix="evo-tune-ranks-") as folder:
        order = {
            "file": os.path.abspath(code.co_filename),
            "function": function.__name__,
            "arguments": dict(arguments),
            "device": device,
            "timeout": timeout,
            "parts": parts,
            "store": Path(folder, "store").as_uri(),
        }
        words: queue.SimpleQueue[_Word] = queue.SimpleQueue()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                processes.append(_start(rank, ranks, order, threads, words))
            return _listen(processes, words, on_message)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()


def _start(
    rank: int, size: int, order: Mapping[str, Any], threads: int, words: queue.SimpleQueue[_Word]
) -> subprocess.Popen[bytes]:
    """Start one rank and a thread that reads its messages."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    env = {**os.environ, **{name: str(value) for name, value in places.items()}}
    env["OMP_NUM_THREADS"] = str(threads)
    env["PYTHONSAFEPATH"] = "1"  # import only from this process's path, set in the next line
    env["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if sys.platform == "linux":  # one machine, so no port need be open to others
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
        env.setdefault("NCCL_SOCKET_IFNAME", "lo")
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "evo_tune.training.hardware.distributed"],
            stdin=subprocess.PIPE,
            env=env,
            pass_fds=(writing,),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    threading.Thread(target=_hear, args=(rank, reading, words), daemon=True).start()
    assert process.stdin is not None
    # The pipe stays open while this process lives; a rank ends when it closes.
    process.stdin.write(json.dumps({**order, "channel": writing, "threads": threads}).encode() + b"\n")
    process.stdin.flush()
    return process


def _hear(rank: int, channel: int, words: queue.SimpleQueue[_Word]) -> None:
    with open(channel, encoding="utf-8") as lines:
        for line in lines:
            words.put(_Word(rank, json.loads(line)))
    words.put(_Word(rank, None))


def _listen(
    processes: list[subprocess.Popen[bytes]],
    words: queue.SimpleQueue[_Word],
    on_message: Callable[[dict[str, Any]], None] | None,
) -> Any:
    """Return rank 0's result after all ranks have finished, or raise the first error."""
    results: dict[int, Any] = {}
    while len(results) < len(processes):
        rank, line = words.get()
        if line is None and rank in results:
            continue
        if line is None or "error" in line:
            _fail(processes, words, _Word(rank, line))
        if "result" in line:
            results[rank] = line["result"]
        elif rank == 0 and on_message is not None:
            on_message(line["message"])
    return results[0]


def _fail(processes: list[subprocess.Popen[bytes]], words: queue.SimpleQueue[_Word], first: _Word) -> NoReturn:
    """Raise the failure that caused the others: the earliest one that is not an echo of another."""
    heard = {first.rank: first}
    deadline = time.monotonic() + GRACE
    while len(heard) < len(processes) and (left := deadline - time.monotonic()) > 0:
        try:
            word = words.get(timeout=left)
        except queue.Empty:
            break
        if word.line is None or "error" in word.line:
            heard.setdefault(word.rank, word)
    failures = [_failure(word, processes[word.rank]) for word in heard.values()]
    raise next((failure for failure in failures if not _is_echo(failure)), failures[0])


def _failure(word: _Word, process: subprocess.Popen[bytes]) -> RankFailed:
    if word.line is not None:
        return RankFailed(word.rank, word.line["error"], word.line["status"], word.line["smaller"])
    try:
        code = process.wait(GRACE)
    except subprocess.TimeoutExpired:
        return RankFailed(word.rank, "ended without a word", "crashed")
    return RankFailed(word.rank, f"killed by signal {-code}" if code < 0 else f"exit code {code}", "crashed")


def _is_echo(failure: RankFailed) -> bool:
    return failure.status == "failed" and any(word in failure.text.lower() for word in _ECHOES)


# ---------------------------------------------------------------- in a rank


def main() -> int:
    """Run as a rank: read the order, execute it, and report the outcome."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    channel = open(order["channel"], "w", encoding="utf-8", buffering=1)  # noqa: SIM115 # open until exit

    def say(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    try:
        import torch

        torch.set_num_threads(order["threads"])
        function = _load(Path(order["file"]), order["function"])
        with process_group(
            order["device"], timeout=order["timeout"], init_method=order["store"], parts=order["parts"]
        ) as ranks:
            try:
                result = function(ranks, lambda message: say({"message": message}), **order["arguments"])
                say({"result": result if ranks.rank == 0 else None})
            except BaseException as error:  # report before the group breaks, which makes other ranks fail too
                say(_told(error))
                raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # may be a second report, after the reader has gone
            say(_told(error))
        if not isinstance(error, EvoTuneError | PassTooLarge) and not hasattr(error, "status"):
            traceback.print_exc()
        return 1
    return 0


def _told(error: BaseException) -> dict[str, Any]:
    text = " ".join(str(error).split())
    expected = isinstance(error, EvoTuneError | PassTooLarge) or hasattr(error, "status")
    status = "out_of_memory" if is_out_of_memory(error) else getattr(error, "status", "failed")
    said = text if expected and text else f"{type(error).__name__}: {text}"
    return {"error": said, "status": status, "smaller": isinstance(error, PassTooLarge)}


def _load(path: Path, name: str) -> Callable[..., Any]:
    """Import a file by its path, as for plug-ins, and return a function of it."""
    spec = importlib.util.spec_from_file_location(f"evo_tune_rank_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError("file", str(path), "a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and typing look up their module here
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name)
    return function


def _end_with_parent() -> None:
    """Exit at once when the parent process ends, which closes the other end of the pipe."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
