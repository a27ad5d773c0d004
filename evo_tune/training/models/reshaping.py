"""Grow a model by blocks or by the width of its feed-forward layers; its function stays the same.

New blocks begin with outputs of zero and new hidden units with output weights of zero (Net2Net's idea,
arXiv:1511.05641). `widening` grows the residual stream.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.recipe.models.gpt_config import GPTConfig
from evo_tune.training.models.gpt import GPT

__all__ = ["grow", "made_up", "sources"]


def grow(model: GPT, *, depth: int | None = None, ffn_mult: float | None = None, seed: int = 0) -> GPT:
    """Return a larger model with the same outputs: to the bit if only deeper, else but for rounding.

    Args:
        model: It is left alone.
        depth: Number of blocks, the model's or more; new ones stand evenly between the old.
        ffn_mult: Width of the feed-forward layers as a multiple of the model's width, the model's or more.
        seed: Seed of the new weights that do not begin at zero.

    Raises:
        RecipeError: Something would become smaller, or blocks with and without a window would change places.
    """
    old = model.config
    depth, ffn_mult = depth or old.depth, ffn_mult or old.ffn_mult
    check_integer("depth", depth, old.depth)
    config = replace(old, depth=depth, ffn_mult=ffn_mult)
    if config.ffn_width < old.ffn_width:
        raise RecipeError("ffn_mult", ffn_mult, f"{old.ffn_mult} or more")
    if depth > old.depth and len({*old.windows, *config.windows}) > 1:
        raise RecipeError("depth", depth, f"{old.depth} with window_pattern={old.window_pattern!r}")
    grown = GPT(config, seed, recompute=model.recompute)
    ours, theirs = dict(grown.named_parameters()), dict(model.named_parameters())
    with torch.no_grad():
        for name, source in sources(model, grown).items():
            if source is not None:
                _copy(ours[name], theirs[source], gated=_is_gated(name, config), clear=name.endswith("ffn.out.weight"))
                ours[name].mul_(made_up(name, model.config, config))
            elif name.endswith((".out.weight", ".out.bias")):
                ours[name].zero_()
    return grown.to(model.embedding.weight).train(model.training)


def made_up(name: str, old: GPTConfig, new: GPTConfig) -> float:
    """Return by what a parameter is multiplied so that the function stays, where the shape multiplies otherwise.

    A deeper model has smaller branches, a wider one smaller logits (see `Parametrisation`).

    Args:
        name: Of a parameter.
        old: The model's shape.
        new: The shape of the one that continues it.
    """
    if name.endswith((".out.weight", ".out.bias")):
        return old.branch / new.branch
    return old.readout / new.readout if name.startswith("norm.") else 1.0


def sources(model: GPT, grown: GPT) -> dict[str, str | None]:
    """Return, for each parameter of the grown model, the name of the old one that it continues; None if it is new."""
    old, new = model.config.depth, grown.config.depth
    places = {(block + 1) * new // old - 1: block for block in range(old)}  # evenly spread
    found: dict[str, str | None] = {}
    for name, _ in grown.named_parameters():
        parts = name.split(".")
        if parts[0] == "blocks":
            block = places.get(int(parts[1]))
            found[name] = None if block is None else ".".join(("blocks", str(block), *parts[2:]))
        else:
            found[name] = name
    return found


def _is_gated(name: str, config: GPTConfig) -> bool:
    """Whether the first dimension of a parameter holds a SwiGLU's gates, then as many values."""
    return config.ffn == "swiglu" and ".ffn.up." in name


def _copy(target: Tensor, source: Tensor, *, gated: bool, clear: bool) -> None:
    """Copy a tensor into the corner of a larger one; a SwiGLU's gates and values are copied separately.

    Args:
        target: Tensor to fill, with as many dimensions.
        source: Tensor to copy.
        gated: Whether the first dimension has the gates, then the values.
        clear: Whether the rest becomes zero; else it stays.
    """
    if clear:
        target.zero_()
    halves = 2 if gated else 1
    for into, part in zip(target.chunk(halves), source.chunk(halves), strict=True):
        into[tuple(map(slice, part.shape))] = part
