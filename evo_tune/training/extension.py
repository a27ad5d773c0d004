"""Give a trained model a longer context.

`extend_context` returns a new model. `extend_trainer` continues a training with a longer context: same
recipe, same step, same moments. This module is independent of budgets.
"""

from dataclasses import replace
from typing import cast

import torch

from evo_tune.options.declare import check_integer
from evo_tune.training.models.block import interpolate_positions
from evo_tune.training.models.gpt import GPT
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
    longer = Trainer(
        model,
        source,
        trainer.recipe,
        seed=trainer.seed,
        device=str(trainer.device),
        ranks=trainer.ranks,
        compiled=trainer.compiled,
    )
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
