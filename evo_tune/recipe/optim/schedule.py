"""Learning-rate schedules: pure functions of the step, given as a factor of the peak.

A factor, never a rate: optimizer groups keep their own peaks (`initial_lr`), so their ratios survive.
The state of a schedule is one integer, the step, which is why resuming needs nothing else. It is laid
over the steps of the full training even when a training stops early. No torch here; a `Schedule` is a
callable and serves as `torch.optim.lr_scheduler.LambdaLR`'s function as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.options.declare import AUTO, Options, option

__all__ = ["DECAYS", "SCHEDULES", "Schedule", "Scheduling", "Shape", "idle_fields", "shape"]


@dataclass(frozen=True)
class Shape:
    """What a schedule does after its warm-up.

    Args:
        factor: The factor at a step after warm-up.
        uses: Fields of `Scheduling` that it reads; the others change nothing.
        flat: Whether it stays at its peak until it falls at the end, if it does.
    """

    factor: Callable[[Schedule, int], float]
    uses: frozenset[str]
    flat: bool = False


SCHEDULES: dict[str, Shape] = {}
"""Name to shape; `shape` adds to it."""


def shape(
    *uses: str, flat: bool = False
) -> Callable[[Callable[[Schedule, int], float]], Callable[[Schedule, int], float]]:
    """Make the decorated function a schedule of its name: an option's value, a gene's, and one that can be looked at.

    Args:
        uses: See `Shape`.
        flat: See `Shape`.
    """

    def add(factor: Callable[[Schedule, int], float]) -> Callable[[Schedule, int], float]:
        SCHEDULES[factor.__name__] = Shape(factor, frozenset(uses), flat)
        return factor

    return add


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, then one of the shapes in `SCHEDULES`.

    With W warm-up steps of S, step t < W has the factor (t + 1) / W: the first step is never at zero.

    Args:
        steps: Steps S of the full training, 1 or more.
        name: A key of `SCHEDULES`.
        warmup_fraction: Share of S for linear warm-up, 0 to 0.5; above 0 it is at least one step.
        min_lr_ratio: Factor at the end, 0 to 1.
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
    min_lr_ratio: float = 0.1
    decay_fraction: float = 0.2
    decay_shape: str = "linear"
    cycle: int | None = None
    cycle_growth: int = 1
    gamma: float = 0.9

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1)
        check_name("schedule", self.name, SCHEDULES)
        check_number("warmup_fraction", self.warmup_fraction, "[0, 0.5]")
        check_number("min_lr_ratio", self.min_lr_ratio, "[0, 1]")
        check_number("decay_fraction", self.decay_fraction, "(0, 1]")
        check_name("decay_shape", self.decay_shape, DECAYS)
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
        return SCHEDULES[self.name].factor(self, step)

    def decayed(self, step: int) -> bool:
        """Say whether the final fall has begun before `step`: a loss there is not one of a training at its peak.

        Of a schedule that falls all along, only its end is.
        """
        if not SCHEDULES[self.name].flat:
            return step >= self.steps
        return step > self.warmup and self(step - 1) < 1.0

    def progress(self, step: int) -> float:
        """Return the share u of the steps after warm-up that lie behind, held at 1 past the end."""
        return min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))


def idle_fields(name: str) -> frozenset[str]:
    """Return the fields of `Scheduling` that change nothing under a schedule: those that only others use."""
    known, name = frozenset().union(*(one.uses for one in SCHEDULES.values())), _meant(name)
    return known - SCHEDULES[name].uses if name in SCHEDULES else frozenset()


def _cosine(top: float, bottom: float, u: float) -> float:
    return bottom + 0.5 * (top - bottom) * (1.0 + math.cos(math.pi * u))


DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1.0 - u,
    "sqrt": lambda u: 1.0 - math.sqrt(u),
    "cosine": lambda u: _cosine(1.0, 0.0, u),
}


@shape("min_lr_ratio")
def cosine(schedule: Schedule, step: int) -> float:
    """Fall along half a cosine to `min_lr_ratio` (Loshchilov & Hutter, arXiv:1608.03983, one cycle)."""
    return _cosine(1.0, schedule.min_lr_ratio, schedule.progress(step))


@shape("min_lr_ratio")
def linear(schedule: Schedule, step: int) -> float:
    """Fall in a straight line to `min_lr_ratio`."""
    return 1.0 - (1.0 - schedule.min_lr_ratio) * schedule.progress(step)


@shape(flat=True)
def constant(schedule: Schedule, step: int) -> float:
    """Stay at the peak."""
    del schedule, step
    return 1.0


@shape("min_lr_ratio", "decay_fraction", "decay_shape", flat=True)
def wsd(schedule: Schedule, step: int) -> float:
    """Stay at the peak, then decay over the last `decay_fraction` (MiniCPM, arXiv:2404.06395)."""
    decay_steps = max(1, round(schedule.decay_fraction * schedule.steps))
    start = max(schedule.warmup, schedule.steps - decay_steps)
    if step < start:
        return 1.0
    u = min(1.0, (step - start) / max(1, schedule.steps - start))
    return schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * DECAYS[schedule.decay_shape](u)


@shape(flat=True)
def multi_step(schedule: Schedule, step: int) -> float:
    """Fall to 0.316 at 80 % and to 0.1 at 90 % of the steps (DeepSeek LLM, arXiv:2401.02954)."""
    # In whole numbers: 0.8 * S may fall a bit short of the step that is meant.
    if 10 * step >= 9 * schedule.steps:
        return 0.1
    return 0.316 if 10 * step >= 8 * schedule.steps else 1.0


@shape("min_lr_ratio", "cycle", "cycle_growth", "gamma")
def sgdr(schedule: Schedule, step: int) -> float:
    """Restart a cosine at the end of each cycle, from a peak that falls by gamma (arXiv:1608.03983)."""
    done, length, index = step - schedule.warmup, schedule.first_cycle, 0
    while done >= length:
        done, length, index = done - length, length * schedule.cycle_growth, index + 1
        if schedule.cycle_growth == 1:
            index, done = index + done // length, done % length
    peak = max(schedule.gamma**index, schedule.min_lr_ratio)
    return _cosine(peak, schedule.min_lr_ratio, done / length)


@shape("min_lr_ratio", "cycle", "gamma")
def cosine_step(schedule: Schedule, step: int) -> float:
    """Multiply one long cosine by gamma for every cycle that is over."""
    return cosine(schedule, step) * schedule.gamma ** (step // schedule.first_cycle)


class _Choices(Collection[str]):
    """What the option may be: `auto` and whatever is in `SCHEDULES` by then."""

    def __iter__(self) -> Iterator[str]:
        yield AUTO
        yield from SCHEDULES

    def __len__(self) -> int:
        return 1 + len(SCHEDULES)

    def __contains__(self, name: object) -> bool:
        return name == AUTO or name in SCHEDULES


def _meant(name: str) -> str:
    """Return the schedule that a name stands for where there are no rungs."""
    return "cosine" if name == AUTO else name


S = TypeVar("S", bound="Scheduling")


@dataclass(frozen=True, kw_only=True)
class Scheduling(Options):
    """The learning rate along the steps."""

    schedule: str = option(
        AUTO,
        choices=_Choices(),
        help="Shape of the learning rate after the warm-up; auto: wsd where a run has rungs, else cosine",
    )
    fork: bool | None = option(
        None,
        gene=None,
        help="wsd: judge a rung after a decay of its own, which is thrown away; none: where a run has rungs",
    )
    min_lr_ratio: float = option(0.1, bounds="[0, 1]", help="Learning rate at the end, as a share of its peak")
    decay_fraction: float = option(
        0.4, bounds="(0, 1]", gene="float(0.1,0.7)", help="wsd: share of the steps that decay, at the end"
    )
    decay_shape: str = option("linear", choices=DECAYS, help="wsd: shape of the decay")
    cycle: float = option(0.1, bounds="(0, 1]", help="sgdr, cosine_step: the first cycle, as a share of the steps")
    cycle_growth: int = option(1, bounds="[1, inf)", help="sgdr: each cycle is so many times as long as the last")
    gamma: float = option(0.9, bounds="(0, 1]", help="sgdr, cosine_step: factor from cycle to cycle")

    def settled(self: S, rungs: bool) -> S:
        made = super().settled(rungs)
        schedule = ("wsd" if rungs else "cosine") if made.schedule == AUTO else made.schedule
        return replace(made, schedule=schedule, fork=rungs if made.fork is None else made.fork)

    def rates(self, steps: int, warmup: float) -> Schedule:
        """Return the schedule over so many steps.

        Args:
            steps: Of the full training.
            warmup: Share of them for linear warm-up.

        Raises:
            RecipeError: Either is out of its range.
        """
        return Schedule(
            steps=steps,
            name=_meant(self.schedule),
            warmup_fraction=warmup,
            min_lr_ratio=self.min_lr_ratio,
            decay_fraction=self.decay_fraction,
            decay_shape=self.decay_shape,
            cycle=max(1, round(self.cycle * steps)),
            cycle_growth=self.cycle_growth,
            gamma=self.gamma,
        )
