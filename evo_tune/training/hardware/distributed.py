"""The operations on a model of several processes that train it together. `plugins.ranks` starts and ends them."""

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from evo_tune.errors import RunError
from evo_tune.plugins import ranks as launcher
from evo_tune.training.hardware.device import IGNORE, MicroBatch

_NEWER, _OLDER = "forward_sync_buffers", "broadcast_buffers"
# Option not to synchronise buffers; newer torch renamed it and warns of the old name.
_ALONE: dict[str, Any] = {_NEWER if _NEWER in inspect.signature(DistributedDataParallel).parameters else _OLDER: False}


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

    def __reduce__(self) -> "tuple[type[RanksDiffer], tuple[tuple[int, ...], int]]":
        return type(self), (self.ranks, self.step)


class PassTooLarge(torch.OutOfMemoryError):
    """A rank has no memory for a pass that could be smaller. It cannot retry alone, since the other ranks wait for it.

    So all ranks end, and the launching process may restart them with more parts (see `Group`).
    """

    status = "out_of_memory"
    smaller = True


@dataclass(frozen=True)
class Ranks(launcher.Group):
    """The group of processes, from the view of one of them, with the operations on a model.

    `process_group` and `launch` make it; see `Group` for its arguments.
    """

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
            mine = [(inputs, torch.full_like(targets, math.nan if targets.is_floating_point() else IGNORE))]
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

    def share_out(self, function: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """Return `function(torch.stack(inputs))`: each rank computes a part of the rows, and all get the whole.

        Args:
            function: Function that treats each row by itself, and keeps shapes.
            inputs: Tensors of one shape, the same on each rank; at least one.
        """
        per_rank = -(-len(inputs) // self.size)
        first = self.rank * per_rank
        # The last ranks repeat some of the first rows, because all must send equally many.
        mine = function(torch.stack([inputs[(first + row) % len(inputs)] for row in range(per_rank)]))
        everyone = mine.new_empty((self.size * per_rank, *mine.shape[1:]))
        dist.all_gather(list(everyone.chunk(self.size)), mine)
        return everyone[: len(inputs)]

    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        """Return a model whose backward pass averages gradients over ranks; all ranks start with rank 0's weights.

        Buffers are not synchronised during a pass, see `settle`.
        """
        device_ids = None if self.device.type == "cpu" else [self.device]
        return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True, **_ALONE)

    def sync_batch_norms(self, model: nn.Module) -> nn.Module:
        """Return the model with batch norms over all ranks' samples; the same model if it has none.

        This works only on GPUs, since torch's SyncBatchNorm has no CPU version. On CPUs each rank uses its own samples.
        """
        if self.size == 1 or self.device.type != "cuda" or not _batch_norms(model):
            return model
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]

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
        # From the device come two numbers: a hash of all names, and one of all weights.
        state = sorted(model.state_dict().items())
        names = int.from_bytes(hashlib.sha256(repr([name for name, _ in state]).encode()).digest()[:7], "big")
        mine = torch.stack([torch.tensor(names), weight_hash([tensor for _, tensor in state]).cpu()])
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine)
        different = [rank for rank, theirs in enumerate(everyone) if not torch.equal(theirs, everyone[0])]
        if different:
            raise RanksDiffer(different, step)


# Odd numbers of 64 bits: the golden ratio's, and the multiplier of Knuth's MMIX.
_GOLDEN, _MMIX = -7046029254386353131, 6364136223846793005

# Words that are hashed at a time: few launches on a GPU, and the buffers fit into the cache of a CPU.
_WORDS_AT_ONCE = 1 << 17

_WORD_TYPES = {1: torch.uint8, 2: torch.int16}


def weight_hash(tensors: Sequence[Tensor]) -> Tensor:
    """Return a hash of the bits of all tensors, computed on their device without waiting for it.

    Each word of at most 32 bits is multiplied by an odd number that depends on its position. Their sum modulo 2⁶⁴ is
    the same in any order of summation, and a change of a single word always changes it.

    Args:
        tensors: Tensors of any type on one device, at least one.

    Returns:
        An int64 number, on the device.
    """
    device = tensors[0].device
    factors = torch.arange(_WORDS_AT_ONCE, device=device).mul_(_GOLDEN).bitwise_or_(1)
    total = torch.zeros((), dtype=torch.int64, device=device)
    for tensor in tensors:
        flat = tensor.detach().contiguous().flatten()
        for words in torch.split(flat.view(_WORD_TYPES.get(flat.element_size(), torch.int32)), _WORDS_AT_ONCE):
            total = total * _MMIX + (words * factors[: len(words)]).sum()
    return total


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def launch(function: Callable[..., Any], arguments: Mapping[str, Any], *, ranks: int, **options: Any) -> Any:
    """Run `function(ranks, tell, **arguments)` in several processes, each with its `Ranks`; return rank 0's result.

    Args:
        function: Module-level function of a file. It gets a `Ranks`, and a function that sends a dict to this process.
        arguments: Plain data.
        ranks: Number of processes; on GPUs each has its own.
        options: Options of `plugins.ranks.launch`: device, threads, timeout, on_message, parts.

    Raises:
        RecipeError: More ranks than GPUs, or a function that cannot be found by its file and name.
        RankFailed: A rank raised an error or died.
    """
    return launcher.launch(function, arguments, ranks=ranks, group=Ranks, **options)


def process_group(device: str = "cpu", **options: Any) -> AbstractContextManager[Ranks]:
    """Join the other ranks according to torchrun's environment variables, and leave them at the end.

    Args:
        device: 'cpu' (gloo) or 'cuda' (NCCL, each rank on the GPU of its local rank).
        options: Options of `plugins.ranks.process_group`: timeout, check_every, init_method, parts.

    Raises:
        RecipeError: Not started by torchrun; more ranks than GPUs; a field is out of its range.
    """
    return launcher.process_group(device, group=Ranks, **options)
