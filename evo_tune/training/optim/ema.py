"""A moving average of the weights, kept beside them: often a better model than the last step's.

It is another model and is judged as one: its metrics stand beside the raw weights', never in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evo_tune.options.bounds import check_number
from evo_tune.options.declare import Options, option

if TYPE_CHECKING:
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

__all__ = ["Averaging", "average_of"]


@dataclass(frozen=True, kw_only=True)
class Averaging(Options):
    """A moving average of the weights."""

    ema: float | None = option(
        None, bounds="[0, 1)", help="Its decay; it is judged beside them as val_loss_ema; none: none is kept"
    )


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average that begins at the model's weights: a ← decay · a + (1 − decay) · w at each update.

    Args:
        model: What to average; buffers are copied, not averaged.
        decay: 0 (the last weights) up to below 1.

    Raises:
        RecipeError: The decay is out of its range.
    """
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    check_number("ema", decay, "[0, 1)")
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    averaged.update_parameters(model)  # the first update only copies
    return averaged
