"""What a model is given at once: a micro-batch, and the target that counts nowhere. Knows nothing of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["IGNORE", "MicroBatch", "onto"]

IGNORE = -100
"""A target of this value is padding and counts nowhere (torch's own convention)."""

MicroBatch: TypeAlias = "tuple[Tensor, Tensor]"
"""Inputs and targets; the first dimension of both is the sample. Targets are class numbers, (…), or the
probability of each class, (…, classes), of a floating type; the latter are all valid."""


def onto(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; one that comes from the host to a GPU is pinned, so that nobody waits for it."""
    if str(device).startswith("cuda") and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
