"""Steps that the device is given before the host knows what became of the first of them.

Until then the host has no say: an optimizer is told on the device that a step is refused. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from evo_tune.training.optim.divergence import Number
from evo_tune.training.optim.muon import HiddenMatrices, OptimizerPair

__all__ = ["LATE", "can_refuse", "noted", "refusing"]

LATE = 8
"""Steps that a GPU is given before the host reads what became of the first of them."""


def can_refuse(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer can be told on the device that a step is not to be taken (see `refusing`)."""
    return all(map(_refuses, _each(optimizer)))


class refusing:  # noqa: N801 # reads as what it is: a context
    """Within it an optimizer's step does nothing where `refused` is true, whatever the gradients hold.

    Args:
        optimizer: One of which `can_refuse` is true; others step regardless.
        refused: A bool of no dimensions, on the device; None: the step is taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, refused: Tensor | None) -> None:
        self._optimizers = [] if refused is None else list(filter(_refuses, _each(optimizer)))
        self._refused = refused

    def __enter__(self) -> None:
        flag = None if self._refused is None else self._refused.float()
        for one in self._optimizers:  # as torch's GradScaler tells them
            one.grad_scale, one.found_inf = None, flag  # type: ignore[attr-defined]

    def __exit__(self, *error: object) -> None:
        for one in self._optimizers:
            del one.grad_scale, one.found_inf  # type: ignore[attr-defined]


def _each(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return optimizer.optimizers if isinstance(optimizer, OptimizerPair) else [optimizer]


def _refuses(optimizer: torch.optim.Optimizer) -> bool:
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused or isinstance(optimizer, HiddenMatrices)


def noted(values: Sequence[Number]) -> Callable[[], list[float]]:
    """Have scalars copied to the host when they are there, and return what waits for them and gives them.

    Args:
        values: Numbers, or some of them scalars on a device.
    """
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    if device is None:
        return lambda: list(values)
    kind: Any = {"dtype": torch.float64, "device": device}
    stacked = torch.stack([v.double() if isinstance(v, Tensor) else torch.full((), v, **kind) for v in values])
    if device.type != "cuda":
        return stacked.tolist
    kept = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
    kept.copy_(stacked, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def read() -> list[float]:
        there.synchronize()
        found: list[float] = kept.tolist()
        return found

    return read
