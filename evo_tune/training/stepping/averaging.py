"""A moving average of the weights as a model beside the model (see `optim.ema`), moved without a wait."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evo_tune.options.bounds import check_number
from evo_tune.recipe.optim.optimisation import warmed_up

__all__ = ["Average", "average_of"]


class Average(AveragedModel):
    """A model's moving average: a ← dₜ · a + (1 − dₜ) · w at update t; what torch makes of it, without its waiting.

    Args:
        model: What to average; buffers are copied, not averaged.
        decay: Of which dₜ is `warmed_up`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._updates: int | None = 1
        self.n_averaged.fill_(1)  # the first only copies

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, refused: Tensor | None = None) -> None:
        """Take in the weights of a step.

        Args:
            model: Has them.
            refused: Whether the step was refused after all, on the device: then nothing moves.
        """
        share = self.share_of_update()
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        # Frozen weights are the same in both.
        averages, weights = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        if refused is None:
            torch._foreach_lerp_(averages, weights, share)
        else:
            torch._foreach_lerp_(averages, weights, [(~refused).to(w.dtype) * share for w in weights])
        for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)

    def share_of_update(self) -> float:
        """Count an update, and return how far it goes from the average to the weights, as a share of the way."""
        if self._updates is None:
            self._updates = int(self.n_averaged)
        share = 1.0 - warmed_up(self.decay, self._updates)
        self._updates += 1
        self.n_averaged += 1  # kept on the CPU and with the weights, so that a training goes on where it stood
        return share

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._updates = None
        return super().load_state_dict(*args, **kwargs)


def average_of(model: nn.Module, decay: float) -> Average:
    """Return an average that begins at the model's weights.

    Args:
        model: What to average; buffers are copied, not averaged.
        decay: 0 (the last weights) up to below 1.

    Raises:
        RecipeError: The decay is out of its range.
    """
    check_number("ema", decay, "[0, 1)")
    return Average(model, decay)
