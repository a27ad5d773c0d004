"""A longer context for a model that was trained at a shorter one, and a training that goes on, longer or larger.

`extend_context` makes the longer model, `growth.widening` the larger one; `extend_trainer` and `grow_trainer` go on
with a training in place: same recipe, same step, same moments. Knows nothing of budgets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from evo_tune.options.bounds import check_integer
from evo_tune.recipe.models.gpt_config import GPTConfig
from evo_tune.training.hardware.device import seed_for
from evo_tune.training.models.block import interpolate_positions
from evo_tune.training.models.gpt import GPT
from evo_tune.training.models.growth import carry_state, enlarge
from evo_tune.training.stepping.feeding import Source
from evo_tune.training.trainer import Trainer


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


def extend_trainer(trainer: Trainer, source: Source, context: int, method: str = "linear") -> Trainer:
    """Return a trainer that goes on from the same step with a longer context.

    Whatever belongs to a learned position (its moments, its moving average) is stretched as the position is.

    Args:
        trainer: Of a `GPT`; it is used up.
        source: Gives the batches from the trainer's step on.
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
    """Return a trainer that goes on from the same step with a larger model: the same function at first.

    Moments and the moving average grow as the weights do.

    Args:
        trainer: Of a `GPT`; it is used up.
        source: Gives the batches from the trainer's step on.
        config: The larger model's shape, of which the trainer's is a `small_of`.
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
    """Return a trainer of another model that does all else as one does."""
    device, ranks, compiled = str(trainer.device), trainer.ranks, trainer.compiled
    return Trainer(model, source, trainer.recipe, seed=trainer.seed, device=device, ranks=ranks, compiled=compiled)


def next_trainer(
    trainer: Trainer, source: Source, config: GPTConfig, *, extension: str = "linear", recompute: int | None = None
) -> Trainer:
    """Return a trainer that goes on with the model of the next phase: with a longer context, or a larger one.

    Args:
        trainer: Of a `GPT`; it is used up.
        source: Gives the batches from the trainer's step on.
        config: The next phase's shape.
        extension: How positions are extended (see `extend_context`).
        recompute: See `GPT`.
    """
    old = cast(GPT, trainer.model).config
    if (old.depth, old.width) == (config.depth, config.width):
        further = extend_trainer(trainer, source, config.context, extension)
    else:
        further = grow_trainer(trainer, source, config)
    cast(GPT, further.model).recompute = recompute
    return further
