"""A moving average of a model's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evo_tune.training.recipe.optim.optimisation import ema_decay


class Average(AveragedModel):
    """Moving average of a model: a ← dₜ · a + (1 − dₜ) · w at update t. Unlike torch's, it never waits for the device.

    Args:
        model: Model to average; buffers are copied, not averaged.
        decay: Final decay; `warmed_up` computes dₜ from it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self._updates: int | None = 1
        self.n_averaged.fill_(1)  # the first update only copies

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, refused: Tensor | None = None) -> None:
        """Update the average with the weights after a step.

        Args:
            model: Model with the new weights.
            refused: Device flag: whether the step was refused, so that nothing changes; None: it was not.
        """
        if self._updates is None:
            self._updates = int(self.n_averaged)
        share = 1.0 - ema_decay(self.decay, self._updates)
        self._updates += 1
        self.n_averaged += 1  # on the CPU and saved with the weights, so that a resumed training continues the count
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        # Frozen weights are the same in both.
        averages, weights = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        # The public `get_ema_multi_avg_fn` takes a decay (1 - decay is rounded) and cannot skip refused steps.
        if refused is None:
            torch._foreach_lerp_(averages, weights, share)
        else:
            shares = {dtype: (~refused).to(dtype) * share for dtype in {w.dtype for w in weights}}
            torch._foreach_lerp_(averages, weights, [shares[w.dtype] for w in weights])
        for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._updates = None
        return super().load_state_dict(*args, **kwargs)


def average_of(model: nn.Module, decay: float) -> Average:
    """Return an average initialised with the model's weights.

    Args:
        model: Model to average; buffers are copied, not averaged.
        decay: Decay in [0, 1); 0 keeps the last weights.
    """
    return Average(model, decay)
