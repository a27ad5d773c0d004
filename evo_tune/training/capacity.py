"""What a device has of memory, what a training took of it, and how to tell that it was too little.

Capacity is always the whole memory, never what happens to be free: what else runs there must not change how
a training is cut into micro-batches. The formulas are `memory`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from evo_tune.errors import RecipeError
from evo_tune.training._check import check_name, check_number

__all__ = ["calibrate_memory", "device_memory", "is_out_of_memory", "measured_peak"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's limit stands, under cgroup v2 and v1."""

_SIGNS = ("not enough memory", "can't allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; on a CPU torch says so by a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def device_memory(device: torch.device | str = "cpu") -> float:
    """Return the whole memory of a device, bytes: a GPU's own, or the machine's up to its container's limit.

    Raises:
        RecipeError: The device is neither a CPU nor a CUDA GPU.
    """
    device = torch.device(device)
    check_name("device", device.type, ("cpu", "cuda"))
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for path in map(Path, _LIMITS):
        try:
            limits.append(float(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or 'max'
            continue
    return min(limits)


def measured_peak(device: torch.device | str, run: Callable[[], object]) -> float | None:
    """Run something and return the most memory that torch held meanwhile, bytes; None on a CPU.

    On a CPU there is nothing honest to measure: a process keeps what it freed, so that its growth tells of
    what ran in it before. There the prediction stands, whose activations agree with autograd's to 1%.
    """
    device = torch.device(device)
    if device.type != "cuda":
        run()
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device))


def calibrate_memory(device: torch.device | str, predicted: float, step: Callable[[], object]) -> float:
    """Return measured over predicted memory of one training step: a factor for `plan_memory`.

    1 on a CPU, where the step is not even run; and 1 or more elsewhere, so that a probe which happened to
    take little promises nothing.

    Args:
        device: Where the step runs.
        predicted: Its peak by `predict_memory`, without the device's libraries, bytes.
        step: Does one step, weights and moments included.

    Raises:
        RecipeError: predicted is not above zero.
    """
    check_number("predicted", predicted, "(0, inf)")
    if torch.device(device).type == "cpu":
        return 1.0
    measured = measured_peak(device, step)
    if measured is None:
        raise RecipeError("device", str(device), "one whose memory torch measures")
    return max(1.0, measured / predicted)
