"""What a model is given at once: a micro-batch, and the target that counts nowhere. Knows nothing of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IGNORE", "MicroBatch"]

IGNORE = -100
"""A target of this value is padding and counts nowhere (torch's own convention)."""

MicroBatch: TypeAlias = "tuple[Tensor, Tensor]"
"""Inputs and targets; the first dimension of both is the sample. Targets are class numbers, (…), or the
probability of each class, (…, classes), of a floating type; the latter are all valid."""
