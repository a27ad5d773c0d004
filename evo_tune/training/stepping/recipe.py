"""Training options that a trainer needs in addition to the model and the data."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from evo_tune.options.declare import check_number
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon
from evo_tune.training.recipe.optim.optimisation import OptimizerOptions, scale_betas, scale_lr
from evo_tune.training.recipe.optim.schedule import GapDecay, Schedule, WeightDecay
from evo_tune.training.recipe.plan import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training options common to all models.

    Args:
        optimizer: Optimizer with its peak learning rate and moments.
        schedule: Learning rate by step; it also defines the number of steps of the full training.
        weight_decay: Weight decay λ by step, or by the gap between held-out and training loss.
        clip: Largest gradient norm, above 0; None: no limit.
        ceiling: Loss above which a training counts as diverged after warm-up; None: no ceiling.
        precision: Precision of the model's computations.
        ema: Decay of a moving average of the weights, in [0, 1); None: no average.
    """

    optimizer: AdamW | SGD | Muon
    schedule: Schedule
    weight_decay: WeightDecay | GapDecay
    clip: float | None = 1.0
    ceiling: float | None = None
    precision: Precision = field(default_factory=Precision)
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.ema is not None:
            check_number("ema", self.ema, "[0, 1)")

    @property
    def identity(self) -> str:
        """Hash of all fields: a checkpoint can be continued only with the same recipe."""
        values = asdict(self)
        # With the fields that 1.1 had in addition, and its names, so that its checkpoints continue.
        schedule = values["schedule"]
        for name in ("schedule", "fork", "cycle"):
            del schedule[name]
        schedule |= {
            "name": self.schedule.schedule,
            "cycle": self.schedule.cycle_steps,
            "cycle_growth": 1,
            "decay_shape": "linear",
        }
        values["optimizer"]["rates"] |= {"head": 1.0, "vectors": 1.0}
        values["optimizer"] |= {"momentum_warmup": 0.0} if isinstance(self.optimizer, Muon) else {}
        values["weight_decay"] |= {"shape": "linear"} if isinstance(self.weight_decay, WeightDecay) else {}
        text = json.dumps({**values, "z_loss": 0.0}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_of(
    options: TrainingOptions,
    steps: int,
    *,
    lr: float,
    batch: float,
    reference: float,
    weight_decay: float,
    warmup: float,
    ceiling: float | None = None,
) -> Recipe:
    """Return the recipe of a training.

    Args:
        options: Training options.
        steps: Number of steps of the full training.
        lr: Peak learning rate at the reference batch.
        batch: Size of a step, in any unit.
        reference: Batch for which learning rates are given, in the same unit.
        weight_decay: Initial weight decay λ.
        warmup: Share of the steps for warm-up.
        ceiling: See `Recipe`.

    Raises:
        RecipeError: A number is out of its range.
    """
    return Recipe(
        optimizer=optimizer_of(options, lr, batch, reference),
        schedule=options.rates(steps, warmup),
        weight_decay=options.decay(weight_decay),
        clip=options.clip,
        ceiling=ceiling,
        precision=Precision(name=options.precision),
        ema=options.ema,
    )


def optimizer_of(options: OptimizerOptions, lr: float, batch: float, reference: float) -> AdamW | Muon | SGD:
    """Return the optimizer with its peak learning rate.

    The rule 'sqrt' also scales Adam's β (arXiv:2205.10287).

    Args:
        options: Kind of optimizer, its moments and its scaling rule.
        lr: Peak learning rate at the reference batch.
        batch: Size of a step, in any unit.
        reference: Reference batch, in the same unit.

    Raises:
        RecipeError: The learning rate, as scaled by `lr_rule`, is out of its range.
    """
    scaled = scale_lr(lr, batch, reference, options.lr_rule)
    beta1, beta2 = scale_betas((options.beta1, options.beta2), batch, reference, options.lr_rule)
    common: dict[str, Any] = {"lr": scaled, "rates": options.group_rates}
    betas: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": options.eps}
    if options.optimizer_name == "adamw":
        return AdamW(**common, **betas)
    if options.optimizer == "muon":
        return Muon(**common, momentum=options.momentum, **betas)
    return SGD(**common, momentum=options.momentum)
