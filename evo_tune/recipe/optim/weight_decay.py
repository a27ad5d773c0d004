"""Weight decay that moves along the training, as a pure function of the step.

AdamW shrinks a weight by lr · λ in each step, so a falling learning rate offsets a rising λ. Knows
nothing of optimizers; the trainer writes the value to the groups that decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from evo_tune.options.bounds import check_integer, check_name, check_number

__all__ = ["WeightDecay"]


@dataclass(frozen=True, kw_only=True)
class WeightDecay:
    """λ from `start` to `end` over the training.

    Args:
        start: λ at the first step, 0 to 1.
        end: λ at the last step, 0 to 1; None: constant.
        shape: 'linear' or 'cosine'.

    Raises:
        RecipeError: A field is out of its range.
    """

    start: float
    end: float | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        check_number("weight_decay", self.start, "[0, 1]")
        if self.end is not None:
            check_number("weight_decay_end", self.end, "[0, 1]")
        check_name("weight_decay_shape", self.shape, ("linear", "cosine"))

    def at(self, step: int, steps: int) -> float:
        """Return λ at `step` (from 0) of `steps`; beyond the last step it stays at `end`.

        Raises:
            RecipeError: Either is not a whole number in its range.
        """
        check_integer("step", step, 0)
        check_integer("steps", steps, 1)
        if self.end is None or self.end == self.start:
            return self.start
        s = min(1.0, step / max(1, steps - 1))
        if self.shape == "cosine":
            s = 0.5 * (1.0 - math.cos(math.pi * s))
        return self.start + (self.end - self.start) * s
