"""Schedules of the learning rate, of the weight decay and of the batch, and the steps of a training."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from evo_tune.errors import OptionError
from evo_tune.options.declare import AUTO, Options, check_integer, check_number, fixed_option, option, redeclare


@dataclass(frozen=True)
class Shape:
    """Shape of a schedule after warm-up.

    Args:
        factor: Function that returns the factor at a step after warm-up.
        uses: Fields of `ScheduleOptions` that it reads; the others have no effect.
        flat: Whether it stays at the peak until a final decay, if any.
    """

    factor: StepFactor
    uses: frozenset[str]
    flat: bool = False


# Function from a schedule and a step after its warm-up to the factor on the peak rate.
StepFactor = Callable[["Schedule", int], float]

# Name to shape; filled by the decorator `register_schedule`.
SCHEDULES: dict[str, Shape] = {}


def register_schedule(*uses: str, flat: bool = False) -> Callable[[StepFactor], StepFactor]:
    """Register the decorated function as a schedule under its name, for options and genes.

    Args:
        uses: See `Shape`.
        flat: See `Shape`.
    """

    def add(factor: StepFactor) -> StepFactor:
        SCHEDULES[factor.__name__] = Shape(factor, frozenset(uses), flat)
        return factor

    return add


def _cosine(top: float, bottom: float, u: float) -> float:
    return bottom + 0.5 * (top - bottom) * (1.0 + math.cos(math.pi * u))


S = TypeVar("S", bound="ScheduleOptions")


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """Learning rate schedule."""

    # Options of earlier versions.
    dropped: ClassVar[dict[str, object]] = {"decay_shape": "linear", "cycle_growth": 1}

    schedule: str = option(
        AUTO,
        choices=ChainMap[str, Any](SCHEDULES, {AUTO: None}),  # read at each check: users can register more
        help="Learning rate schedule after the warm-up; auto: wsd in a run with rungs, else cosine",
    )
    fork: bool | None = fixed_option(
        None, help="wsd: decay a copy to evaluate each rung, then discard it; none: if the run has rungs"
    )
    # Short trainings gain from a decay to zero (arXiv:2502.15938).
    min_lr_ratio: float = option(0.0, bounds="[0, 1]", help="Final learning rate, as a share of the peak")
    # It gains .029 nats over a decay along a cosine (benchmarks/LOG.md, "Parts of a GPT").
    decay_fraction: float = option(
        0.5, bounds="(0, 1]", gene="float(0.1,0.8)", help="wsd: share of the steps in the final decay"
    )
    cycle: float = option(
        0.1,
        bounds="(0, 1]",
        help="sgdr: share of the steps in a cycle, stretched so that the last one is whole",
    )
    gamma: float = option(0.9, bounds="(0, 1]", help="sgdr: factor on the peak per cycle")

    def settled(self: S, rungs: bool) -> S:
        options = super().settled(rungs)
        schedule = ("wsd" if rungs else "cosine") if options.schedule == AUTO else options.schedule
        return replace(options, schedule=schedule, fork=rungs if options.fork is None else options.fork)

    def rates(self, steps: int, warmup: float) -> Schedule:
        """Return the schedule over `steps` steps.

        Args:
            steps: Number of steps in the full training.
            warmup: Share of the steps for linear warm-up.

        Raises:
            RecipeError: Either is out of its range.
        """
        values = {field.name: getattr(self, field.name) for field in fields(ScheduleOptions)}
        return Schedule(**values | {"schedule": _without_auto(self.schedule)}, steps=steps, warmup_fraction=warmup)


@dataclass(frozen=True, kw_only=True)
class Schedule(ScheduleOptions):
    """Warm-up, then one of the shapes in `SCHEDULES`.

    With W warm-up steps, step t < W has the factor (t + 1) / W, so the first step is above zero.

    Args:
        steps: Number S of steps in the full training (int ≥ 1).
        warmup_fraction: Share of S for linear warm-up, 0 to 0.5; above 0 it is at least one step.

    Raises:
        RecipeError: A field is out of its range.
    """

    schedule: str = redeclare(ScheduleOptions, "schedule", "cosine", reason="a training by itself has no rungs")
    steps: int
    warmup_fraction: float = 0.05

    def check(self) -> None:
        check_integer("steps", self.steps, 1)
        check_number("warmup_fraction", self.warmup_fraction, "[0, 0.5]")

    @property
    def warmup(self) -> int:
        """Number W of warm-up steps."""
        return max(1, round(self.warmup_fraction * self.steps)) if self.warmup_fraction > 0 else 0

    @property
    def cycle_steps(self) -> int:
        """Number of steps in a cycle of sgdr before it is stretched."""
        return max(1, round(self.cycle * self.steps))

    def __call__(self, step: int) -> float:
        """Return the factor on the peak rate at `step` (int ≥ 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.schedule].factor(self, step)

    def decay_has_begun(self, step: int) -> bool:
        """Return whether the final decay has begun before `step`, so that losses differ from those at the peak rate.

        For a schedule without a flat part this is true only at its end.
        """
        if not SCHEDULES[self.schedule].flat:
            return step >= self.steps
        return step > self.warmup and self(step - 1) < 1.0

    def progress(self, step: int) -> float:
        """Return the completed share u of the steps after warm-up, at most 1."""
        return min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))


