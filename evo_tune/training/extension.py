"""Enlarge a trained model: more blocks, wider feed-forward layers, or a longer context.

`grow` and `extend_context` return a new model. `extend_trainer` continues a training with a longer context: same
recipe, same step, same moments. This module is independent of budgets.
"""

from dataclasses import replace
from typing import Any, cast

import torch

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer
from evo_tune.training.models.block import interpolate_positions
from evo_tune.training.models.gpt import GPT
from evo_tune.training.stepping.feeding import Source
from evo_tune.training.trainer import Trainer


def grow(model: GPT, *, depth: int | None = None, ffn_mult: float | None = None, seed: int = 0) -> GPT:
    """Return a larger model with the same outputs: bit-identical if only deeper, else up to rounding.

    The outputs of new blocks and of new hidden units begin at zero.

    Args:
        model: Model to enlarge; unchanged.
        depth: Number of blocks, at least the model's; new blocks are spread evenly among the old.
        ffn_mult: Width of the feed-forward layers as a multiple of the model's width, at least the model's.
        seed: Seed of the new weights that are not initially zero.

    Raises:
        RecipeError: A size would shrink, or blocks with and without value embeddings would change places.
    """
    old = model.config
    depth, ffn_mult = depth or old.depth, ffn_mult or old.ffn_mult
    check_integer("depth", depth, old.depth)
    config = replace(old, depth=depth, ffn_mult=ffn_mult)
    if config.ffn_width < old.ffn_width:
        raise RecipeError("ffn_mult", ffn_mult, f"{old.ffn_mult} or more")
    old_block_at = {(block + 1) * depth // old.depth - 1: block for block in range(old.depth)}
    if not all(config.embeds_values[new] for new, block in old_block_at.items() if old.embeds_values[block]):
        raise RecipeError("depth", depth, f"{old.depth} or {2 * old.depth} with value_embeddings")
    grown = GPT(config, seed, recompute=model.recompute)
    old_weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in grown.named_parameters():
            old_name = name
            if name.startswith("blocks."):
                _, number, part = name.split(".", 2)
                old_name = f"blocks.{old_block_at.get(int(number))}.{part}"
            ends_branch = name.endswith(".out.weight")
            if old_name not in old_weights:  # of a new block
                if ends_branch:
                    weight.zero_()
                continue
            if name.endswith("ffn.out.weight"):
                weight.zero_()
            source = old_weights[old_name]
            weight[tuple(map(slice, source.shape))] = source
            if ends_branch:  # a deeper model may multiply its branches by a smaller factor
                weight.mul_(old.branch / config.branch)
    return grown.to(model.embedding.weight).train(model.training)


def extend_context(model: GPT, context: int, method: str = "linear") -> GPT:
    """Return a model with the same weights that accepts longer sequences.

    Args:
        model: Model to extend; unchanged.
        context: New context in tokens, at least the old one.
        method: 'linear'; with rotary positions also 'ntk' or 'yarn' (see `rotary_frequencies`).

    Raises:
        RecipeError: The context is shorter, or the model's positions do not support the method.
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


def extend_trainer(trainer: Trainer, source: Source, context: int, method: str = "linear") -> Trainer:
    """Return a trainer that continues from the same step with a longer context.

    The moments and the moving average of learned positions are stretched as the positions are.

    Args:
        trainer: Trainer of a `GPT`; do not use it afterwards.
        source: Source of the batches from the trainer's step on.
        context: See `extend_context`.
        method: See `extend_context`.

    Raises:
        RecipeError: See `extend_context`.
    """
    old = cast(GPT, trainer.model)
    model = extend_context(old, context, method)
    place: dict[str, Any] = {"seed": trainer.seed, "device": str(trainer.device), "ranks": trainer.ranks}
    longer = Trainer(model, source, trainer.recipe, compiled=trainer.compiled, **place)
    state = trainer.state()
    state["model"] = model.state_dict()
    if state["averaged"] is not None and old.positions is not None:
        name = "module.positions.weight"
        state["averaged"] = {**state["averaged"], name: interpolate_positions(state["averaged"][name], context)}
    longer.restore(state)
    if old.positions is not None and model.positions is not None:
        for part in getattr(longer.optimizer, "optimizers", [longer.optimizer]):
            moments = part.state.get(model.positions.weight, {})
            for name, value in moments.items():
                if isinstance(value, torch.Tensor) and value.shape == old.positions.weight.shape:
                    moments[name] = interpolate_positions(value, context)
    return longer
