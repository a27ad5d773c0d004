"""Checks during a training: divergence, early stopping, and the best weights so far."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn


def _frozen(model: nn.Module) -> set[str]:
    named = model.named_parameters(remove_duplicate=False)  # a tied weight is listed under each of its names
    return {name for name, parameter in named if not parameter.requires_grad}


def unfrozen_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state without its frozen weights."""
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_unfrozen_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state returned by `unfrozen_state`; frozen weights stay unchanged.

    Raises:
        RuntimeError: The state belongs to another model.
    """
    frozen, current = _frozen(model), model.state_dict()
    model.load_state_dict({**{name: value for name, value in current.items() if name in frozen}, **state})


def share_frozen_weights(model: nn.Module, copy: nn.Module) -> None:
    """Let a copy of a model share the model's frozen weights, so that they are in memory once."""
    for original, copied in zip(model.parameters(), copy.parameters(), strict=True):
        if not original.requires_grad:
            copied.data = original.data


class Diverged(Exception):
    """The training diverged.

    Args:
        reason: Description of the failure.
        step: Step (from 0) that was not taken.
    """

    status: ClassVar[str] = "diverged"

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"{reason} at step {step}")
        self.reason, self.step = reason, step

    def __reduce__(self) -> "tuple[type[Diverged], tuple[str, int]]":
        return type(self), (self.reason, self.step)


# A Python number, or a scalar tensor on a device: `judge` does the same float64 arithmetic on both.
Number: TypeAlias = Any


class Verdict(NamedTuple):
    """Decision on a step, with its reasons.

    Args:
        loss: Mean loss of the batch.
        norm: Norm of the gradient before clipping.
        overflow: Whether only the loss scale was too large; the step is then skipped and not counted.
        refused: Whether the step must not be taken; true for all steps after divergence.
        average: Moving average of the loss.
        best: Lowest moving average.
        high_steps: Number of consecutive steps with a high average.
    """

    loss: Number
    norm: Number
    overflow: Number
    refused: Number
    average: Number
    best: Number
    high_steps: Number


class DivergenceWatch:
    """Detects divergence from each step's loss and gradient norm.

    Args:
        warmup: Number of steps before the ceiling applies.
        ceiling: Loss above which a training counts as diverged after warm-up, as a moving average; None: no
            ceiling. 1.5 · ln(classes) is 1.5 times the loss of random guessing.
        device: Device of loss and norm; None: they are Python numbers.
    """

    DECAY = 0.95
    RISE = 3.0
    # Smallest rise that counts: a loss near zero, as of a classifier that fits its training set, triples by chance.
    LEAST_RISE = 0.5
    PATIENCE = 50

    def __init__(self, warmup: int = 0, ceiling: float | None = None, device: torch.device | str | None = None) -> None:
        self.warmup, self.ceiling, self.device = warmup, ceiling, device
        self._never = self._number(False, torch.bool)
        self.average: Number = self._number(math.nan, torch.float64)
        self.best: Number = self._number(math.inf, torch.float64)
        self.high_steps: Number = self._number(0, torch.float64)
        self._lost: Number = self._never

    def judge(self, step: int, loss: Number, norm: Number, overflow: Number | None = None) -> Verdict:
        """Record a step before it is taken, and decide whether to take it.

        Args:
            step: Step number, from 0.
            loss: Mean loss of the batch.
            norm: Norm of the gradient before clipping.
            overflow: See `Verdict`; None: no overflow.
        """
        if self.device is not None:
            loss, norm = loss.double(), norm.double()
        before = self.average, self.best, self.high_steps
        first = self.average != self.average
        average = _where(first, loss, self.average * self.DECAY + loss * (1.0 - self.DECAY))
        best = _where(average < self.best, average, self.best)
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
        """Raise an error if the training diverged at a step.

        Args:
            step: Step number, from 0.
            verdict: Verdict on the step, as Python numbers.

        Raises:
            Diverged: The step was refused, and not because of an overflow.
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
        """Return the state to store in a checkpoint."""
        return {"average": float(self.average), "best": float(self.best), "high_steps": int(self.high_steps)}

    def restore(self, state: dict[str, float]) -> None:
        """Restore a state returned by `state`."""
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


def _wild(value: Number) -> Number:
    """Return whether a number is not finite."""
    return ~torch.isfinite(value) if isinstance(value, Tensor) else not math.isfinite(value)


class EarlyStopping:
    """Counts evaluations without improvement.

    Args:
        patience: Evaluations without improvement before stopping (int ≥ 1).
        min_delta: Smallest fall of the loss that counts, 0 or more; a tie does not count.
    """

    STATE = ("best", "waited", "weights")

    def __init__(self, *, patience: int = 5, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best = math.inf
        self.waited = 0
        self.weights: dict[str, Any] = {}

    def update(self, loss: float, model: nn.Module) -> bool:
        """Record one evaluation, and keep the model's weights if the loss is the best so far.

        Args:
            loss: Loss on the held-out data; NaN is no improvement.
            model: Evaluated model.

        Returns:
            Whether to stop now.
        """
        if loss < self.best - self.min_delta:
            self.best, self.waited = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in unfrozen_state(model).items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore_best(self, model: nn.Module) -> None:
        """Restore the best weights; without a recorded improvement, leave the model unchanged."""
        if self.weights:
            load_unfrozen_state(model, self.weights)

    def state(self) -> dict[str, Any]:
        """Return the state to store in a checkpoint."""
        return {name: getattr(self, name) for name in self.STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        vars(self).update({name: state[name] for name in self.STATE})
