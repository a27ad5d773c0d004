"""What a machine does of a training, as options, and what it wants of one."""

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
class Computing(Options):
    """Precision, and how it is computed."""

    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = option(
        "auto",
        gene=None,
        help="Of products; auto: bf16 where that gains, fp16 on a GPU without it; tf32: fp32 by a GPU's TF32",
    )
    compile: bool = option(
        False,
        gene=None,
        help="Compile the blocks, a minute a shape; windows of attention go by flex_attention then, on a GPU",
    )
    deterministic: bool = option(
        True, gene=None, help="Only algorithms that give the same bits twice; false: a GPU may take faster ones"
    )


@dataclass(frozen=True, kw_only=True)
class Passes(Options):
    """Memory."""

    micro_batch: int | Literal["auto"] | None = option(
        "auto",
        bounds="[2, inf)",
        unit="tokens",
        gene=None,
        help="Most in one pass, which changes no gradient; auto: what the device's whole memory has room for",
    )
    recompute: int | None = option(
        None, bounds="[1, inf)", gene=None, help="Compute every so-manieth block again for the gradient"
    )


@dataclass(frozen=True, kw_only=True)
class Processes(Options):
    """Processes on this machine."""

    ranks: int = option(
        1, bounds="[1, 64]", gene=None, help="That train together, each with the slot's threads or a GPU of its own"
    )


def in_memory(precision: str) -> str:
    """Return the precision in whose bytes a training is held: TF32 is a way to multiply float32."""
    return "fp32" if precision == "tf32" else precision


def has_gpu(device: str | None = None) -> bool:
    """Whether a training has, or would have, an NVIDIA GPU.

    Args:
        device: What it has; None: it is not known yet, and since torch must not be loaded to ask, the driver's files
            are looked for, and CUDA_VISIBLE_DEVICES.
    """
    if device is not None:
        return device.startswith("cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return not hidden and (Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists())


AS_FAST = 0.9
"""Share of the best speed from which on a size counts as good as the best."""

IDLE = 0.5
"""Share of the best speed below which a chip idles."""

GAIN = 1.3
"""How many times faster a precision of less must be to be worth it; `fastest_precision` asks for the same."""

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Timings:
    """The measured speed of a device; all but `products` in its fastest precision.

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
class Wants:
    """The sizes and the precision that suit a device.

    Args:
        precision: Precision of the fastest products if they gain a third or more; otherwise fp32.
        width: Number of which a width should be a multiple.
        vocabulary: Number of which a vocabulary should be a multiple.
        head_sizes: Channels of a head that are as fast as the best.
        batch: Size of a step below which the chip is idle half of the time or more. Unit: tokens.
    """

    precision: str
    width: int
    vocabulary: int
    head_sizes: tuple[int, ...]
    batch: int


def wants_of(timings: Timings) -> Wants:
    """Return what a device wants of a training."""
    best = {name: max(speeds.values()) for name, speeds in timings.products.items()}
    fastest = max(best, key=lambda name: best[name])
    good = _as_fast(timings.head_sizes)
    busy = max(timings.batches.values())
    return Wants(
        precision=fastest if best[fastest] >= GAIN * best["fp32"] else "fp32",
        width=_multiple(timings.widths),
        vocabulary=_multiple(timings.vocabularies),
        head_sizes=good,
        batch=min(tokens for tokens, speed in timings.batches.items() if speed >= IDLE * busy),
    )


def _as_fast(speeds: Mapping[int, float]) -> tuple[int, ...]:
    return tuple(sorted(size for size, speed in speeds.items() if speed >= AS_FAST * max(speeds.values())))


def _multiple(speeds: Mapping[int, float]) -> int:
    """Return the least power of two whose multiples, among those that were timed, are all as good as the best."""
    good = set(_as_fast(speeds))
    for multiple in MULTIPLES:
        among = {size for size in speeds if size % multiple == 0}
        if among and among <= good:
            return multiple
    return max(multiple for multiple in MULTIPLES if any(size % multiple == 0 for size in good))


FEWEST = 4
"""Widths that a space must keep."""

SNAPPED = re.compile(r"width (\d+), heads (\d+(?: \d+)*)")

P = TypeVar("P", bound="Profiling")


@dataclass(frozen=True, kw_only=True)
class Profiling(Options):
    """The machine that a space is for."""

    profile: str = option(
        "false",
        gene=None,
        help="true: time this machine as a run begins, and snap widths and heads to what is fast on it",
    )

    def settled(self: P, rungs: bool) -> P:
        made = super().settled(rungs)
        return replace(made, profile=_timed()) if self.profile == "true" else made

    def check(self) -> None:
        if self.profile not in ("true", "false") and not SNAPPED.fullmatch(self.profile):
            settled = "or what it was settled to: 'width 16, heads 32 64'"
            raise OptionError(f"-o profile={self.profile}: expected true, false, {settled}")

    def snapped(self, width: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the widths of a space in steps that the machine wants, where that is free.

        Args:
            width: Least, largest, step and default.
        """
        found = SNAPPED.fullmatch(self.profile)
        low, high, step, default = width
        wanted = math.lcm(step, int(found[1])) if found else step
        first = -(-low // wanted) * wanted
        free = default % wanted == 0 and (high - first) // wanted + 1 >= FEWEST
        return (first, high // wanted * wanted, wanted, default) if free else width

    def fast_heads(self, width: int, counts: Sequence[int]) -> Sequence[int]:
        """Return those numbers of heads whose channels are as good as the best; all of them where none is."""
        found = SNAPPED.fullmatch(self.profile)
        good = {int(size) for size in found[2].split()} if found else set()
        return [count for count in counts if width / count in good] or counts


def _timed() -> str:
    """Return what the machine wants.

    Raises:
        OptionError: It could not be timed.
    """
    command = [sys.executable, "-m", "evo_tune.training.probing.timing", "cuda:0" if has_gpu() else "cpu", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        why = f"this machine could not be timed ({last})"
        raise OptionError(f"-o profile=true: {why}: expected false, or a GPU that is free")
    wants = json.loads(done.stdout)["wants"]
    return f"width {wants['width']}, heads {' '.join(map(str, wants['head_sizes']))}"
