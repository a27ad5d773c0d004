"""What a device wants of a training, from how fast it was timed to be (see `timing`). Plain data; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Timings", "Wants", "wants_of"]

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
