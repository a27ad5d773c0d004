"""A moving average of the weights, kept beside them: often a better model than the last step's.

It is another model and is judged as one: its metrics stand beside the raw weights', never in their place. Its decay
is warmed up: with 0.999 from the start, the average after 372 steps would still be 69 % the first weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evo_tune.options.bounds import check_number
from evo_tune.options.declare import Options, option

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim.swa_utils import AveragedModel

__all__ = ["Averaging", "average_of", "warmed_up"]


@dataclass(frozen=True, kw_only=True)
class Averaging(Options):
    """A moving average of the weights."""

    ema: float | None = option(
        None, bounds="[0, 1)", help="Its decay, warmed up; it is judged beside them as val_loss_ema; none: none is kept"
    )


def warmed_up(decay: float, update: int) -> float:
    """Return the decay of an update: min(decay, (1 + t) / (10 + t)).

    As TensorFlow's ExponentialMovingAverage does with `num_updates`: the average reaches about a ninth of the training
    back, until that is as far as `decay` goes.

    Args:
        decay: What it rises to, below 1.
        update: Number t of the update, from 1.
    """
    return min(decay, (1.0 + update) / (10.0 + update))


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average that begins at the model's weights: a ← dₜ · a + (1 − dₜ) · w at update t.

    Args:
        model: What to average; buffers are copied, not averaged.
        decay: Of which dₜ is `warmed_up`: 0 (the last weights) up to below 1.

    Raises:
        RecipeError: The decay is out of its range.
    """
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    def update(averages: Any, weights: Any, updates: int | Tensor) -> None:
        # The count is kept on the CPU and with the weights, so that a training goes on where it stood.
        get_ema_multi_avg_fn(warmed_up(decay, int(updates)))(averages, weights, updates)  # type: ignore[no-untyped-call]

    check_number("ema", decay, "[0, 1)")
    averaged = AveragedModel(model, multi_avg_fn=update)
    averaged.update_parameters(model)  # the first update only copies
    return averaged
