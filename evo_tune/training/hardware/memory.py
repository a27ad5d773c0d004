"""Memory of a device and of a training, and the largest pass that fits.

Capacity is always the whole memory, never the free memory: other programs must not change how a training is cut into
passes. The formulas and their constants are those of `recipe.hardware.memory`.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from evo_tune.options.declare import check_name
from evo_tune.training.recipe.hardware.memory import Fit, fit_memory
from evo_tune.training.recipe.models.gpt_config import GPTConfig

# Files with a container's limit, under cgroup v2 and v1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_memory(device: torch.device | str = "cpu") -> float:
    """Return the whole memory of a device in bytes: a GPU's own, or the machine's up to its container's limit.

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


def free_memory(device: torch.device | str = "cpu") -> float:
    """Return the free memory of a device in bytes; of other devices than GPUs, that of the machine."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    whole = device_memory()
    try:
        sizes = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return min(whole, 1024.0 * int(sizes["MemAvailable:"]))
    except (OSError, KeyError, ValueError):  # no Linux
        return whole


def measure_peak_memory(device: torch.device | str, run: Callable[[], object]) -> float | None:
    """Run a function and return torch's peak memory meanwhile, in bytes; None on a CPU.

    A CPU process keeps freed memory, so its growth depends on earlier work and is no useful measure. Use the prediction
    there; its activations agree with autograd's to 1%.
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


def fit_device(config: GPTConfig, batch: int, device: torch.device | str, *, sharing: int = 1, **options: Any) -> Fit:
    """Return how to train a model within a device's whole memory, independent of other programs.

    Args:
        config: Shape of the model.
        batch: Sequences in a step of one process.
        device: Device of the training. If torch cannot report its memory (such as 'mps'), the batch is one pass; the
            trainer halves it if memory runs out.
        sharing: Processes of this training on this machine, which share a CPU's memory.
        options: Options of `predict_memory`, except device and recompute.

    Raises:
        RecipeError: A field is out of its range, or not even one sequence fits.
    """
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    return fit_memory(config, batch, process_memory(device, sharing), device=kind, **options)


def process_memory(device: torch.device | str, sharing: int) -> float:
    """Return the memory of one of the processes that share a device, in bytes; infinite if torch cannot report it."""
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        return math.inf
    return device_memory(device) / (sharing if kind == "cpu" else 1)