def unused_schedule_fields(name: str) -> frozenset[str]:
    """Return the fields of `ScheduleOptions` that have no effect under a schedule because only others use them."""
    used, name = frozenset().union(*(shape.uses for shape in SCHEDULES.values())), _without_auto(name)
    return used - SCHEDULES[name].uses if name in SCHEDULES else frozenset()


def _without_auto(name: str) -> str:
    """Return the schedule for a name in a run without rungs."""
    return "cosine" if name == AUTO else name


@register_schedule("min_lr_ratio")
def cosine(schedule: Schedule, step: int) -> float:
    """Decay along half a cosine to `min_lr_ratio` (Loshchilov & Hutter, arXiv:1608.03983, one cycle)."""
    return _cosine(1.0, schedule.min_lr_ratio, schedule.progress(step))


@register_schedule("min_lr_ratio")
def linear(schedule: Schedule, step: int) -> float:
    """Decay linearly to `min_lr_ratio`."""
    return 1.0 - (1.0 - schedule.min_lr_ratio) * schedule.progress(step)


@register_schedule(flat=True)
def constant(schedule: Schedule, step: int) -> float:
    """Stay at the peak."""
    return 1.0


@register_schedule("min_lr_ratio", "decay_fraction", flat=True)
def wsd(schedule: Schedule, step: int) -> float:
    """Stay at the peak, then decay linearly over the last `decay_fraction` (MiniCPM, arXiv:2404.06395)."""
    decay_steps = max(1, round(schedule.decay_fraction * schedule.steps))
    start = max(schedule.warmup, schedule.steps - decay_steps)
    if step < start:
        return 1.0
    u = min(1.0, (step - start) / max(1, schedule.steps - start))
    return schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * (1.0 - u)


@register_schedule(flat=True)
def multi_step(schedule: Schedule, step: int) -> float:
    """Drop to 0.316 at 80 % and to 0.1 at 90 % of the steps (DeepSeek LLM, arXiv:2401.02954)."""
    # Use integers: rounding of 0.8 * S could miss the step.
    if 10 * step >= 9 * schedule.steps:
        return 0.1
    return 0.316 if 10 * step >= 8 * schedule.steps else 1.0


