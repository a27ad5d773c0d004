"""Extend a model to a longer context, and continue a training with a longer context or a larger model.

`extend_context` makes the longer model, `growth.enlarge` the larger one. `extend_trainer` and `grow_trainer` continue
a training: same recipe, same step, same moments. This module is independent of budgets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from evo_tune.options.bounds import check_integer
from evo_tune.training.hardware.device import seed_for
from evo_tune.training.models.block import interpolate_positions
from evo_tune.training.models.gpt import GPT
from evo_tune.training.models.growth import carry_state, enlarge
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.stepping.feeding import Source
from evo_tune.training.trainer import Trainer


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
    longer = _as_before(trainer, model, source)
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


def grow_trainer(trainer: Trainer, source: Source, config: GPTConfig) -> Trainer:
    """Return a trainer that continues from the same step with a larger model, at first the same function.

    The moments and the moving average grow with the weights.

    Args:
        trainer: Trainer of a `GPT`; do not use it afterwards.
        source: Source of the batches from the trainer's step on.
        config: Shape of the larger model; the trainer's shape is a `smaller_shape` it.
    """
    old, seed = cast(GPT, trainer.model), seed_for(trainer.seed, "growth")
    model = enlarge(old, config, seed, recompute=old.recompute)
    larger = _as_before(trainer, model, source)
    carry_state(trainer.optimizer, old, larger.optimizer, model)
    if trainer.averaged is not None and larger.averaged is not None:
        average = enlarge(cast(GPT, trainer.averaged.module), config, seed)
        larger.averaged.module.load_state_dict(average.state_dict())
        larger.averaged.n_averaged.copy_(trainer.averaged.n_averaged)
    grown = larger.state()
    larger.restore({**trainer.state(), **{part: grown[part] for part in ("model", "optimizer", "averaged")}})
    return larger


def _as_before(trainer: Trainer, model: GPT, source: Source) -> Trainer:
    """Return a trainer of another model with otherwise the same settings."""
    device, ranks, compiled = str(trainer.device), trainer.ranks, trainer.compiled
    return Trainer(model, source, trainer.recipe, seed=trainer.seed, device=device, ranks=ranks, compiled=compiled)


def next_trainer(
    trainer: Trainer, source: Source, config: GPTConfig, *, extension: str = "linear", recompute: int | None = None
) -> Trainer:
    """Return a trainer that continues with the model of the next phase, with a longer context or a larger size.

    Args:
        trainer: Trainer of a `GPT`; do not use it afterwards.
        source: Source of the batches from the trainer's step on.
        config: Shape of the next phase's model.
        extension: Method to extend positions (see `extend_context`).
        recompute: See `GPT`.
    """
    old = cast(GPT, trainer.model).config
    if (old.depth, old.width) == (config.depth, config.width):
        further = extend_trainer(trainer, source, config.context, extension)
    else:
        further = grow_trainer(trainer, source, config)
    cast(GPT, further.model).recompute = recompute
    return further
