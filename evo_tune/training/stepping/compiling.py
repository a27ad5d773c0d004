"""A model's blocks compiled, each by itself: they are alike, so that one compilation serves all of them.

The whole model as one graph would be compiled for each depth anew, and would hold what must stay outside of a graph:
noise that is seeded for each layer. The weights keep their names. Compiled blocks on a GPU attend in windows by torch's
flex_attention, which skips what no query of a tile sees; uncompiled it would compute the whole square.
"""

from __future__ import annotations

import torch
from torch import nn

from evo_tune.training.models.block import Attention
from evo_tune.training.models.dropout import noise_stays_eager
from evo_tune.training.models.windowed import flex_mask

__all__ = ["blocks_of", "compile_blocks"]


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
