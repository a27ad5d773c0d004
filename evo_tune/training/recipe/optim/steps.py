"""Number of steps in a training: from samples and batch, with a growing batch, and with a fork to decay."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from evo_tune.options.bounds import check_integer, check_number
from evo_tune.options.declare import Options, option
from evo_tune.training.recipe.optim.schedule import DECAYS, Schedule


def optimizer_steps(micro_batches: int, accumulation: int) -> int:
    """Return the number of steps that consume `micro_batches`.

    A last, partial group of micro-batches is a step too: dropping it would lose data, and keeping it for the next
    epoch would mix two epochs in one gradient.

    Args:
        micro_batches: Number of micro-batches, windows or samples (int ≥ 0).
        accumulation: Number of them per step (int ≥ 1).

    Raises:
        RecipeError: Either is not a whole number in its range.
    """
    check_integer("micro_batches", micro_batches, 0)
    check_integer("accumulation", accumulation, 1)
    return -(-micro_batches // accumulation)


def stop_step(steps: int, budget: float) -> int:
    """Return the number of steps in a training with part of the full budget: ⌈budget · steps⌉.

    Args:
        steps: Number of steps in the full training, the length of its schedules (int ≥ 1).
        budget: Fraction of the full budget, 0 < budget ≤ 1.

    Raises:
        RecipeError: Either is out of its range.
    """
    check_integer("steps", steps, 1)
    check_number("budget", budget, "(0, 1]")
    # The tolerance keeps 1/3 of 9 steps at 3 despite rounding.
    return max(1, math.ceil(budget * steps - 1e-9 * steps))


@dataclass(frozen=True, kw_only=True)
class BatchRamp:
    """Growth of a batch, linear in the samples done, rounded down.

    Args:
        start: Samples in the first step (int ≥ 1).
        fraction: Share of the training's samples after which the batch has its full size, above 0, up to 1; about
            0.03 in DeepSeek-V3.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: int
    fraction: float = 0.03

    def __post_init__(self) -> None:
        check_integer("ramp start", self.start, 1)
        check_number("ramp fraction", self.fraction, "(0, 1]")

    def size(self, done: int, *, batch: int, total: int) -> int:
        """Return the number of samples in the step after `done` samples.

        Args:
            done: Samples before the step.
            batch: Samples per step after the ramp.
            total: Samples in the full training.

        Raises:
            RecipeError: `start` is above `batch`.
        """
        check_integer("ramp start", self.start, 1, batch)
        reached = done / (self.fraction * total)
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


def fork_step(schedule: Schedule, stop: int) -> int:
    """Return the step at which a training that stops at `stop` leaves its full schedule and decays.

    Args:
        schedule: Schedule of the full training.
        stop: Number of steps before the stop (int ≥ 1).

    Returns:
        `stop` if nothing forks: at the end of the full training, under a schedule other than wsd, or in one step.
    """
    if schedule.name != "wsd" or stop >= schedule.steps or stop < 2:
        return stop
    return max(1, stop - max(1, round(schedule.decay_fraction * stop)))


@dataclass(frozen=True, kw_only=True)
class ForkedSchedule(Schedule):
    """A wsd schedule that decays early, for a partial training.

    Args:
        fork: First step of the decay.
        stop: Step at which the decay ends, above `fork`.

    Raises:
        RecipeError: A field is out of its range.
    """

    fork: int
    stop: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("fork", self.fork, 0)
        check_integer("stop", self.stop, self.fork + 1, self.steps)

    @classmethod
    def of(cls, schedule: Schedule, fork: int, stop: int) -> ForkedSchedule:
        """Return the schedule that leaves `schedule` at step `fork`."""
        return cls(**asdict(schedule), fork=fork, stop=stop)

    def __call__(self, step: int) -> float:
        """Return the factor (see `Schedule`), which decays from `fork` on to `min_lr_ratio` by `decay_shape`."""
        if step < self.fork:
            return super().__call__(step)
        top = super().__call__(self.fork)
        bottom = min(top, self.min_lr_ratio)  # a fork may be in the warm-up
        u = min(1.0, (step - self.fork + 1) / (self.stop - self.fork + 1))  # a one-step decay stops halfway
        return bottom + (top - bottom) * DECAYS[self.decay_shape](u)

    def decay_has_begun(self, step: int) -> bool:
        """See `Schedule`."""
        return step > self.fork or super().decay_has_begun(step)
