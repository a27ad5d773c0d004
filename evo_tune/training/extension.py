"""A longer context for a model that was trained at a shorter one. Train it on at the new length afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch

from evo_tune.training._check import check_integer
from evo_tune.training.gpt import GPT
from evo_tune.training.positions import interpolate_positions

__all__ = ["extend_context"]


def extend_context(model: GPT, context: int, method: str = "linear") -> GPT:
    """Return a model of the same weights that takes longer sequences.

    Args:
        model: It is left alone.
        context: The new context, as long as the old or longer.
        method: 'linear'; with rotary positions 'ntk' or 'yarn' too (see `positions`).

    Raises:
        RecipeError: A shorter context, or a method that the model's positions do not have.
    """
    old = model.config
    check_integer("context", context, old.context)
    trained = old.extended_from or old.context
    longer = GPT(replace(old, context=context, extended_from=trained, extension=method), recompute=model.recompute)
    weights = dict(model.state_dict())
    if model.positions is not None:
        with torch.no_grad():
            weights["positions.weight"] = interpolate_positions(model.positions.weight, context)
    longer.load_state_dict(weights)
    return longer.to(model.embedding.weight).train(model.training)
