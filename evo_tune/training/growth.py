"""A larger model that begins as the same function: more blocks, or wider feed-forward layers.

New blocks begin with outputs of zero, new hidden units with output weights of zero, and learn from there
(Net2Net's idea, arXiv:1511.05641). The residual stream cannot be widened so: its LayerNorms would see other
means. Optimizer state goes along, so training goes on where it stood.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.training._check import check_integer
from evo_tune.training.gpt import GPT

__all__ = ["carry_state", "grow"]


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
        for name, source in _sources(model, grown).items():
            if source is not None:
                _embed(ours[name], theirs[source], gated=old.ffn == "swiglu", clear=name.endswith("ffn.out.weight"))
            elif name.endswith((".out.weight", ".out.bias")):
                ours[name].zero_()
    return grown.to(model.embedding.weight).train(model.training)


def carry_state(old: torch.optim.Optimizer, model: GPT, new: torch.optim.Optimizer, grown: GPT) -> None:
    """Give a grown model's optimizer the old one's moments; new weights begin with none, as in a new training.

    Args:
        old: The optimizer of `model`.
        model: What was grown.
        new: A fresh optimizer of `grown`, of the same kind.
        grown: What `grow` returned.
    """
    states = {p: state for part in getattr(old, "optimizers", [old]) for p, state in part.state.items()}
    ours, theirs = dict(grown.named_parameters()), dict(model.named_parameters())
    homes = {p: part for part in getattr(new, "optimizers", [new]) for g in part.param_groups for p in g["params"]}
    for name, source in _sources(model, grown).items():
        state = states.get(theirs[source]) if source is not None else None
        if state is None:
            continue
        target, carried = ours[name], {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == theirs[source].shape:  # type: ignore[index]
                carried[key] = torch.zeros_like(target)
                _embed(carried[key], value, gated=model.config.ffn == "swiglu", clear=True)
            else:
                carried[key] = value.clone() if isinstance(value, Tensor) else value
        homes[target].state[target] = carried


def _sources(model: GPT, grown: GPT) -> dict[str, str | None]:
    """Return, for each parameter of the grown model, the old one's that it continues; None if it is new."""
    old, new = model.config.depth, grown.config.depth
    places = {(block + 1) * new // old - 1: block for block in range(old)}  # old blocks, evenly spread
    sources: dict[str, str | None] = {}
    for name, _ in grown.named_parameters():
        parts = name.split(".")
        if parts[0] == "blocks":
            block = places.get(int(parts[1]))
            sources[name] = None if block is None else ".".join(("blocks", str(block), *parts[2:]))
        else:
            sources[name] = name
    return sources


def _embed(target: Tensor, source: Tensor, *, gated: bool, clear: bool) -> None:
    """Copy a tensor into the corner of a larger one; a SwiGLU's gate and value are embedded each by itself.

    Args:
        target: At least as large in each dimension.
        source: What to copy.
        gated: Whether a first dimension that has grown holds gates and values.
        clear: Whether the rest becomes zero; else it stays as it is.
    """
    if clear:
        target.zero_()
    halves = 2 if gated and target.shape[0] > source.shape[0] else 1
    for into, part in zip(target.chunk(halves), source.chunk(halves), strict=True):
        into[tuple(slice(size) for size in part.shape)] = part
