"""For how long a classifier is trained, and along which schedule: plain arithmetic, without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evo_tune.errors import RecipeError
from evo_tune.options.declare import option
from evo_tune.training.optim.clipping import Clipping
from evo_tune.training.optim.schedule import Schedule, Scheduling

__all__ = ["Plan", "ToZero"]


@dataclass(frozen=True, kw_only=True)
class ToZero(Scheduling):
    """The learning rate along the steps, down to zero: what short trainings of small models gain from."""

    # Not 0.1, which is what long trainings of language models end at: a classifier's last steps are its best ones.
    min_lr_ratio: float = option(0.0, bounds="[0, 1]", help="Learning rate at the end, as a share of its peak")

    def rates(self, steps: int, warmup: float) -> Schedule:
        """Return the schedule over so many steps (see `Scheduling.rates`); a cycle of 0.1 is rounded down."""
        schedule = super().rates(steps, warmup)
        # Checkpoints go on under the schedule that they were made with, and that had no cycle of its own.
        return replace(schedule, cycle=None) if self.cycle == 0.1 else schedule


@dataclass(frozen=True, kw_only=True)
class Plan(ToZero, Clipping):
    """What is held equal between trainings: one budget."""

    flops: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in FLOPs; left out, the size's own")
    epochs: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in passes over the training samples")

    def check(self) -> None:
        """Require one budget at most.

        Raises:
            RecipeError: There are two.
        """
        if self.epochs is not None and self.flops is not None:
            raise RecipeError("epochs", self.epochs, f"one budget, epochs or flops, and flops={self.flops} beside it")

    @property
    def default_flops(self) -> float:
        """Budget in FLOPs where none is given."""
        return 2e10

    def samples(self, rows: int, flops_per_sample: float) -> int:
        """Return how many samples the full training visits, repetitions counted, at least one.

        Args:
            rows: Samples to train on.
            flops_per_sample: FLOPs of training on one.
        """
        flops = self.default_flops if self.flops is None else self.flops
        wanted = self.epochs * rows if self.epochs is not None else flops / flops_per_sample
        return max(1, round(wanted))
