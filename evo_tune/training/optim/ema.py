"""A moving average of the weights, kept beside them: often a better model than the last step's.

It is another model and is judged as one: its metrics stand beside the raw weights', never in their place.
"""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from evo_tune.options.bounds import check_number

__all__ = ["average_of"]


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average that begins at the model's weights: a ← decay · a + (1 − decay) · w at each update.

    Args:
        model: What to average; buffers are copied, not averaged.
        decay: 0 (the last weights) up to below 1.

    Raises:
        RecipeError: The decay is out of its range.
    """
    check_number("ema", decay, "[0, 1)")
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    averaged.update_parameters(model)  # the first update only copies
    return averaged
