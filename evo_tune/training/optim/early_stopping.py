"""Early stopping on a metric over a fixed validation set, with the best weights kept.

For trainings that overfit. Not a way to save time in a search: a training stopped before its schedule has
decayed is compared at another point of it. Knows nothing of how the metric is computed.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.recipe.optim.optimisation import Stopping
from evo_tune.training.optim.frozen import load_moving, moving

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Counts evaluations without improvement.

    Args:
        patience: Evaluations without improvement after which to stop, 1 or more.
        min_delta: Improvement needed, in units of the metric, 0 or more; a tie is none.
        mode: 'min' or 'max'.
        cycle: Evaluations in one cycle of a schedule with restarts, whose waves patience must outlast.

    Raises:
        RecipeError: A field is out of its range, or patience does not exceed a cycle.
    """

    def __init__(
        self, *, patience: int = 5, min_delta: float = 0.0, mode: str = "min", cycle: int | None = None
    ) -> None:
        check_integer("patience", patience, 1)
        check_number("min_delta", min_delta, "[0, inf)")
        check_name("mode", mode, ("min", "max"))
        if cycle is not None and patience <= cycle:
            raise RecipeError("patience", patience, f"more than the {cycle} evaluations of one cycle")
        self.patience = patience
        self.min_delta = min_delta
        self.sign = 1.0 if mode == "min" else -1.0
        self.best = math.inf
        self.waited = 0
        self.weights: dict[str, Any] = {}

    @classmethod
    def of(cls, options: Stopping) -> EarlyStopping | None:
        """Return what stops a training early, at its beginning; None: nothing does."""
        return None if options.patience is None else cls(patience=options.patience, min_delta=options.min_delta)

    def update(self, value: float, model: nn.Module) -> bool:
        """Take note of one evaluation, keeping the model's weights if it is the best so far.

        Args:
            value: The metric; NaN is no improvement.
            model: What was evaluated.

        Returns:
            Whether to stop now.
        """
        loss = self.sign * value
        if loss < self.best - self.min_delta:
            self.best, self.waited = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in moving(model).items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Put the best weights back; without any evaluation that counted, leave the model alone."""
        if self.weights:
            load_moving(model, self.weights)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]
