"""Losses to minimise: the mean loss over the counted targets of a step.

A loss defines which targets count and sums the loss over them; `gradient.accumulate` divides by their number.

The logits of a large vocabulary are the largest tensor of a training: with their log-softmax and its gradients,
12 bytes for each token and vocabulary entry. `cross_entropy_in_pieces` never holds all logits: it computes those of
some tokens, their loss and gradients, and then frees them. This module is independent of models and steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.training.hardware.device import IGNORE, onto
from evo_tune.training.recipe.models.gpt_config import tokens_in_piece

# Function of the head's inputs and its weight, such as a partial `cross_entropy_in_pieces`.
PiecewiseLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Loss(ABC):
    """A loss as a sum over the targets that count, and their number."""

    def count(self, targets: Tensor) -> int:
        """Return how many of the targets count: by default every number that is not NaN."""
        return targets.numel() - int(targets.isnan().sum())

    @abstractmethod
    def sum_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss summed over the targets that count, a scalar.

        Args:
            outputs: The model's outputs, at least float32.
            targets: Targets, as the source gives them.
        """

    def shares(self, outputs: Tensor, targets: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return a micro-batch's share of the step's mean loss, to report and to minimise.

        Args:
            outputs: See `sum_losses`.
            targets: See `sum_losses`.
            n: Counted targets of the whole step.
        """
        share = self.sum_losses(outputs, targets) / n
        return share, share

    def of_pieces(self, targets: Tensor, factor: Tensor) -> PiecewiseLoss | None:
        """Return a function that replaces the outputs; None: outputs are needed.

        Args:
            targets: See `sum_losses`.
            factor: Factor of the minimised loss, a scalar.
        """
        return None


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of logits (…, classes), in nats.

    Targets are class numbers (…), where IGNORE marks padding that does not count; or class probabilities (…, classes),
    where NaN does.

    Args:
        class_weights: Weight of each class in the minimised cross-entropy, (classes,); empty: all 1. The reported loss
            has no weights.
        label_smoothing: Label smoothing of targets that are probabilities; a sample's weight is that before smoothing.
    """

    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    def count(self, targets: Tensor) -> int:
        return int(_counted(targets).sum())

    def sum_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy_sum(outputs, targets)

    def shares(self, outputs: Tensor, targets: Tensor, n: int) -> tuple[Tensor, Tensor]:
        minimised = entropy = cross_entropy_sum(outputs, targets) / n
        if self.class_weights:  # divided by n, not by the sum of a batch's weights: no bias by the classes drawn
            weights = onto(torch.tensor(self.class_weights, dtype=outputs.dtype), outputs.device)
            minimised = weighted_cross_entropy_sum(outputs, targets, weights, self.label_smoothing) / n
        return entropy, minimised

    def of_pieces(self, targets: Tensor, factor: Tensor) -> PiecewiseLoss | None:
        if targets.is_floating_point() or self.class_weights:
            return None
        return partial(cross_entropy_in_pieces, targets=targets, factor=factor)


@dataclass(frozen=True)
class SquaredError(Loss):
    """Squared error of real numbers; a target of NaN is missing and does not count."""

    def sum_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape != targets.shape:
            raise RecipeError("outputs", tuple(outputs.shape), f"the shape of the targets, {tuple(targets.shape)}")
        targets = torch.where(targets.isnan(), outputs.detach(), targets.to(outputs.dtype))
        return F.mse_loss(outputs, targets, reduction="sum")


@dataclass(frozen=True)
class QuantileLoss(Loss):
    """Mean over quantiles q of max(q (y − ŷ), (q − 1) (y − ŷ)) (Koenker & Bassett 1978).

    Targets are real numbers, (samples, n); NaN is missing and does not count. Outputs are (samples, n · quantiles), the
    quantiles of a target next to each other.

    Args:
        levels: The quantiles, each in (0, 1).
    """

    levels: tuple[float, ...]

    def sum_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = targets[..., None].to(outputs.dtype) - outputs.view(*targets.shape, len(self.levels))
        errors = errors.masked_fill(targets.isnan()[..., None], 0.0)
        pairs = zip(self.levels, errors.unbind(-1), strict=True)
        return torch.stack([torch.maximum(q * error, (q - 1.0) * error).sum() for q, error in pairs]).mean()


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy in nats.

    Args:
        logits: (…, classes), computed in at least float32.
        targets: (…), class numbers or IGNORE; or (…, classes), probabilities or NaN.
    """
    logits = logits.flatten(0, -2)
    if targets.is_floating_point():
        probabilities = targets.masked_fill(targets.isnan(), 0.0).flatten(0, -2)
        return F.cross_entropy(logits, probabilities, reduction="sum")
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def weighted_cross_entropy_sum(
    logits: Tensor, targets: Tensor, class_weights: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy in nats, summed with each target's weight: that of its class, averaged for mixed ones.

    The `weight` of torch's `cross_entropy` would weight each class's share of a smoothed target instead, so the
    smoothed share of a rare class would outweigh the target's own class.

    Args:
        logits: (…, classes), computed in at least float32.
        targets: See `cross_entropy_sum`.
        class_weights: (classes,).
        label_smoothing: Share of the probability that was spread evenly over all classes of probabilities, below 1.
    """
    logits = logits.flatten(0, -2)
    if not targets.is_floating_point():
        return F.cross_entropy(logits, targets.flatten(), class_weights, ignore_index=IGNORE, reduction="sum")
    targets = targets.masked_fill(targets.isnan(), 0.0).flatten(0, -2)
    shares = (targets - label_smoothing / targets.shape[-1]) / (1.0 - label_smoothing)
    return (shares @ class_weights) @ F.cross_entropy(logits, targets, reduction="none")


def _counted(targets: Tensor) -> Tensor:
    """Return which targets of a cross-entropy count, (…), bool."""
    return ~targets[..., 0].isnan() if targets.is_floating_point() else targets != IGNORE


def cross_entropy_in_pieces(
    x: Tensor,
    weight: Tensor,
    *,
    targets: Tensor,
    factor: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the loss of the logits x · weightᵀ without holding all logits in memory.

    Args:
        x: (…, width); under autocast, products use its precision, as those of a linear layer do; the rest uses float32.
        weight: (vocabulary, width).
        targets: (…), class numbers or IGNORE.
        factor: Scalar factor of the minimised loss. It is applied here, not afterwards, so that gradients computed in
            float16 have the size of a scaled loss.

    Returns:
        factor · cross-entropy, summed, with a gradient that can be propagated once; and the summed cross-entropy in
        nats, without a gradient.
    """
    x, targets = x.flatten(0, -2), targets.flatten()
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    minimised, loss = _Pieces.apply(x, weight, targets, factor, dtype)  # type: ignore[no-untyped-call]
    return minimised, loss


def token_losses_in_pieces(x: Tensor, weight: Tensor, *, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each target for the logits x · weightᵀ, (…), in nats, 0 for IGNORE; without gradient.

    Args:
        x: Inputs of the head, (…, width).
        weight: Weight of the head, (vocabulary, width).
        targets: Class numbers or IGNORE, (…).
    """
    size = tokens_in_piece(len(weight), x.device.type)
    with torch.no_grad():
        pairs = zip(x.flatten(0, -2).split(size), targets.flatten().split(size), strict=True)  # type: ignore[no-untyped-call]
        losses = [
            F.cross_entropy(F.linear(rows, weight).float(), aims, ignore_index=IGNORE, reduction="none")
            for rows, aims in pairs
        ]
    return torch.cat(losses).view_as(targets)


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        factor: Tensor | float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        size = tokens_in_piece(len(weight), x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            low = weight.to(dtype)
            wide = torch.promote_types(dtype, torch.float32)
            of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
            of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
            minimised = loss = torch.zeros((), dtype=wide, device=x.device)
            for first in range(0, len(x), size):
                rows, aims = x[first : first + size].to(dtype), targets[first : first + size]
                entropy, slope = _piece(F.linear(rows, low).to(wide), aims)
                loss, minimised = loss + entropy, minimised + entropy * factor
                slope = slope.mul_(factor).to(dtype)
                if of_x is not None:
                    of_x[first : first + size] = slope @ low
                if of_weight is not None and dtype is of_weight.dtype:
                    of_weight.addmm_(slope.t(), rows)
                elif of_weight is not None:
                    of_weight += slope.t() @ rows
                del slope  # before the next piece's logits are made
        ctx.slopes = of_x, of_weight
        ctx.mark_non_differentiable(loss)
        return minimised, loss

    @staticmethod
    def backward(ctx: Any, by: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        slopes = tuple(None if slope is None else slope.mul_(by) for slope in ctx.slopes)
        ctx.slopes = None  # multiplied in place to save a copy, so backward works only once
        return *slopes, None, None, None


def _piece(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy and its gradient.

    Args:
        logits: (tokens, vocabulary); overwritten by the gradient.
        targets: (tokens), class numbers or IGNORE.
    """
    valid, aims = targets != IGNORE, targets.clamp(min=0)[:, None]
    largest = logits.amax(1, keepdim=True)
    picked = logits.gather(1, aims) - largest
    slope = logits.sub_(largest).exp_()
    total = slope.sum(1, keepdim=True)
    entropy = torch.where(valid[:, None], total.log() - picked, 0.0).sum()
    weight = valid[:, None].to(slope.dtype)
    slope.mul_(weight / total)
    slope.scatter_add_(1, aims, -weight)
    return entropy, slope
