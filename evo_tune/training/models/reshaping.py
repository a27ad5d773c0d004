"""A larger model that begins as the same function: more blocks, or wider feed-forward layers; and a smaller one.

New blocks begin with outputs of zero, new hidden units with output weights of zero, and learn from there
(Net2Net's idea, arXiv:1511.05641). The residual stream is another matter (see `widening`). `reshape` cuts as well,
which keeps no function but much of what was learned.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.recipe.models.gpt_config import GPTConfig
from evo_tune.training.models.gpt import GPT

__all__ = ["grow", "made_up", "reshape", "sources"]


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
    return reshape(model, config, seed, recompute=model.recompute)


def reshape(model: GPT, config: GPTConfig, seed: int = 0, *, recompute: int | None = None) -> GPT:
    """Return a model of another shape that begins with a trained one's weights.

    Where it is larger, it is what `grow` makes, and further positions are new. Where it is smaller, it has evenly
    spread blocks (the last among them), the first hidden units and the first positions.

    Args:
        model: It is left alone.
        config: Its shape; it differs from the model's in nothing but `RESHAPABLE`.
        seed: Seed of the new weights that do not begin at zero.
        recompute: See `GPT`.

    Raises:
        RecipeError: The shape differs in something else.
    """
    unlike = config.unlike(model.config)
    if unlike:
        value, allowed = (getattr(one, unlike[0]) for one in (config, model.config))
        raise RecipeError(unlike[0], value, f"{allowed!r}, as in the model to begin with")
    shaped = GPT(config, seed, recompute=recompute)
    ours, theirs = dict(shaped.named_parameters()), dict(model.named_parameters())
    with torch.no_grad():
        for name, source in sources(model, shaped).items():
            if source is not None:
                _copy(ours[name], theirs[source], gated=_is_gated(name, config), clear=name.endswith("ffn.out.weight"))
                ours[name].mul_(made_up(name, model.config, config))
            elif name.endswith((".out.weight", ".out.bias")):
                ours[name].zero_()
    return shaped.to(model.embedding.weight).train(model.training)


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


def sources(model: GPT, shaped: GPT) -> dict[str, str | None]:
    """Return, for each parameter of the reshaped model, the old one's that it continues; None if it is new."""
    old, new = model.config.depth, shaped.config.depth
    fewer = min(old, new)  # blocks of both, evenly spread
    places = {(n + 1) * new // fewer - 1: (n + 1) * old // fewer - 1 for n in range(fewer)}
    found: dict[str, str | None] = {}
    for name, _ in shaped.named_parameters():
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
    """Copy the corner that two tensors share; a SwiGLU's gates and values are copied each by themselves.

    Args:
        target: Where to; of as many dimensions.
        source: What to copy.
        gated: Whether the first dimension holds gates and values.
        clear: Whether the rest becomes zero; else it stays as it is.
    """
    if clear:
        target.zero_()
    halves = 2 if gated else 1
    for into, part in zip(target.chunk(halves), source.chunk(halves), strict=True):
        shared = tuple(slice(min(sizes)) for sizes in zip(into.shape, part.shape, strict=True))
        into[shared] = part[shared]
