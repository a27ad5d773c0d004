"""What is known of a step: while the device does it, and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Sent", "Step"]


class Step(NamedTuple):
    """What one step did.

    Args:
        number: From 0.
        loss: Mean loss over all its targets, before the update.
        norm: Norm of its gradient, before clipping.
        lr: Learning rate of the first group.
        targets: Valid targets; with 0 the weights were left alone.
        clipped: Whether the gradient was scaled down.
    """

    number: int
    loss: float
    norm: float
    lr: float
    targets: int
    clipped: bool


class Sent(NamedTuple):
    """A step that the device was given: what the host knows of it, and what gives loss, norm and overflow."""

    number: int
    lr: float
    targets: int
    values: Callable[[], list[float]]
