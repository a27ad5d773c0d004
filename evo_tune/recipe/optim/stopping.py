"""Evaluations along a training, and early stopping by them, as options."""

from __future__ import annotations

from dataclasses import dataclass

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.recipe.optim.schedule import Scheduling

__all__ = ["Stopping", "StoppingInTime"]


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
