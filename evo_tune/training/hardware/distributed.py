"""Several processes, the ranks, that train one model together: each takes a share of every step's samples.

Together they make the step that one process with the whole batch would make: the loss is normalised over all
targets of all ranks, the gradients are summed, and what decides a step (its loss, its gradient's norm) is
agreed upon before anyone acts on it, so no rank goes its own way. Gloo carries it on CPUs, NCCL on GPUs.
Who starts the processes is torchrun's business, or `launcher`'s. Knows nothing of recipes or schedules.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from evo_tune.errors import RecipeError, RunError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.training.batch import IGNORE, MicroBatch

__all__ = ["PassTooLarge", "Ranks", "RanksDiffer", "check_ranks", "process_group"]


_NEWER, _OLDER = "forward_sync_buffers", "broadcast_buffers"
_ALONE: dict[str, Any] = {_NEWER if _NEWER in inspect.signature(DistributedDataParallel).parameters else _OLDER: False}
"""Leave buffers alone: what newer torch calls it, and older, whose name now warns."""


class RanksDiffer(RunError):
    """Ranks that must hold the same weights do not: there is a bug, or a broken machine.

    Args:
        ranks: Those whose weights are not rank 0's.
        step: After how many steps it was seen.
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
    """A rank has no memory for a pass that could be smaller. It cannot try again: the others wait for it.

    So it ends, and with it all; whoever launched them may begin again with more parts (see `Ranks`).
    """


@dataclass(frozen=True)
class Ranks:
    """The group of processes, as one of them sees it. `process_group` makes it.

    Args:
        rank: Which one this is, from 0.
        size: How many there are.
        device: Where this one's model is to be.
        check_every: Steps between two looks at whether all hold the same weights; None: never.
        parts: Into how many each micro-batch is cut from the first step on, since larger ones did not fit; it changes
            no gradient.
    """

    rank: int
    size: int
    device: torch.device
    check_every: int | None = 100
    parts: int = 1

    def share(self, window: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Return this rank's part of a step: the parts of all ranks are the whole, each sample once.

        Micro-batches go round; where their number does not come out even, they are cut first. A rank for
        which nothing is left gets one sample without targets, since all must take part in each reduction.
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
        """Return the sum of a tensor over all ranks, the same bits on each; on the CPU or on `device`."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def least(self, *numbers: int) -> list[int]:
        """Return the least that any rank gives, number by number."""
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return [int(value) for value in values]

    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        """Return the model as one whose backward pass averages gradients over ranks; all begin as rank 0's.

        Buffers are left alone during a pass, see `settle`.
        """
        return DistributedDataParallel(
            model,
            device_ids=None if self.device.type == "cpu" else [self.device],
            gradient_as_bucket_view=True,
            **_ALONE,
        )

    def synchronised(self, model: nn.Module) -> nn.Module:
        """Return the model with batch norms that see all ranks' samples; the same one if it has none.

        Only on GPUs: torch's SyncBatchNorm has no CPU form. There each rank norms by its own samples.
        """
        if self.size == 1 or self.device.type != "cuda" or not _batch_norms(model):
            return model
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def out_of_memory(self, error: RuntimeError, *, smaller: bool) -> torch.OutOfMemoryError:
        """Return what a rank without memory raises.

        Args:
            error: What torch said.
            smaller: Whether its passes could be smaller.
        """
        text = f"rank {self.rank} is out of memory ({error})"
        if smaller:
            return PassTooLarge(f"{text} in passes of which each is a part of {self.parts}")
        return torch.OutOfMemoryError(f"{text}, and no pass of it can be smaller")

    def settle(self, model: nn.Module, step: int) -> None:
        """End a step: take over rank 0's batch-norm statistics, and compare weights now and then.

        Args:
            model: The model itself, not what `wrap` returned.
            step: How many steps are done.

        Raises:
            RanksDiffer: Some rank holds other weights than rank 0.
        """
        for norm in _batch_norms(model):
            if not isinstance(norm, nn.SyncBatchNorm):
                for buffer in norm.buffers():
                    dist.broadcast(buffer, 0)
        if self.check_every is not None and step % self.check_every == 0:
            self.compare(model, step)

    def compare(self, model: nn.Module, step: int) -> None:
        """Require that all ranks hold the same weights and buffers, to the bit.

        Raises:
            RanksDiffer: Some rank holds others than rank 0; raised on every rank.
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
    """Require a number of ranks that this machine can hold: on GPUs, one each.

    Args:
        ranks: How many processes on this machine.
        device: 'cpu' or 'cuda', or one of several GPUs such as 'cuda:0', which means all that are seen.

    Raises:
        RecipeError: It is not a whole number from 1, or more than there are GPUs; or the device is neither.
    """
    check_integer("ranks", ranks, 1)
    kind = torch.device(device).type
    check_name("device of ranks", kind, ("cpu", "cuda"))
    if kind == "cuda" and ranks > torch.cuda.device_count():
        raise RecipeError(
            "ranks", ranks, f"at most the {torch.cuda.device_count()} GPUs seen here: NCCL wants one each"
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
    """Join the other ranks, as torchrun's environment variables say, and leave them at the end.

    Leaving by an error breaks the group, so that the others, who may wait for this one, get an error at once.

    Args:
        device: 'cpu' (gloo) or 'cuda' (NCCL, each rank on the GPU of its local rank).
        timeout: Seconds that a rank waits for the others before it gives up.
        check_every: See `Ranks`.
        init_method: Where ranks find each other, as torch writes it.
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
    # Counts and hashes travel by gloo beside NCCL, so that they never wait for the GPU.
    backend = "gloo" if where.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        yield Ranks(rank, size, where, check_every, parts)
    except BaseException:
        if where.type == "cuda":
            dist.distributed_c10d._abort_process_group()  # destroying it would wait for what cannot end
        else:
            dist.destroy_process_group()
        raise
    # Replicas lie in cycles and hold on to the group: left to the end of the process, its threads would abort it.
    gc.collect()
    dist.destroy_process_group()


def _places() -> tuple[int, int, int, int]:
    """Return rank, number of ranks, and both on this machine."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name, "") for name in names]
    for name, value in zip(names, values, strict=True):
        if not value.isdigit():
            raise RecipeError(name, value, "a number in the environment: start with `torchrun --nproc-per-node 2 FILE`")
    rank, size, local, local_size = map(int, values)
    return rank, size, local, local_size
