"""Tokens per second, their share of a device's peak (MFU), and the clock that times a training.

MFU is the model's required FLOPs over the device's peak FLOPs in the same time (PaLM, arXiv:2204.02311, appendix B).
Recomputation to save memory does not count. If the peak is unknown there is no MFU.
"""

import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from evo_tune.options.declare import check_integer, check_name, check_number


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
