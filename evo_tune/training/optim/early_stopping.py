"""Early stopping on a metric over a fixed validation set, with the best weights kept.

For trainings that overfit. Not a way to save time in a search: a training stopped before its schedule has
decayed is compared at another point of it. Knows nothing of how the metric is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.options.declare import Options, option
from evo_tune.training.optim.schedule import Scheduling

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EarlyStopping", "Stopping", "StoppingInTime"]


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
            from evo_tune.training.tuning.frozen import moving

            self.weights = {name: tensor.detach().clone() for name, tensor in moving(model).items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Put the best weights back; without any evaluation that counted, leave the model alone."""
        if self.weights:
            from evo_tune.training.tuning.frozen import load_moving

            load_moving(model, self.weights)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]


@dataclass(frozen=True, kw_only=True)
class Stopping(Options):
    """Evaluations along the training."""

    evaluations: int = option(
        4, bounds="[1, 10000]", gene=None, help="How many, each on every fourth held-out block: the learning curve"
    )
    patience: int | None = option(
        None, bounds="[1, inf)", unit="evaluations", help="Stop after so many without an improvement; take the best"
    )
    min_delta: float = option(0.0, bounds="[0, inf)", help="What counts as an improvement: more than so much")

    @property
    def stopping(self) -> EarlyStopping | None:
        """What stops a training early, at its beginning; None: nothing does."""
        return None if self.patience is None else EarlyStopping(patience=self.patience, min_delta=self.min_delta)


@dataclass(frozen=True, kw_only=True)
class StoppingInTime(Stopping, Scheduling):
    """Early stopping beside a schedule."""

    def check(self) -> None:
        """Require patience that outlasts a schedule's own waves.

        Raises:
            OptionError: It does not.
        """
        if self.patience is not None and self.schedule == "sgdr" and self.patience <= self.cycle * self.evaluations:
            raise OptionError(
                f"-o patience={self.patience}: expected more than the {self.cycle * self.evaluations:g} evaluations of "
                "one cycle of sgdr, whose waves it must outlast"
            )
