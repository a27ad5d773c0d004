"""How many steps a training has: by samples and batch, with a batch that grows, up to a fork."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from evo_tune.options.bounds import check_integer, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.optim.schedule import DECAYS, Schedule


def optimizer_steps(micro_batches: int, accumulation: int) -> int:
    """Return the number of steps in which `micro_batches` are used up.

    The last, partial window of micro-batches is a step as well: dropping it loses data, and carrying it
    over mixes two epochs in one gradient.

    Args:
        micro_batches: How many there are (or windows, or samples: any unit), 0 or more.
        accumulation: How many of them make one step, 1 or more.

    Raises:
        RecipeError: Either is not a whole number in its range.
    """
    check_integer("micro_batches", micro_batches, 0)
    check_integer("accumulation", accumulation, 1)
    return -(-micro_batches // accumulation)


def stop_step(steps: int, budget: float) -> int:
    """Return the step at which a training with a fraction of the full budget stops: ⌈budget · steps⌉.

    Args:
        steps: Steps of the full training, over which the schedules are laid, 1 or more.
        budget: Fraction of it, 0 < budget ≤ 1.

    Raises:
        RecipeError: Either is out of its range.
    """
    check_integer("steps", steps, 1)
    check_number("budget", budget, "(0, 1]")
    # 1/3 of 9 steps is 3, whatever the last bit of 1/3 says.
    return max(1, math.ceil(budget * steps - 1e-9 * steps))


@dataclass(frozen=True, kw_only=True)
class BatchRamp:
    """How a batch grows: linearly in the samples done, rounded down.

    Args:
        start: Samples in the first step, 1 or more.
        fraction: Share of the training's samples after which the batch is whole, above 0, up to 1; V3's is
            about 0.03.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: int
    fraction: float = 0.03

    def __post_init__(self) -> None:
        check_integer("ramp start", self.start, 1)
        check_number("ramp fraction", self.fraction, "(0, 1]")

    def size(self, done: int, *, batch: int, total: int) -> int:
        """Return the samples of the step that comes after `done` samples.

        Args:
            done: Samples before it.
            batch: Samples in a step after the ramp.
            total: Samples in the full training.

        Raises:
            RecipeError: start is above batch.
        """
        check_integer("ramp start", self.start, 1, batch)
        reached = done / (self.fraction * total)
        if reached >= 1.0:
            return batch
        return self.start + int((batch - self.start) * reached)


def steps_of(total: int, batch: int, ramp: BatchRamp | None) -> Bounds:
    """Return which samples belong to which step, all `total` of them, each once."""
    firsts = [0]
    while ramp is not None and firsts[-1] < total:
        size = ramp.size(firsts[-1], batch=batch, total=total)
        if size == batch:
            break  # from here on all are alike
        firsts.append(min(total, firsts[-1] + size))
    return Bounds(tuple(firsts), batch, total)


@dataclass(frozen=True)
class Bounds:
    """The steps of a training as ranges of samples: growing ones first, then equal ones, then what is left.

    Args:
        firsts: Where each growing step begins, and where the last of them ends.
        batch: Samples in each step after them.
        total: Samples in all.
    """

    firsts: tuple[int, ...]
    batch: int
    total: int

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.firsts) - 1 + optimizer_steps(self.total - self.firsts[-1], self.batch)

    def __getitem__(self, step: int) -> tuple[int, int]:
        """Return the first sample of a step and the one after its last; beyond the training there are none."""
        growing = len(self.firsts) - 1
        if step < growing:
            return self.firsts[step], self.firsts[step + 1]
        first = min(self.total, self.firsts[-1] + (step - growing) * self.batch)
        return first, min(first + self.batch, self.total)


@dataclass(frozen=True, kw_only=True)
class Ramping(Options):
    """A batch that grows."""

    ramp_from: int | None = option(None, bounds="[1, inf)", unit="tokens", help="In the first step's batch")
    ramp_share: float = option(0.03, bounds="(0, 1]", help="Share of the training after which the batch is whole")

    @property
    def ramp(self) -> BatchRamp | None:
        """How the batch grows, its start in tokens; None: it does not."""
        return None if self.ramp_from is None else BatchRamp(start=self.ramp_from, fraction=self.ramp_share)


def fork_step(schedule: Schedule, stop: int) -> int:
    """Return the step at which a training that is to stop at `stop` leaves its full schedule to decay.

    Args:
        schedule: Laid over the full training.
        stop: From 1.

    Returns:
        `stop` where nothing forks: at the end of the full training, under another schedule than wsd, or in one step.
    """
    if schedule.name != "wsd" or stop >= schedule.steps or stop < 2:
        return stop
    return max(1, stop - max(1, round(schedule.decay_fraction * stop)))


@dataclass(frozen=True, kw_only=True)
class Tail(Schedule):
    """A wsd schedule that comes down before its time.

    Args:
        fork: The step with which the decay begins.
        stop: The step at which it is over, more than `fork`.

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
    def of(cls, schedule: Schedule, fork: int, stop: int) -> Tail:
        """Return a schedule that leaves another one at a step."""
        return cls(**asdict(schedule), fork=fork, stop=stop)

    def __call__(self, step: int) -> float:
        """See `Schedule`; from the fork on it falls from where it is as the whole would, to `min_lr_ratio`."""
        if step < self.fork:
            return super().__call__(step)
        top = super().__call__(self.fork)
        bottom = min(top, self.min_lr_ratio)  # a fork may lie in the warm-up
        u = min(1.0, (step - self.fork + 1) / (self.stop - self.fork + 1))  # a decay of one step is half way down
        return bottom + (top - bottom) * DECAYS[self.decay_shape](u)

    def decayed(self, step: int) -> bool:
        """See `Schedule`."""
        return step > self.fork or super().decayed(step)
