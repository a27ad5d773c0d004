"""A batch that grows over the first part of a training: small at first, when gradients agree, large later.

DeepSeek-V3 (arXiv:2412.19437) goes from 3072 to 15360 sequences over its first 469B of 14.8T tokens. It is
done by accumulation: the micro-batch stays, a step takes more of them, the last of them perhaps in part. Which
samples are whose step's is a function of the step alone, neither of the micro-batch nor of a device, so there is
nothing to save. Plain arithmetic: no torch, no data.
"""

from __future__ import annotations

from dataclasses import dataclass

from evo_tune.options.bounds import check_integer, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.optim.accounting import optimizer_steps

__all__ = ["BatchRamp", "Ramping", "steps_of"]


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
