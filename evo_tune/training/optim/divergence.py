"""When a training is lost: a loss or gradient that is not finite, or a loss that runs away.

A step is judged before the optimizer takes it, where loss and norm are: on a GPU nothing waits for the verdict. The
host reads it at once or some steps late, and raises `Diverged`; the weights are still those before the refused step.
No number stands in for a training that diverged. Knows nothing of models.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = ["Diverged", "DivergenceWatch", "Number", "Verdict"]


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


Number: TypeAlias = Any
"""A number that the host has, or a scalar tensor on a device: `judge` is the same arithmetic in float64 on both."""


class Verdict(NamedTuple):
    """What is decided of a step, and why.

    Args:
        loss: Mean loss of its batch.
        norm: Norm of its gradient before clipping.
        overflow: Whether only the loss's scale was too large: the step is left out, and nothing else of it counts.
        refused: Whether the step must not be taken; so too every step after a lost one.
        average: Moving average of the loss.
        best: Lowest moving average.
        high_steps: Steps in a row at which the average was high.
    """

    loss: Number
    norm: Number
    overflow: Number
    refused: Number
    average: Number
    best: Number
    high_steps: Number


class DivergenceWatch:
    """Judges each step's loss and gradient norm.

    Args:
        warmup: Steps before which a high loss is forgiven.
        ceiling: Loss above which a training is lost after warm-up, as a moving average; None: no
            ceiling. 1.5 · ln(classes) is half as bad again as knowing nothing.
        device: Where loss and norm are; None: they are numbers.
    """

    DECAY = 0.95
    RISE = 3.0
    LEAST_RISE = 0.5
    """A loss near zero triples by chance, as a classifier's does that has learnt its training set."""
    PATIENCE = 50

    def __init__(self, warmup: int = 0, ceiling: float | None = None, device: torch.device | str | None = None) -> None:
        self.warmup = warmup
        self.ceiling = ceiling
        self.device = device
        self.average: Number
        self.best: Number
        self.high_steps: Number
        self._lost: Number
        self._never = self._number(False, torch.bool)
        self.restore({"average": math.nan, "best": math.inf, "high_steps": 0})

    def judge(self, step: int, loss: Number, norm: Number, overflow: Number | None = None) -> Verdict:
        """Take note of a step that is about to be taken, and decide whether it may be.

        Args:
            step: Its number, from 0.
            loss: Mean loss of its batch.
            norm: Norm of its gradient before clipping.
            overflow: See `Verdict`; None: no.
        """
        if self.device is not None:
            loss, norm = loss.double(), norm.double()
        before = self.average, self.best, self.high_steps
        first = self.average != self.average
        average = _where(first, loss, self.average * self.DECAY + loss * (1.0 - self.DECAY))
        best = _least(self.best, average)
        high = (average > best * self.RISE) & (average > best + self.LEAST_RISE)
        high_steps = (self.high_steps + 1) * high
        lost = self._lost | _wild(loss) | _wild(norm) | (high_steps >= self.PATIENCE)
        if self.ceiling is not None and step >= self.warmup:
            lost = lost | (average > self.ceiling)
        if overflow is not None:
            average, best, high_steps, lost = (
                _where(overflow, was, now)
                for was, now in zip((*before, self._lost), (average, best, high_steps, lost), strict=True)
            )
        self.average, self.best, self.high_steps, self._lost = average, best, high_steps, lost
        overflow = self._never if overflow is None else overflow
        return Verdict(loss, norm, overflow, lost | overflow, average, best, high_steps)

    def check(self, step: int, verdict: Verdict) -> None:
        """Raise if a step was refused.

        Args:
            step: Its number, from 0.
            verdict: The verdict on it, as numbers.

        Raises:
            Diverged: It was not taken, and the training is lost.
        """
        if verdict.overflow or not verdict.refused:
            return
        average, best = f"loss {verdict.average:.4g}", f"{verdict.best:.4g}"
        if not math.isfinite(verdict.loss):
            raise Diverged(f"loss is {verdict.loss}", step)
        if not math.isfinite(verdict.norm):
            raise Diverged(f"gradient norm is {verdict.norm}", step)
        if verdict.high_steps >= self.PATIENCE:
            raise Diverged(f"{average} is over {self.RISE:g} times its best {best}", step)
        raise Diverged(f"{average} is above {self.ceiling:.4g}", step)

    def state(self) -> dict[str, float]:
        """Return what a checkpoint must keep."""
        return {"average": float(self.average), "best": float(self.best), "high_steps": int(self.high_steps)}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""
        self.average, self.best, self.high_steps = (
            self._number(state[name], torch.float64) for name in ("average", "best", "high_steps")
        )
        self._lost = self._never

    def _number(self, value: float, dtype: torch.dtype) -> Number:
        return value if self.device is None else torch.full((), value, dtype=dtype, device=self.device)


def _where(condition: Number, then: Number, otherwise: Number) -> Number:
    if isinstance(condition, Tensor):
        return torch.where(condition, then, otherwise)
    return then if condition else otherwise


def _least(one: Number, other: Number) -> Number:
    return torch.minimum(one, other) if isinstance(one, Tensor) else min(one, other)


def _wild(value: Number) -> Number:
    """Say whether a number is not finite."""
    return ~torch.isfinite(value) if isinstance(value, Tensor) else not math.isfinite(value)
