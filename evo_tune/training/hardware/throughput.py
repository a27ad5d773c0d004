"""Tokens per second, what share of a device's arithmetic they are (MFU), steps that fit in a time. No torch here.

MFU is what the model needs over what the device could do in the time (PaLM, arXiv:2204.02311, appendix B):
work done twice to save memory is not counted. Where the peak is not known there is no MFU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.training.hardware.chips import chip

__all__ = ["SAFE", "TIMED", "Throughput", "mfu", "peak_flops", "steps_in"]

SAFE = 1e-6
"""Learning rate with which nothing diverges, for trainings that are thrown away."""

WARM, TIMED = 3, 13
"""Steps that are not timed, and after how many the timing ends."""


def peak_flops(device_name: str, precision: str = "bf16") -> float | None:
    """Return the peak of one device in FLOP/s; None if it is not in the table of `chips`, as no CPU is.

    Args:
        device_name: As `torch.cuda.get_device_name` gives it.
        precision: 'fp32' (without TF32), 'tf32', 'bf16' or 'fp16'; what a chip lacks has no peak.

    Raises:
        RecipeError: An unknown precision.
    """
    check_name("precision", precision, ("fp32", "tf32", "bf16", "fp16"))
    known = chip(device_name)
    peak = None if known is None else getattr(known, precision)
    return None if peak is None else 1e12 * float(peak)


def mfu(flops_per_token: float, tokens_per_second: float, peak: float | None, *, devices: int = 1) -> float | None:
    """Return the share of the peak that was used; None where the peak is unknown.

    Args:
        flops_per_token: See `evo_tune.training.flops_per_token`; recomputation not included.
        tokens_per_second: Of all devices together, padding not counted.
        peak: Of one device, FLOP/s.
        devices: How many.

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
    """Watches a training's steps, as `Trainer.run`'s on_step: tokens per second as a median.

    A median, so that an evaluation or another process in between does not count, and after some steps, so
    that neither does what is done once.

    Args:
        synchronise: Waits until the device has done what it was given, such as `torch.cuda.synchronize`;
            None where it always has, as on a CPU.
        skip: Steps at the beginning that are not measured, 0 or more.
        clock: Gives seconds.

    Raises:
        RecipeError: skip is no whole number from 0.
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
        """Begin to measure here: after an evaluation, say, whose time is none of the steps'."""
        self._last = self._now()

    def __call__(self, targets: int) -> None:
        """Take note that a step is over.

        Args:
            targets: Its tokens, padding not counted (`Step.targets`).
        """
        now, last = self._now(), self._last
        self._last = now
        if self._skip:
            self._skip -= 1
        elif now > last:
            self._rates.append(targets / (now - last))

    @property
    def tokens_per_second(self) -> float | None:
        """Median over the measured steps; None if there was none."""
        return statistics.median(self._rates) if self._rates else None

    def _now(self) -> float:
        if self._synchronise is not None:
            self._synchronise()
        return self._clock()


class Timed(Protocol):
    """What can be timed: a trainer."""

    def run(self, until: int) -> Any:
        """Train up to a step."""


def steps_in(seconds: float, trial: Timed) -> int:
    """Return how many steps fit in so many seconds, 1 or more, by the median of ten after three.

    Args:
        seconds: Above 0.
        trial: At step 0, of `TIMED` steps at least; it is of no use after.
    """
    trial.run(WARM)
    times = []
    for step in range(WARM, TIMED):
        before = time.perf_counter()
        trial.run(step + 1)
        times.append(time.perf_counter() - before)
    return max(1, int(float(seconds) / statistics.median(times)))
