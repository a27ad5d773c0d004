"""For how long a classifier is trained, and along which schedule: plain arithmetic, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_name, check_number
from evo_tune.training.optim.schedule import SCHEDULES

__all__ = ["CLASSIFIER_METRICS", "Plan"]

CLASSIFIER_METRICS = {
    "val_loss": "nats",
    "accuracy": "",
    "auc": "",
    "train_loss": "nats",
    "samples": "",
    "epochs": "",
    "steps": "",
    "flops": "",
    "params": "",
    "samples_per_second": "1/s",
    "final_lr_fraction": "",
    "clipped_fraction": "",
}
"""What `fit` returns, with units."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is held equal between trainings, and the schedule laid over it.

    Args:
        epochs: Budget in passes over the training samples, above 0.
        flops: Budget in FLOPs, above 0; exactly one of the two is given.
        schedule: A key of `SCHEDULES`.
        min_lr_ratio: The learning rate's end, as a share of its peak, 0 to 1.
        decay_fraction: Share of the steps in which the schedule wsd decays, above 0, up to 1.
        clip: Largest norm of the gradient, above 0.

    Raises:
        RecipeError: A field is out of its range, or both budgets are given, or none.
    """

    epochs: float | None = None
    flops: float | None = None
    schedule: str = "cosine"
    min_lr_ratio: float = 0.0
    decay_fraction: float = 0.2
    clip: float = 1.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.flops is None):
            raise RecipeError("epochs", self.epochs, f"one budget, epochs or flops, and flops={self.flops} beside it")
        name = "flops" if self.epochs is None else "epochs"
        check_number(name, getattr(self, name), "(0, inf)")
        check_name("schedule", self.schedule, SCHEDULES)
        check_number("min_lr_ratio", self.min_lr_ratio, "[0, 1]")
        check_number("decay_fraction", self.decay_fraction, "(0, 1]")
        check_number("clip", self.clip, "(0, inf)")

    @classmethod
    def of(cls, default_flops: float, **fields: Any) -> Plan:
        """Return a plan, with a budget of `default_flops` if the fields give none.

        Raises:
            RecipeError: See the class.
        """
        if fields.get("epochs") is None and fields.get("flops") is None:
            fields = {**fields, "flops": default_flops}
        return cls(**fields)

    def samples(self, rows: int, flops_per_sample: float) -> int:
        """Return how many samples the full training visits, repetitions counted, at least one.

        Args:
            rows: Samples to train on.
            flops_per_sample: FLOPs of training on one.
        """
        wanted = self.epochs * rows if self.epochs is not None else (self.flops or 0.0) / flops_per_sample
        return max(1, round(wanted))
