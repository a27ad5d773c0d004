"""How to train, whatever is trained: what a trainer is given beside the model and the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from evo_tune.options.bounds import check_number
from evo_tune.recipe.optim.optimisation import Optimisation, check_clip, scale_lr, scaled_betas
from evo_tune.recipe.optim.schedule import GapDecay, Schedule, WeightDecay
from evo_tune.recipe.plan import Training
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, whatever is trained.

    Args:
        optimizer: Which one, its peak learning rate and moments.
        schedule: The learning rate along the steps; it also says how many steps the full training has.
        weight_decay: λ along the steps, or by the gap between held-out and training loss.
        clip: Largest gradient norm, above 0; None: no limit.
        ceiling: Loss above which a training counts as diverged after warm-up; None: no ceiling.
        precision: In what the model computes.
        z_loss: Weight of the mean square of log Σ exp(logits) beside the loss, 0 to 1; 1e-4 keeps logits
            from drifting (arXiv:2309.14322).
        ema: Decay of a moving average of the weights, kept beside them, below 1; None: none is kept.

    Raises:
        RecipeError: A field is out of its range.
    """

    optimizer: AdamW | SGD | Muon
    schedule: Schedule
    weight_decay: WeightDecay | GapDecay
    clip: float | None = 1.0
    ceiling: float | None = None
    precision: Precision = field(default_factory=Precision)
    z_loss: float = 0.0
    ema: float | None = None

    def __post_init__(self) -> None:
        check_clip(self.clip)
        check_number("z_loss", self.z_loss, "[0, 1]")
        if self.ema is not None:
            check_number("ema", self.ema, "[0, 1)")

    @property
    def identity(self) -> str:
        """Hash of all fields: a checkpoint can be continued only with the recipe that it was made with."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_of(
    options: Training,
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
        options: How a model is trained.
        steps: Of the full training.
        lr: Peak learning rate at the reference batch.
        batch: Of a step, in any unit.
        reference: Batch for which learning rates are meant, in the same unit.
        weight_decay: λ at its beginning.
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
        z_loss=options.z_loss,
        ema=options.ema,
    )


def optimizer_of(options: Optimisation, lr: float, batch: float, reference: float) -> AdamW | Muon | SGD:
    """Return the optimizer with its peak learning rate.

    Args:
        options: Which one, and its moments.
        lr: The one that suits the reference batch.
        batch: In any unit.
        reference: In the same unit.

    By the rule 'sqrt' Adam's β are moved too (arXiv:2205.10287).

    Raises:
        RecipeError: The learning rate, as `lr_rule` moves it, is out of its range.
    """
    scaled = scale_lr(lr, batch, reference, options.lr_rule)
    beta1, beta2 = scaled_betas((options.beta1, options.beta2), batch, reference, options.lr_rule)
    betas: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": options.eps}
    if options.optimizer_name == "adamw":
        return AdamW(lr=scaled, **betas)
    if options.optimizer == "muon":
        return Muon(lr=scaled, momentum=options.momentum, **betas)
    return SGD(lr=scaled, momentum=options.momentum)
