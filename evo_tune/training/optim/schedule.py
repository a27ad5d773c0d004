"""Learning-rate schedules: pure functions of the step, given as a factor of the peak.

A factor, never a rate: optimizer groups keep their own peaks (`initial_lr`), so their ratios survive.
The state of a schedule is one integer, the step, which is why resuming needs nothing else. It is laid
over the steps of the full training even when a training stops early. No torch here; a `Schedule` is a
callable and serves as `torch.optim.lr_scheduler.LambdaLR`'s function as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evo_tune.options.bounds import check_integer, check_name, check_number

__all__ = ["SCHEDULES", "Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, then one of the shapes in `SCHEDULES`.

    With W warm-up steps of S, step t < W has the factor (t + 1) / W: the first step is never at zero.

    Args:
        steps: Steps S of the full training, 1 or more.
        name: A key of `SCHEDULES`.
        warmup_fraction: Share of S for linear warm-up, 0 to 0.5; above 0 it is at least one step.
        min_ratio: Factor at the end, 0 to 1.
        decay_fraction: wsd: share of S for the final decay, above 0, up to 1.
        decay_shape: wsd: 'linear', 'sqrt' (1 − √u) or 'cosine'.
        cycle: sgdr, cosine_step: steps of the first cycle, 1 or more; None: a tenth of S.
        cycle_growth: sgdr: each cycle is this many times as long as the one before, 1 or more.
        gamma: sgdr, cosine_step: factor from cycle to cycle, above 0, up to 1.

    Raises:
        RecipeError: A field is out of its range.
    """

    steps: int
    name: str = "cosine"
    warmup_fraction: float = 0.05
    min_ratio: float = 0.1
    decay_fraction: float = 0.2
    decay_shape: str = "linear"
    cycle: int | None = None
    cycle_growth: int = 1
    gamma: float = 0.9

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1)
        check_name("schedule", self.name, SCHEDULES)
        check_number("warmup_fraction", self.warmup_fraction, "[0, 0.5]")
        check_number("min_ratio", self.min_ratio, "[0, 1]")
        check_number("decay_fraction", self.decay_fraction, "(0, 1]")
        check_name("decay_shape", self.decay_shape, _DECAYS)
        if self.cycle is not None:
            check_integer("cycle", self.cycle, 1)
        check_integer("cycle_growth", self.cycle_growth, 1)
        check_number("gamma", self.gamma, "(0, 1]")

    @property
    def warmup(self) -> int:
        """Number W of warm-up steps."""
        return max(1, round(self.warmup_fraction * self.steps)) if self.warmup_fraction > 0 else 0

    @property
    def first_cycle(self) -> int:
        """Steps of the first cycle of sgdr and cosine_step."""
        return max(1, self.steps // 10) if self.cycle is None else self.cycle

    def __call__(self, step: int) -> float:
        """Return the factor by which `step` (counted from 0) multiplies the peak.

        Raises:
            RecipeError: The step is negative or no whole number.
        """
        check_integer("step", step, 0)
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.name](self, step)

    def progress(self, step: int) -> float:
        """Return the share u of the steps after warm-up that lie behind, held at 1 past the end."""
        return min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))


def _cosine(top: float, bottom: float, u: float) -> float:
    return bottom + 0.5 * (top - bottom) * (1.0 + math.cos(math.pi * u))


def constant(schedule: Schedule, step: int) -> float:
    """Stay at the peak."""
    del schedule, step
    return 1.0


def linear(schedule: Schedule, step: int) -> float:
    """Fall in a straight line to `min_ratio`."""
    return 1.0 - (1.0 - schedule.min_ratio) * schedule.progress(step)


def cosine(schedule: Schedule, step: int) -> float:
    """Fall along half a cosine to `min_ratio` (Loshchilov & Hutter, arXiv:1608.03983, one cycle)."""
    return _cosine(1.0, schedule.min_ratio, schedule.progress(step))


def wsd(schedule: Schedule, step: int) -> float:
    """Stay at the peak, then decay over the last `decay_fraction` (MiniCPM, arXiv:2404.06395)."""
    decay_steps = max(1, round(schedule.decay_fraction * schedule.steps))
    start = max(schedule.warmup, schedule.steps - decay_steps)
    if step < start:
        return 1.0
    u = min(1.0, (step - start) / max(1, schedule.steps - start))
    return schedule.min_ratio + (1.0 - schedule.min_ratio) * _DECAYS[schedule.decay_shape](u)


def multi_step(schedule: Schedule, step: int) -> float:
    """Fall to 0.316 at 80 % and to 0.1 at 90 % of the steps (DeepSeek LLM, arXiv:2401.02954)."""
    # In whole numbers: 0.8 * S may fall a bit short of the step that is meant.
    if 10 * step >= 9 * schedule.steps:
        return 0.1
    return 0.316 if 10 * step >= 8 * schedule.steps else 1.0


def sgdr(schedule: Schedule, step: int) -> float:
    """Restart a cosine at the end of each cycle, from a peak that falls by gamma (arXiv:1608.03983)."""
    done, length, index = step - schedule.warmup, schedule.first_cycle, 0
    while done >= length:
        done, length, index = done - length, length * schedule.cycle_growth, index + 1
        if schedule.cycle_growth == 1:
            index, done = index + done // length, done % length
    peak = max(schedule.gamma**index, schedule.min_ratio)
    return _cosine(peak, schedule.min_ratio, done / length)


def cosine_step(schedule: Schedule, step: int) -> float:
    """Multiply one long cosine by gamma for every cycle that is over."""
    return cosine(schedule, step) * schedule.gamma ** (step // schedule.first_cycle)


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    shape.__name__: shape for shape in (cosine, linear, constant, wsd, multi_step, sgdr, cosine_step)
}
"""Name to shape: called only with steps after warm-up."""

_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1.0 - u,
    "sqrt": lambda u: 1.0 - math.sqrt(u),
    "cosine": lambda u: _cosine(1.0, 0.0, u),
}
