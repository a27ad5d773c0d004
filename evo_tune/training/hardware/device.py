"""Settings of a process: seeds, determinism, the allocator, and moving tensors to a device."""

import ctypes
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer

# Target value of padding, which never counts (torch's own convention).
IGNORE = -100

# Inputs and targets; the first dimension of both is the sample. Targets are class numbers, (…), or floating-point
# probabilities of each class, (…, classes), which all count.
MicroBatch: TypeAlias = "tuple[Tensor, Tensor]"


def onto(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; from the host to a GPU it is pinned, so that the copy does not wait."""
    if str(device).startswith("cuda") and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


_PURPOSES = {
    "weights": 0,
    "order": 1,
    "noise": 2,
    "mixing": 3,
    "dropout": 5,
    "samples": 6,
    "augmenting": 7,
}


def seed_for(seed: int, purpose: str, *index: int) -> int:
    """Return a separate seed for one purpose.

    Args:
        seed: Seed of the training, 0 to 2³² − 1.
        purpose: 'weights', 'order' (of the data), 'noise' (of torch's own layers), 'dropout' (by layer),
            'samples' (dropout by sample), 'mixing' (mixup) or 'augmenting' (of samples).
        index: Further numbers, such as a step, an epoch or a rank.

    Raises:
        RecipeError: The seed is out of its range.
    """
    return seeds_for(seed, purpose, 1, *index)[0]


def seeds_for(seed: int, purpose: str, count: int, *index: int) -> list[int]:
    """Return several seeds of one purpose; the first is that of `seed_for`.

    Raises:
        RecipeError: The seed is out of its range.
    """
    check_integer("seed", seed, 0, 2**32 - 1)
    words = np.random.SeedSequence([seed, _PURPOSES[purpose], *index]).generate_state(count, np.uint64)
    return [int(word) >> 1 for word in words]  # 63 bits: signed 64-bit integers are safe in numpy and in files


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, which torch's own layers use."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # takes a tenth of the time of torch.manual_seed, which asks CUDA
    else:
        torch.manual_seed(seed)


# torch's text about an operator without a deterministic algorithm.
_NO_ALGORITHM = re.compile(r"(\S+) does not have a deterministic implementation")


def be_deterministic(yes: bool, *, warn_only: bool = False) -> None:
    """Switch torch's deterministic algorithms on or off.

    torch's own function also notifies its compiler, whose import takes a second and is not needed here.

    Args:
        yes: Whether to use deterministic algorithms only.
        warn_only: Whether an operator without one gives a warning instead of an error.
    """
    switch = getattr(torch._C, "_set_deterministic_algorithms", torch.use_deterministic_algorithms)
    switch(yes, warn_only=warn_only)


def nondeterministic_operators(function: Callable[[], object]) -> list[str]:
    """Call a function, and return the names of the operators in it that have no deterministic algorithm.

    They run all the same. Deterministic algorithms are required again afterwards.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        be_deterministic(True, warn_only=True)
        try:
            function()
        finally:
            be_deterministic(True)
    return sorted({name[1] for warning in caught if (name := _NO_ALGORITHM.match(str(warning.message)))})


@contextmanager
def reproducible(threads: int, device: str = "cpu", *, strict: bool = True) -> Iterator[None]:
    """Set torch to deterministic algorithms and a number of threads; both are restored afterwards.

    Args:
        threads: Number of CPU threads (int ≥ 1). Results differ between numbers of threads in the last bits.
        device: Device of the training; for CUDA, enter the context before CUDA is first used.
        strict: Whether to require deterministic algorithms. They exclude some of a GPU's faster ones, such as cuDNN's
            attention.

    Raises:
        RecipeError: threads is not an integer of at least 1, or an operator has no deterministic algorithm.
    """
    check_integer("threads", threads, 1)
    if torch.device(device).type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    debugging: Any = torch.utils.deterministic
    fill = debugging.fill_uninitialized_memory
    try:
        if before[0] != threads:
            torch.set_num_threads(threads)
        be_deterministic(strict)
        # A debugging aid that writes NaN into every new buffer, which costs time in each step.
        debugging.fill_uninitialized_memory = False
        yield
    except RuntimeError as error:
        if name := _NO_ALGORITHM.match(str(error)):
            reason = f"auto or false, since {name[1]} has no deterministic algorithm on {device}"
            raise RecipeError("deterministic", True, reason) from error
        raise
    finally:
        debugging.fill_uninitialized_memory = fill
        be_deterministic(before[1])
        torch.set_num_threads(before[0])


def keep_freed_memory() -> bool:
    """Set this process's allocator to keep up to 2 GiB of freed memory.

    Returns:
        Whether the allocator supports it: glibc's does; musl, macOS and Windows are unchanged.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never
    mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: the largest that glibc accepts; mapping larger buffers is cheap enough
    return True


def run_block(block: nn.Module, number: int, every: int | None, *inputs: Tensor | None) -> Tensor:
    """Return the block's output; if `every` divides its number, recompute it in the backward pass (None: never)."""
    if every is None or number % every or not torch.is_grad_enabled():
        output: Tensor = block(*inputs)
    else:
        output = checkpoint(block, *inputs, use_reentrant=False)
    return output
