"""Options of precision, passes and processes, and the sizes that suit a device."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Options):
    """Precision and kernels."""

    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = option(
        "auto",
        gene=None,
        help="Precision of matrix products; auto: bf16 if faster, fp16 on a GPU without bf16; tf32: fp32 by TF32",
    )
    compile: bool = option(
        False,
        gene=None,
        help="Compile the blocks (about a minute per shape); on a GPU, attention windows then use flex_attention",
    )
    deterministic: bool = option(
        True, gene=None, help="Use only deterministic algorithms; false: allow faster ones on a GPU"
    )


@dataclass(frozen=True, kw_only=True)
class PassOptions(Options):
    """Memory."""

    micro_batch: int | Literal["auto"] | None = option(
        "auto",
        bounds="[2, inf)",
        unit="tokens",
        gene=None,
        help="Maximum tokens per pass; gradients do not change; auto: as many as fit the device's memory",
    )
    recompute: int | None = option(
        None,
        bounds="[1, inf)",
        gene=None,
        help="Recompute every n-th block in the backward pass, to save memory; none: no block",
    )


@dataclass(frozen=True, kw_only=True)
class RankOptions(Options):
    """Processes on this machine."""

    ranks: int = option(
        1, bounds="[1, 64]", gene=None, help="Data-parallel processes, each with the slot's threads or its own GPU"
    )


def storage_precision(precision: str) -> str:
    """Return the precision of stored weights; that of tf32 is fp32."""
    return "fp32" if precision == "tf32" else precision


def has_gpu(device: str | None = None) -> bool:
    """Return whether a training has, or would have, an NVIDIA GPU.

    Args:
        device: Device of the training. None: not known yet; the driver's files and CUDA_VISIBLE_DEVICES are checked,
            without loading torch.
    """
    if device is not None:
        return device.startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return not hidden and (Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists())


AS_FAST = 0.9
"""Share of the best speed at which a size counts as equally fast."""

IDLE = 0.5
"""Share of the best speed below which a chip idles."""

GAIN = 1.3
"""Speed-up required of a lower precision; the same as in `fastest_precision`."""

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Timings:
    """Measured speeds of a device; all except `products` in its fastest precision.

    Args:
        device: Name of the device.
        products: Speed of products of square matrices, by precision and by side. Unit: FLOP/s.
        widths: Speed of a layer, by its width. Unit: FLOP/s.
        vocabularies: Speed of an output head, by its outputs. Unit: FLOP/s.
        head_sizes: Speed of attention, by channels of a head. Unit: FLOP/s.
        batches: Speed of a layer, by tokens in a step. Unit: FLOP/s.
        bandwidth: Speed of a copy, reads and writes together. Unit: bytes/s.
        launch: Duration of the smallest operation. Unit: s.
    """

    device: str
    products: Mapping[str, Mapping[int, float]]
    widths: Mapping[int, float]
    vocabularies: Mapping[int, float]
    head_sizes: Mapping[int, float]
    batches: Mapping[int, float]
    bandwidth: float
    launch: float


@dataclass(frozen=True)
class DeviceSizes:
    """Sizes and precision that suit a device.

    Args:
        precision: Precision of the fastest products if they gain 30 % or more; otherwise fp32.
        width: Number that should divide a width.
        vocabulary: Number that should divide a vocabulary's size.
        head_sizes: Channels of a head that are as fast as the best.
        batch: Size of a step below which the chip is idle half of the time or more. Unit: tokens.
    """

    precision: str
    width: int
    vocabulary: int
    head_sizes: tuple[int, ...]
    batch: int


def sizes_for_device(timings: Timings) -> DeviceSizes:
    """Return the sizes and precision that suit a device."""
    best = {name: max(speeds.values()) for name, speeds in timings.products.items()}
    fastest = max(best, key=lambda name: best[name])
    idle_speed = IDLE * max(timings.batches.values())
    return DeviceSizes(
        precision=fastest if best[fastest] >= GAIN * best["fp32"] else "fp32",
        width=_fast_multiple(timings.widths),
        vocabulary=_fast_multiple(timings.vocabularies),
        head_sizes=_fast_sizes(timings.head_sizes),
        batch=min(tokens for tokens, speed in timings.batches.items() if speed >= idle_speed),
    )


def _fast_sizes(speeds: Mapping[int, float]) -> tuple[int, ...]:
    return tuple(sorted(size for size, speed in speeds.items() if speed >= AS_FAST * max(speeds.values())))


def _fast_multiple(speeds: Mapping[int, float]) -> int:
    """Return the smallest power of two whose timed multiples are all as fast as the best."""
    fast_sizes = set(_fast_sizes(speeds))
    for multiple in MULTIPLES:
        multiples = {size for size in speeds if size % multiple == 0}
        if multiples and multiples <= fast_sizes:
            return multiple
    return max(multiple for multiple in MULTIPLES if any(size % multiple == 0 for size in fast_sizes))


FEWEST = 4
"""Minimum number of widths in a space after rounding."""

MEASURED_PROFILE = re.compile(r"width (\d+), heads (\d+(?: \d+)*)")

P = TypeVar("P", bound="ProfileOptions")


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Options):
    """Adaptation of the search space to the machine."""

    profile: str = option(
        "false",
        gene=None,
        help="true: time this machine at the start of a run, and limit widths and heads to fast sizes",
    )

    def settled(self: P, rungs: bool) -> P:
        options = super().settled(rungs)
        return replace(options, profile=_time_machine()) if self.profile == "true" else options

    def check(self) -> None:
        if self.profile not in ("true", "false") and not MEASURED_PROFILE.fullmatch(self.profile):
            settled = "or what it was settled to: 'width 16, heads 32 64'"
            raise OptionError(f"-o profile={self.profile}: expected true, false, {settled}")

    def fast_widths(self, width: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the widths of a space in steps that suit the machine, if enough widths remain.

        Args:
            width: Minimum, maximum, step and default.
        """
        measured = MEASURED_PROFILE.fullmatch(self.profile)
        low, high, step, default = width
        new_step = math.lcm(step, int(measured[1])) if measured else step
        new_low = -(-low // new_step) * new_step
        if default % new_step or (high - new_low) // new_step + 1 < FEWEST:
            return width
        return new_low, high // new_step * new_step, new_step, default

    def fast_heads(self, width: int, counts: Sequence[int]) -> Sequence[int]:
        """Return the head counts with the fastest channels per head; all counts if none qualifies."""
        measured = MEASURED_PROFILE.fullmatch(self.profile)
        fast_sizes = {int(size) for size in measured[2].split()} if measured else set()
        return [count for count in counts if width / count in fast_sizes] or counts


def _time_machine() -> str:
    """Return the sizes that suit this machine.

    Raises:
        OptionError: The machine could not be timed.
    """
    command = [sys.executable, "-m", "evo_tune.training.probing.timing", "cuda:0" if has_gpu() else "cpu", "1"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        reason = f"this machine could not be timed ({last_line})"
        raise OptionError(f"-o profile=true: {reason}: expected false, or a GPU that is free")
    suited = json.loads(process.stdout)["suited"]
    return f"width {suited['width']}, heads {' '.join(map(str, suited['head_sizes']))}"
