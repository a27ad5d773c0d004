"""What is made of a model around its steps: a moving average, compiled blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evo_tune.options.bounds import check_number
from evo_tune.recipe.optim.optimisation import warmed_up
from evo_tune.training.models.block import Attention, flex_mask
from evo_tune.training.models.dropout import noise_stays_eager


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
        # The public `get_ema_multi_avg_fn` takes a decay (1 - decay is rounded) and knows no refused steps.
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


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that a model is a pile of: the items of its longest list of modules; itself if it has none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return list(max(lists, key=len)) if lists else [model]  # type: ignore[arg-type]


def compile_blocks(model: nn.Module) -> None:
    """Compile a model's blocks in place, at their first pass; it is where it is to stay."""
    noise_stays_eager()
    for block in blocks_of(model):
        for module in block.modules():
            if isinstance(module, Attention) and module.windowed:
                _attend_by_flex(model, module)
        block.compile()


def _attend_by_flex(model: nn.Module, attention: Attention) -> None:
    """Give an attention the mask by which flex_attention skips, where that runs and its shapes allow it."""
    config, table = getattr(model, "config", None), getattr(model, "mask", None)
    if config is None or table is None or table.device.type != "cuda":
        return
    head_dim = config.width // config.heads
    if head_dim >= 16 and head_dim & (head_dim - 1) == 0:
        chunk, reach = table.shape
        attention.flex = flex_mask(config.context, reach - chunk + 1, torch.device(table.device))
