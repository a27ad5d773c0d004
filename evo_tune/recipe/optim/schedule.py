"""The learning rate and the weight decay along the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.options.declare import AUTO, Options, option


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


@dataclass(frozen=True, kw_only=True)
class WeightDecay:
    """λ from `start` to `end` over the training.

    Args:
        start: λ at the first step, 0 to 1.
        end: λ at the last step, 0 to 1; None: constant.
        shape: 'linear' or 'cosine'.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: float
    end: float | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        check_number("weight_decay", self.start, "[0, 1]")
        if self.end is not None:
            check_number("weight_decay_end", self.end, "[0, 1]")
        check_name("weight_decay_shape", self.shape, ("linear", "cosine"))

    def at(self, step: int, steps: int) -> float:
        """Return λ at `step` (from 0) of `steps`; beyond the last step it stays at `end`.

        Raises:
            RecipeError: Either is not a whole number in its range.
        """
        check_integer("step", step, 0)
        check_integer("steps", steps, 1)
        if self.end is None or self.end == self.start:
            return self.start
        s = min(1.0, step / max(1, steps - 1))
        if self.shape == "cosine":
            s = 0.5 * (1.0 - math.cos(math.pi * s))
        return self.start + (self.end - self.start) * s


@dataclass(frozen=True, kw_only=True)
class GapDecay:
    """λ from `start`, times `factor` whenever a gap has opened for `patience` evaluations, up to `end`.

    Args:
        start: λ at the first step, above 0, up to 1.
        end: Largest λ, start to 1.
        patience: Evaluations in a row with rising held-out and falling training loss, 1 or more.
        factor: What λ is multiplied by, above 1.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: float = 0.01
    end: float = 0.1
    patience: int = 3
    factor: float = 1.5

    def __post_init__(self) -> None:
        check_number("weight_decay", self.start, "(0, 1]")
        check_number("weight_decay_end", self.end, "[0, 1]")
        if self.end < self.start:
            raise RecipeError("weight_decay_end", self.end, f"weight_decay={self.start} or more")
        check_integer("gap_patience", self.patience, 1)
        check_number("gap_factor", self.factor, "(1, 100]")


class GapWatch:
    """The λ of a `GapDecay` so far."""

    def __init__(self, options: GapDecay) -> None:
        self.options = options
        self.value = options.start
        self.widened = 0
        self.last: tuple[float, float] | None = None

    def update(self, training: float, held_out: float) -> bool:
        """Take note of one evaluation.

        Args:
            training: Loss on the training text.
            held_out: Loss on the held-out text. A NaN in either is no rise and no fall.

        Returns:
            Whether λ was raised.
        """
        wider = self.last is not None and training < self.last[0] and held_out > self.last[1]
        self.last = (training, held_out)
        self.widened = self.widened + 1 if wider else 0
        if self.widened < self.options.patience:
            return False
        self.widened = 0
        before, self.value = self.value, min(self.options.end, self.value * self.options.factor)
        return self.value > before

    def state(self) -> dict[str, object]:
        """Return what a checkpoint must keep."""
        return {"value": self.value, "widened": self.widened, "last": self.last}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from what `state` gave."""
        self.value, self.widened, self.last = state["value"], state["widened"], state["last"]  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Decaying(Options):
    """The weight decay along the steps."""

    weight_decay_end: float | None = option(None, bounds="[0, 1]", help="Where it ends; none: where it begins")
    weight_decay_shape: Literal["linear", "cosine"] = option("linear", help="How it goes there")
    gap_patience: int | None = option(
        None,
        bounds="[1, inf)",
        unit="evaluations",
        help="It rises, up to its end, only when so many had a rising held-out and a falling training loss",
    )
    gap_factor: float = option(1.5, bounds="(1, 100]", help="By what it rises then")

    def check(self) -> None:
        if self.gap_patience is not None and self.weight_decay_end is None:
            raise OptionError("-o gap_patience needs -o weight_decay_end=…, up to which the weight decay rises")

    def decay(self, start: float) -> WeightDecay | GapDecay:
        """Return the weight decay that begins at `start`.

        Raises:
            RecipeError: It is out of its range.
        """
        if self.gap_patience is None:
            return WeightDecay(start=start, end=self.weight_decay_end, shape=self.weight_decay_shape)
        end = max(start, self.weight_decay_end or 0.0)
        return GapDecay(start=start, end=end, patience=self.gap_patience, factor=self.gap_factor)