@register_schedule("min_lr_ratio", "cycle", "gamma")
def sgdr(schedule: Schedule, step: int) -> float:
    """Restart a cosine at the end of each cycle, from a peak that falls by gamma (arXiv:1608.03983).

    The last cycle ends with the training. With A steps after the warm-up and cycles of C steps, the number of cycles is
    the n whose C · n is nearest to A by ratio; all cycles are stretched by A / (C · n).
    """
    steps = max(1, schedule.steps - schedule.warmup)
    # The steps are nearer to one more cycle, by ratio, if they exceed the geometric mean: n (n + 1) C² < A².
    squared_ratio = -(-(steps**2) // schedule.cycle_steps**2)
    count = math.isqrt(squared_ratio)
    count += count * (count + 1) < squared_ratio
    place = min(step - schedule.warmup, steps) * count  # in cycles, times steps
    index = min(place // steps, count - 1)
    u = (place - index * steps) / steps
    return _cosine(max(schedule.gamma**index, schedule.min_lr_ratio), schedule.min_lr_ratio, u)


@dataclass(frozen=True, kw_only=True)
class WeightDecay:
    """Weight decay λ that moves linearly from `start` to `end` over the training.

    Args:
        start: λ at the first step, 0 to 1.
        end: λ at the last step, 0 to 1; None: constant.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: float
    end: float | None = None

    def __post_init__(self) -> None:
        check_number("weight_decay", self.start, "[0, 1]")

    def at(self, step: int, steps: int) -> float:
        """Return λ at `step` (int ≥ 0) of `steps` (int ≥ 1); after the last step it is `end`."""
        if self.end is None or self.end == self.start:
            return self.start
        s = min(1.0, step / max(1, steps - 1))
        return self.start + (self.end - self.start) * s


@dataclass(frozen=True, kw_only=True)
class GapDecay:
    """Weight decay λ that rises by `factor`, up to `end`, when the loss gap grows for `patience` evaluations.

    Args:
        start: λ at the first step, above 0, up to 1.
        end: Maximum λ, start to 1.
        patience: Consecutive evaluations with rising held-out and falling training loss (int ≥ 1).
        factor: Factor on λ, above 1.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: float = 0.01
    end: float = 0.1
    patience: int = 3
    factor: float = 1.5

    def __post_init__(self) -> None:
        check_number("weight_decay", self.start, "(0, 1]")


class GapDecayState:
    """Current λ of a `GapDecay`."""

    def __init__(self, options: GapDecay) -> None:
        self.options = options
        self.value = options.start
        self.widened = 0
        self.last: tuple[float, float] | None = None

    def update(self, training: float, held_out: float) -> bool:
        """Record one evaluation.

        Args:
            training: Loss on the training text.
            held_out: Loss on the held-out text. A NaN in either loss counts as neither rise nor fall.

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
        """Return the state for a checkpoint."""
        return {"value": self.value, "widened": self.widened, "last": self.last}

    def restore(self, state: dict[str, object]) -> None:
        """Restore the state returned by `state`."""
        self.value, self.widened, self.last = state["value"], state["widened"], state["last"]  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class WeightDecayOptions(Options):
    """Weight decay schedule."""

    # Options of earlier versions.
    dropped: ClassVar[dict[str, object]] = {"weight_decay_shape": "linear", "gap_factor": 1.5}

    weight_decay_end: float | None = option(None, bounds="[0, 1]", help="Final weight decay; none: constant")
    gap_patience: int | None = option(
        None,
        bounds="[1, inf)",
        unit="evaluations",
        help="Raise weight decay after so many with a growing loss gap",
    )

    def check(self) -> None:
        if self.gap_patience is not None and self.weight_decay_end is None:
            raise OptionError("-o gap_patience needs -o weight_decay_end=…, up to which the weight decay rises")

    def decay(self, start: float) -> WeightDecay | GapDecay:
        """Return the weight decay that begins at `start`.

        Raises:
            RecipeError: It is out of its range.
        """
        if self.gap_patience is None:
            return WeightDecay(start=start, end=self.weight_decay_end)
        end = max(start, self.weight_decay_end or 0.0)
        return GapDecay(start=start, end=end, patience=self.gap_patience)


def optimizer_steps(micro_batches: int, accumulation: int) -> int:
    """Return the number of steps that consume `micro_batches`.

    A last, partial group of micro-batches is a step too: dropping it would lose data, and keeping it for the next
    epoch would mix two epochs in one gradient.

    Args:
        micro_batches: Number of micro-batches, windows or samples (int ≥ 0).
        accumulation: Number of them per step (int ≥ 1).
    """
    return -(-micro_batches // accumulation)


def stop_step(steps: int, budget: float) -> int:
    """Return the number of steps in a training with part of the full budget: ⌈budget · steps⌉.

    Args:
        steps: Number of steps in the full training, the length of its schedules (int ≥ 1).
        budget: Fraction of the full budget, 0 < budget ≤ 1.
    """
    # The tolerance keeps 1/3 of 9 steps at 3 despite rounding.
    return max(1, math.ceil(budget * steps - 1e-9 * steps))


@dataclass(frozen=True, kw_only=True)
class RampOptions(Options):
    """Growing batch."""

    ramp_from: int | None = option(
        None, bounds="[1, inf)", unit="tokens", help="Batch size of the first step; none: constant"
    )
    ramp_share: float = option(
        0.03, bounds="(0, 1]", help="Share of the training after which the batch has its full size"
    )

    @property
    def ramp(self) -> BatchRamp | None:
        """Growth of the batch, with its start in tokens; None: constant."""
        return None if self.ramp_from is None else BatchRamp(start=self.ramp_from, fraction=self.ramp_share)


@dataclass(frozen=True, kw_only=True)
class BatchRamp:
    """Growth of a batch, linear in the samples done, rounded down.

    Args:
        start: Samples in the first step (int ≥ 1).
        fraction: Share of the training's samples after which the batch has its full size, above 0, up to 1; about
            0.03 in DeepSeek-V3.
    """

    start: int
    fraction: float = RampOptions.ramp_share

    def size(self, position: int, *, batch: int, total: int) -> int:
        """Return the number of samples in the step after `position` samples.

        Args:
            position: Samples before the step.
            batch: Samples per step after the ramp.
            total: Samples in the full training.
        """
        reached = position / (self.fraction * total)
        if reached >= 1.0:
            return batch
        return self.start + int((batch - self.start) * reached)


def divide_into_steps(total: int, batch: int, ramp: BatchRamp | None) -> StepRanges:
    """Return the range of samples of each step; together the ranges cover all `total` samples once."""
    firsts = [0]
    while ramp is not None and firsts[-1] < total:
        size = ramp.size(firsts[-1], batch=batch, total=total)
        if size == batch:
            break  # all later steps are equal
        firsts.append(min(total, firsts[-1] + size))
    return StepRanges(tuple(firsts), batch, total)


@dataclass(frozen=True)
class StepRanges:
    """Steps of a training as ranges of samples: growing steps, then equal steps, then the remainder.

    Args:
        firsts: First sample of each growing step, and the end of the last growing step.
        batch: Samples per step after the growing ones.
        total: Total number of samples.
    """

    firsts: tuple[int, ...]
    batch: int
    total: int

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.firsts) - 1 + optimizer_steps(self.total - self.firsts[-1], self.batch)

    def __getitem__(self, step: int) -> tuple[int, int]:
        """Return the first sample of a step and the sample after its last; after the training the range is empty."""
        growing = len(self.firsts) - 1
        if step < growing:
            return self.firsts[step], self.firsts[step + 1]
        first = min(self.total, self.firsts[-1] + (step - growing) * self.batch)
        return first, min(first + self.batch, self.total)


def fork_step(schedule: Schedule, stop: int) -> int:
    """Return the step at which a training that stops at `stop` leaves its full schedule and decays.

    Args:
        schedule: Schedule of the full training.
        stop: Number of steps before the stop (int ≥ 1).

    Returns:
        `stop` if nothing forks: at the end of the full training, under a schedule other than wsd, or in one step.
    """
    if schedule.schedule != "wsd" or stop >= schedule.steps or stop < 2:
        return stop
    return max(1, stop - max(1, round(schedule.decay_fraction * stop)))


@dataclass(frozen=True, kw_only=True)
class ForkedSchedule(Schedule):
    """A wsd schedule that decays early, for a partial training.

    Args:
        first: First step of the decay.
        stop: Step at which the decay ends, above `first`.
    """

    first: int
    stop: int

    @classmethod
    def of(cls, schedule: Schedule, first: int, stop: int) -> ForkedSchedule:
        """Return the schedule that leaves `schedule` at step `first`."""
        return cls(**asdict(schedule), first=first, stop=stop)

    def __call__(self, step: int) -> float:
        """Return the factor (see `Schedule`), which decays from `first` on to `min_lr_ratio`."""
        if step < self.first:
            return super().__call__(step)
        top = super().__call__(self.first)
        bottom = min(top, self.min_lr_ratio)  # a fork may be in the warm-up
        u = min(1.0, (step - self.first + 1) / (self.stop - self.first + 1))  # a one-step decay stops halfway
        return bottom + (top - bottom) * (1.0 - u)

    def decay_has_begun(self, step: int) -> bool:
        """See `Schedule`."""
        return step > self.first or super().decay_has_begun(step)
