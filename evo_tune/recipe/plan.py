"""The recipe as options, whatever is trained; and how long a classifier is trained: plain arithmetic, without torch.

Knows nothing of models or data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from evo_tune.errors import RecipeError
from evo_tune.options.declare import option
from evo_tune.recipe.hardware.computing import Computing, Passes, Processes
from evo_tune.recipe.optim.clipping import Clipping
from evo_tune.recipe.optim.ema import Averaging
from evo_tune.recipe.optim.gap_decay import Decaying
from evo_tune.recipe.optim.optimisation import Optimisation
from evo_tune.recipe.optim.schedule import Schedule, Scheduling
from evo_tune.recipe.optim.stopping import StoppingInTime

__all__ = ["Plan", "ToZero", "Training"]


@dataclass(frozen=True, kw_only=True)
class Training(Processes, Passes, Computing, StoppingInTime, Averaging, Clipping, Decaying, Optimisation, Scheduling):
    """How a model is trained, whatever it is."""

    def check_genes(self, *, lr: float, weight_decay: float, warmup: float) -> None:
        """Require numbers that the recipe takes, before anything is built.

        Raises:
            RecipeError: One is out of its range.
        """
        self.check_lr(lr)
        self.rates(steps=10, warmup=warmup)
        self.decay(weight_decay)


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
class Plan(ToZero, Training):
    """What is held equal between trainings: one budget."""

    flops: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in FLOPs; left out, the size's own")
    epochs: float | None = option(None, bounds="(0, inf)", gene=None, help="Budget in passes over the training samples")
    seconds: float | None = option(
        None,
        bounds="(0, 1e9]",
        unit="s",
        gene=None,
        help="Budget in time, by timed steps: no two runs are the same",
    )
    # Not 0.95, which suits language models: classifiers keep Adam's own default.
    beta2: float = option(
        0.999, bounds="[0, 0.99999]", gene="0.9|0.95|0.98|0.99|0.995|0.999", help="adamw, muon: decay of the second"
    )
    micro_batch: int | Literal["auto"] | None = option(
        "auto",
        bounds="[1, inf)",
        unit="samples",
        gene=None,
        help="Most in one pass, which changes no gradient; auto: what the device's whole memory has room for",
    )
    evaluations: int = option(
        4, bounds="[1, 10000]", gene=None, help="How many, each on all held-out samples: the learning curve"
    )

    def check(self) -> None:
        """Require one budget at most.

        Raises:
            RecipeError: There are two.
        """
        given = [name for name in ("epochs", "flops", "seconds") if getattr(self, name) is not None]
        if len(given) > 1:
            first, second = given[:2]
            text = f"one budget, {first} or {second}, and {second}={getattr(self, second)} beside it"
            raise RecipeError(first, getattr(self, first), text)
        if self.seconds is not None and self.ranks > 1:
            raise RecipeError("seconds", self.seconds, f"flops or epochs in its place beside ranks={self.ranks}")

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
