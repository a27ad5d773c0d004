"""Weight decay that rises when a training begins to overfit: when held-out loss rises while training loss falls.

Knows nothing of how losses are computed; whoever evaluates tells the trainer (`Trainer.evaluated`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.optim.weight_decay import WeightDecay

__all__ = ["Decaying", "GapDecay", "GapWatch"]


@dataclass(frozen=True, kw_only=True)
class GapDecay:
    """λ from `start`, times `factor` whenever a gap has opened for `patience` evaluations, up to `end`.

    Args:
        start: λ at the first step, above 0, up to 1.
        end: Largest λ, start to 1.
        patience: Evaluations in a row with rising held-out and falling training loss, 1 or more.
        factor: What λ is multiplied by, above 1.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: float = 0.01
    end: float = 0.1
    patience: int = 3
    factor: float = 1.5

    def __post_init__(self) -> None:
        check_number("weight_decay", self.start, "(0, 1]")
        check_number("weight_decay_end", self.end, "[0, 1]")
        if self.end < self.start:
            raise RecipeError("weight_decay_end", self.end, f"weight_decay={self.start} or more")
        check_integer("gap_patience", self.patience, 1)
        check_number("gap_factor", self.factor, "(1, 100]")


class GapWatch:
    """The λ of a `GapDecay` so far."""

    def __init__(self, options: GapDecay) -> None:
        self.options = options
        self.value = options.start
        self.widened = 0
        self.last: tuple[float, float] | None = None

    def update(self, training: float, held_out: float) -> bool:
        """Take note of one evaluation.

        Args:
            training: Loss on the training text.
            held_out: Loss on the held-out text. A NaN in either is no rise and no fall.

        Returns:
            Whether λ was raised.
        """
        wider = self.last is not None and training < self.last[0] and held_out > self.last[1]
        self.last = (training, held_out)
        self.widened = self.widened + 1 if wider else 0
        if self.widened < self.options.patience:
            return False
        self.widened = 0
        before, self.value = self.value, min(self.options.end, self.value * self.options.factor)
        return self.value > before

    def state(self) -> dict[str, object]:
        """Return what a checkpoint must keep."""
        return {"value": self.value, "widened": self.widened, "last": self.last}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from what `state` gave."""
        self.value, self.widened, self.last = state["value"], state["widened"], state["last"]  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Decaying(Options):
    """The weight decay along the steps."""

    weight_decay_end: float | None = option(None, bounds="[0, 1]", help="Where it ends; none: where it begins")
    weight_decay_shape: Literal["linear", "cosine"] = option("linear", help="How it goes there")
    gap_patience: int | None = option(
        None,
        bounds="[1, inf)",
        unit="evaluations",
        help="It rises, up to its end, only when so many had a rising held-out and a falling training loss",
    )
    gap_factor: float = option(1.5, bounds="(1, 100]", help="By what it rises then")

    def check(self) -> None:
        if self.gap_patience is not None and self.weight_decay_end is None:
            raise OptionError("-o gap_patience needs -o weight_decay_end=…, up to which the weight decay rises")

    def decay(self, start: float) -> WeightDecay | GapDecay:
        """Return the weight decay that begins at `start`.

        Raises:
            RecipeError: It is out of its range.
        """
        if self.gap_patience is None:
            return WeightDecay(start=start, end=self.weight_decay_end, shape=self.weight_decay_shape)
        end = max(start, self.weight_decay_end or 0.0)
        return GapDecay(start=start, end=end, patience=self.gap_patience, factor=self.gap_factor)
