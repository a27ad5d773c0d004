"""Tokens per second, their share of a device's peak (MFU), and the clock that times a training.

MFU is the model's required FLOPs over the device's peak FLOPs in the same time (PaLM, arXiv:2204.02311, appendix B).
Recomputation to save memory does not count. If the peak is unknown there is no MFU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from evo_tune.options.bounds import check_integer, check_name, check_number


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


_TURING = "NVIDIA T4 data sheet"
_VOLTA = "NVIDIA V100 data sheet"
_AMPERE = "NVIDIA A100 data sheet"
_HOPPER = "NVIDIA H100 data sheet"
_GRACE = "NVIDIA GH200 data sheet"
_GA102 = "NVIDIA Ampere GA102 white paper"
_ADA = "NVIDIA Ada white paper"
_ADA_PRO = "NVIDIA Ada professional white paper"
_RTX_50 = "NVIDIA RTX Blackwell white paper"

CHIPS: tuple[Chip, ...] = (
    Chip(("GB200",), 80.0, 1250.0, 2500.0, 2500.0, 8000.0, "NVIDIA GB200 NVL72 data sheet"),
    Chip(("B200",), 75.0, 1125.0, 2250.0, 2250.0, 8000.0, "NVIDIA HGX B200 data sheet"),
    Chip(("H200",), 67.0, 494.5, 989.0, 989.0, 4800.0, "NVIDIA H200 data sheet"),
    Chip(("H200 NVL",), 60.0, 417.5, 835.0, 835.0, 4800.0, "NVIDIA H200 data sheet"),
    Chip(("GH200 480GB",), 67.0, 494.5, 989.0, 989.0, 4000.0, _GRACE),
    Chip(("GH200 144G HBM3e",), 67.0, 494.5, 989.0, 989.0, 4900.0, _GRACE),
    Chip(("H100 80GB HBM3",), 67.0, 494.5, 989.0, 989.0, 3350.0, _HOPPER),
    Chip(("H100 NVL",), 60.0, 417.5, 835.0, 835.0, 3900.0, _HOPPER),
    Chip(("H100 PCIe",), 51.0, 378.0, 756.0, 756.0, 2000.0, _HOPPER),
    Chip(("H20",), 44.0, 74.0, 148.0, 148.0, 4000.0, "NVIDIA H20 data sheet"),
    Chip(("A100-SXM4-80GB",), 19.5, 156.0, 312.0, 312.0, 2039.0, _AMPERE),
    Chip(("A100 80GB PCIe",), 19.5, 156.0, 312.0, 312.0, 1935.0, _AMPERE),
    Chip(("A100-SXM4-40GB", "A100-PCIE-40GB"), 19.5, 156.0, 312.0, 312.0, 1555.0, _AMPERE),
    Chip(("A40",), 37.4, 74.8, 149.7, 149.7, 696.0, "NVIDIA A40 data sheet"),
    Chip(("A30",), 10.3, 82.0, 165.0, 165.0, 933.0, "NVIDIA A30 data sheet"),
    Chip(("A10",), 31.2, 62.5, 125.0, 125.0, 600.0, "NVIDIA A10 data sheet"),
    Chip(("A10G",), 35.0, 35.0, 70.0, 70.0, 600.0, "NVIDIA A10G data sheet"),
    Chip(("L40S",), 91.6, 183.0, 362.0, 362.0, 864.0, "NVIDIA L40S data sheet"),
    Chip(("L40",), 90.5, 90.5, 181.0, 181.0, 864.0, "NVIDIA L40 data sheet"),
    Chip(("L4",), 30.3, 60.0, 121.0, 121.0, 300.0, "NVIDIA L4 data sheet"),
    Chip(("Tesla T4",), 8.1, None, None, 65.0, 320.0, _TURING),
    Chip(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), 15.7, None, None, 125.0, 900.0, _VOLTA),
    Chip(("Tesla V100-PCIE-16GB", "Tesla V100-PCIE-32GB"), 14.0, None, None, 112.0, 900.0, _VOLTA),
    Chip(("Tesla V100S-PCIE-32GB",), 16.4, None, None, 130.0, 1134.0, _VOLTA),
    Chip(("Tesla P100-PCIE-16GB",), 9.3, None, None, 18.7, 732.0, "NVIDIA P100 data sheet"),
    Chip(("RTX 6000 Ada Generation",), 91.1, 182.1, 364.2, 364.2, 960.0, _ADA_PRO),
    Chip(("RTX A6000",), 38.7, 77.4, 154.8, 154.8, 768.0, _GA102),
    Chip(("GeForce RTX 5090",), 104.8, 104.8, 209.5, 209.5, 1792.0, _RTX_50),
    Chip(("GeForce RTX 5080",), 56.3, 56.3, 112.6, 112.6, 960.0, _RTX_50),
    Chip(("GeForce RTX 4090",), 82.6, 82.6, 165.2, 165.2, 1008.0, _ADA),
    Chip(("GeForce RTX 4080",), 48.7, 48.7, 97.5, 97.5, 717.0, _ADA),
    Chip(("GeForce RTX 3090 Ti",), 40.0, 40.0, 80.0, 80.0, 1008.0, _ADA),
    Chip(("GeForce RTX 3090",), 35.6, 35.6, 71.0, 71.0, 936.0, _GA102),
    Chip(("AMD Instinct MI300X",), 163.4, 653.7, 1307.4, 1307.4, 5300.0, "AMD Instinct MI300X data sheet"),
)

_BY_NAME = {name: row for row in CHIPS for name in row.names}


def chip(device_name: str) -> Chip | None:
    """Return the row of a chip by its name from `torch.cuda.get_device_name`; None if it has none."""
    return _BY_NAME.get(device_name.strip().removeprefix("NVIDIA "))


SAFE = 1e-6
"""Learning rate at which no training diverges, for trainings that are discarded."""


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
    """Measures a training's speed as the on_step of `Trainer.run`: the median of tokens per second.

    A median ignores occasional evaluations and other processes. The first steps are skipped because of one-time work.

    Args:
        synchronise: Function that waits for the device, such as `torch.cuda.synchronize`; None if the device is
            synchronous, as a CPU.
        skip: Number of first steps that are not measured (int ≥ 0).
        clock: Function that returns seconds.

    Raises:
        RecipeError: skip is not an integer of at least 0.
    """

    def __init__(
        self,
        synchronise: Callable[[], object] | None = None,
        *,
        skip: int = 10,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_integer("skip", skip, 0)
        self._synchronise = synchronise
        self._skip = skip
        self._clock = clock
        self._last = 0.0
        self._rates: list[float] = []
        self.start()

    def start(self) -> None:
        """Start to measure here, for example after an evaluation, whose time must not count."""
        self._last = self._now()

    def __call__(self, targets: int) -> None:
        """Record the end of a step.

        Args:
            targets: Tokens of the step, without padding (`Step.targets`).
        """
        now, last = self._now(), self._last
        self._last = now
        if self._skip:
            self._skip -= 1
        elif now > last:
            self._rates.append(targets / (now - last))

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the measured steps; None without measured steps."""
        return statistics.median(self._rates) if self._rates else None

    def _now(self) -> float:
        if self._synchronise is not None:
            self._synchronise()
        return self._clock()


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return the clock that times a training on a device, in seconds.

    A training in one thread of a CPU is timed by the processor time of this process, which excludes other programs on
    the core.
    """
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
