"""A process and its device: seeds, determinism, the allocator, memory, and the speed of a training.

Capacity is always the whole memory, never the free memory: other programs must not change how a training is cut into
passes. The formulas and their constants are those of `recipe.hardware.memory`.

MFU is the model's required FLOPs over the device's peak FLOPs in the same time (PaLM, arXiv:2204.02311, appendix B).
Recomputation to save memory does not count. If the peak is unknown there is no MFU.
"""

import csv
import ctypes
import math
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import psutil  # type: ignore[import-untyped] # it has no types
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer, check_name, check_number
from evo_tune.training.recipe.hardware.memory import Fit, fit_memory
from evo_tune.training.recipe.models.gpt_config import GPTConfig

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


# Memory

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
    return min(device_memory(), float(psutil.virtual_memory().available))


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


# Speed


class Chip(NamedTuple):
    """Data of a chip.

    Args:
        names: Names that torch reports, without a leading 'NVIDIA', which older drivers omit.
        fp32: TFLOP/s in float32, without TF32, which torch disables by default.
        tf32: TFLOP/s of float32 by TF32; None: not supported.
        bf16: TFLOP/s in bfloat16; None: not supported.
        fp16: TFLOP/s in float16.
        bandwidth: Memory bandwidth, GB/s.
        source: Source of the data.
    """

    names: tuple[str, ...]
    fp32: float
    tf32: float | None
    bf16: float | None
    fp16: float
    bandwidth: float
    source: str


with Path(__file__).with_name("chips.csv").open(encoding="utf-8", newline="") as _file:
    CHIPS: list[Chip] = [
        Chip(tuple(names.split("|")), *(float(number) if number else None for number in numbers), source)  # type: ignore[call-arg, arg-type]
        for names, *numbers, source in list(csv.reader(_file))[1:]
    ]


def chip(device_name: str) -> Chip | None:
    """Return the row of a chip by its name from `torch.cuda.get_device_name`; None if it has none."""
    name = device_name.strip().removeprefix("NVIDIA ")
    return next((row for row in CHIPS if name in row.names), None)


def peak_flops(device_name: str, precision: str = "bf16") -> float | None:
    """Return the peak of one device in FLOP/s; None if it is not in the table of chips, as for any CPU.

    Args:
        device_name: Name from `torch.cuda.get_device_name`.
        precision: 'fp32' (without TF32), 'tf32', 'bf16' or 'fp16'; None is returned if the chip lacks it.

    Raises:
        RecipeError: An unknown precision.
    """
    check_name("precision", precision, ("fp32", "tf32", "bf16", "fp16"))
    row = chip(device_name)
    peak = None if row is None else getattr(row, precision)
    return None if peak is None else 1e12 * float(peak)


def mfu(flops_per_token: float, tokens_per_second: float, peak: float | None, *, devices: int = 1) -> float | None:
    """Return the share of the peak that was used; None if the peak is unknown.

    Args:
        flops_per_token: FLOPs of training on one token (see `gpt_config.flops_per_token`); without recomputation.
        tokens_per_second: Tokens per second of all devices together, without padding.
        peak: Peak of one device, FLOP/s.
        devices: Number of devices.

    Raises:
        RecipeError: A number is out of its range.
    """
    check_number("flops_per_token", flops_per_token, "(0, inf)")
    check_number("tokens_per_second", tokens_per_second, "[0, inf)")
    check_integer("devices", devices, 1)
    if peak is None:
        return None
    check_number("peak", peak, "(0, inf)")
    return flops_per_token * tokens_per_second / (peak * devices)


class Throughput:
    """Measures a training's speed as the on_step of `Trainer.run`: the median of tokens per second of wall time.

    A median ignores occasional evaluations and other processes. The first steps are skipped because of one-time work.

    Args:
        skip: Number of first steps that are not measured (int ≥ 0).
        clock: Function that returns seconds.

    Raises:
        RecipeError: skip is not an integer of at least 0.
    """

    def __init__(self, *, skip: int = 10, clock: Callable[[], float] = time.perf_counter) -> None:
        check_integer("skip", skip, 0)
        self._skip, self._clock = skip, clock
        self._rates: list[float] = []
        self.start()

    def start(self) -> None:
        """Start to measure here, for example after an evaluation, whose time must not count."""
        self._last = self._clock()

    def __call__(self, targets: int) -> None:
        """Record the end of a step.

        Args:
            targets: Tokens of the step, without padding (`Step.targets`).
        """
        now, last = self._clock(), self._last
        self._last = now
        if self._skip:
            self._skip -= 1
        elif now > last:
            self._rates.append(targets / (now - last))

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the measured steps; None without measured steps."""
        return statistics.median(self._rates) if self._rates else None


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return the clock that times a training on a device, in seconds.

    A training in one thread of a CPU is timed by the processor time of this process, which excludes other programs on
    the core.
    """
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
