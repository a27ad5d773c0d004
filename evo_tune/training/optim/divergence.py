"""When a training is lost: a loss or gradient that is not finite, or a loss that runs away.

`Diverged` is raised before the optimizer steps, so the weights stay those of the step before. No number
stands in for a training that diverged. Knows nothing of models.
"""

from __future__ import annotations

import math
from typing import ClassVar

__all__ = ["Diverged", "DivergenceWatch"]


class Diverged(Exception):
    """The training diverged.

    Args:
        reason: What was seen, in words.
        step: The step (from 0) that was not taken.
    """

    status: ClassVar[str] = "diverged"

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"{reason} at step {step}")
        self.reason = reason
        self.step = step

    def __reduce__(self) -> tuple[type[Diverged], tuple[str, int]]:
        return type(self), (self.reason, self.step)


class DivergenceWatch:
    """Judges each step's loss and gradient norm.

    Args:
        warmup: Steps before which a high loss is forgiven.
        ceiling: Loss (nats) above which a training is lost after warm-up, as a moving average; None: no
            ceiling. 1.5 · ln(classes) is half as bad again as knowing nothing.
    """

    DECAY = 0.95
    RISE = 3.0
    LEAST_RISE = 0.5
    """Nats: a loss near zero triples by chance, as a classifier's does that has learnt its training set."""
    PATIENCE = 50

    def __init__(self, warmup: int = 0, ceiling: float | None = None) -> None:
        self.warmup = warmup
        self.ceiling = ceiling
        self.average = math.nan
        self.best = math.inf
        self.high_steps = 0

    def check(self, step: int, loss: float, norm: float) -> None:
        """Take note of a step that is about to be taken.

        Args:
            step: Its number, from 0.
            loss: Mean loss of its batch, nats.
            norm: Norm of its gradient before clipping.

        Raises:
            Diverged: It must not be taken.
        """
        if not math.isfinite(loss):
            raise Diverged(f"loss is {loss}", step)
        if not math.isfinite(norm):
            raise Diverged(f"gradient norm is {norm}", step)
        first = math.isnan(self.average)
        self.average = loss if first else self.DECAY * self.average + (1.0 - self.DECAY) * loss
        self.best = min(self.best, self.average)
        high = self.average > max(self.RISE * self.best, self.best + self.LEAST_RISE)
        self.high_steps = self.high_steps + 1 if high else 0
        if self.high_steps >= self.PATIENCE:
            raise Diverged(f"loss {self.average:.4g} is over {self.RISE:g} times its best {self.best:.4g}", step)
        if self.ceiling is not None and step >= self.warmup and self.average > self.ceiling:
            raise Diverged(f"loss {self.average:.4g} is above {self.ceiling:.4g}", step)

    def state(self) -> dict[str, float]:
        """Return what a checkpoint must keep."""
        return {"average": self.average, "best": self.best, "high_steps": self.high_steps}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""
        self.average, self.best = state["average"], state["best"]
        self.high_steps = int(state["high_steps"])
