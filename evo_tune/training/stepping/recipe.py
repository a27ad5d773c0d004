"""How to train, whatever is trained: what a trainer is given beside the model and the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from evo_tune.options.bounds import check_number
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.optim.clipping import check_clip
from evo_tune.training.optim.gap_decay import GapDecay
from evo_tune.training.optim.muon import Muon
from evo_tune.training.optim.optimizer import SGD, AdamW
from evo_tune.training.optim.schedule import Schedule
from evo_tune.training.optim.weight_decay import WeightDecay

__all__ = ["Recipe"]


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
        """Hash of all fields: a checkpoint goes on under the recipe that it was made with."""
        fields = asdict(self)
        # By the names that the first checkpoints knew them by.
        fields["schedule"]["min_ratio"] = fields["schedule"].pop("min_lr_ratio")
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
