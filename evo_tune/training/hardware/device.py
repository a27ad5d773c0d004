"""How a process computes: its seeds, its settings, its allocator, tensors on their way to a device."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evo_tune.options.bounds import check_integer

IGNORE = -100
"""A target of this value is padding and counts nowhere (torch's own convention)."""

MicroBatch: TypeAlias = "tuple[Tensor, Tensor]"
"""Inputs and targets; the first dimension of both is the sample. Targets are class numbers, (…), or the
probability of each class, (…, classes), of a floating type; the latter are all valid."""


def onto(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; one that comes from the host to a GPU is pinned, so that nobody waits for it."""
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
    "growth": 8,
}


def seed_for(seed: int, purpose: str, *index: int) -> int:
    """Return a seed of its own for one purpose.

    Args:
        seed: The training's seed, 0 to 2³² − 1.
        purpose: 'weights', 'order' (of the data), 'noise' (of torch's own layers), 'dropout' (of ours, by layer),
            'samples' (and by sample), 'mixing' (of samples), 'augmenting' (them) or 'growth' (of a model, midway).
        index: Which one: a step, an epoch, a rank.

    Raises:
        RecipeError: The seed is out of its range.
    """
    return seeds_for(seed, purpose, 1, *index)[0]


def seeds_for(seed: int, purpose: str, count: int, *index: int) -> list[int]:
    """Return several seeds of one purpose, the first of them what `seed_for` returns.

    Raises:
        RecipeError: The seed is out of its range.
    """
    check_integer("seed", seed, 0, 2**32 - 1)
    words = np.random.SeedSequence([seed, _PURPOSES[purpose], *index]).generate_state(count, np.uint64)
    return [int(word) >> 1 for word in words]  # torch takes 64 bits, numpy's legacy and files are happier with 63


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, from which torch's own layers draw."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # a tenth of the time of torch.manual_seed, which asks CUDA
    else:
        torch.manual_seed(seed)


def _be_deterministic(yes: bool) -> None:
    """Switch torch's deterministic algorithms on or off.

    torch's own function tells its compiler too, which takes a second to import and is not used here.
    """
    switch = getattr(torch._C, "_set_deterministic_algorithms", None)
    if switch is None:
        torch.use_deterministic_algorithms(yes)
    else:
        switch(yes, warn_only=False)


@contextmanager
def reproducible(threads: int, device: str = "cpu", *, strict: bool = True) -> Iterator[None]:
    """Hold torch to deterministic algorithms and a number of threads; both are put back after.

    Args:
        threads: CPU threads, 1 or more. Results differ between numbers of threads, in the last bits.
        device: Where the training will be; for CUDA it must be entered before CUDA is first used.
        strict: Whether to: deterministic algorithms rule out some of the faster ones of a GPU, cuDNN's attention for
            one.

    Raises:
        RecipeError: threads is not a whole number from 1.
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
        _be_deterministic(strict)
        # It would write NaN into every fresh buffer: a debugging aid that costs time in each step.
        debugging.fill_uninitialized_memory = False
        yield
    finally:
        debugging.fill_uninitialized_memory = fill
        _be_deterministic(before[1])
        torch.set_num_threads(before[0])


# From glibc's malloc.h. Above 32 MiB it takes no mapping threshold; so large a buffer pays for itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process's allocator keep up to 2 GiB of freed memory from now on.

    Returns:
        Whether the allocator can: glibc's can; musl, macOS and Windows stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    return True


def run_block(block: nn.Module, number: int, every: int | None, *inputs: Tensor | None) -> Tensor:
    """Return the block's output, to be computed again if its number is a multiple of `every` (None: never)."""
    if every is None or number % every or not torch.is_grad_enabled():
        output: Tensor = block(*inputs)
    else:
        output = checkpoint(block, *inputs, use_reentrant=False)
    return output
