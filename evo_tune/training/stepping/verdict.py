"""What is decided of a step on its device: whether it is taken, and by how much its gradient is scaled.

The host reads loss and norm some steps late (`noted`), and until then has no say. So what `DivergenceWatch` says of
numbers, `DeviceWatch` says of tensors, by the same arithmetic in float64: a step that the one would refuse, the other
has refused, and all that follow with it, so that the weights are still those before it. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from evo_tune.training.optim.divergence import DivergenceWatch
from evo_tune.training.optim.muon import HiddenMatrices, OptimizerPair

__all__ = ["LATE", "DeviceWatch", "can_refuse", "clip_unseen", "noted", "refusing"]

LATE = 8
"""Steps that a GPU is given before the host reads what became of the first of them."""


class DeviceWatch:
    """Judges each step's loss and gradient norm where they are.

    Args:
        watch: What it goes on from, and whose limits it has.
        device: Where.
    """

    def __init__(self, watch: DivergenceWatch, device: torch.device) -> None:
        self._limits = watch
        self._average, self._best = (
            torch.full((), value, dtype=torch.float64, device=device) for value in (watch.average, watch.best)
        )
        self._high = torch.full((), watch.high_steps, dtype=torch.int64, device=device)
        self._lost = torch.zeros((), dtype=torch.bool, device=device)

    def judge(self, step: int, loss: Tensor, norm: Tensor, overflow: Tensor | None = None) -> Tensor:
        """Take note of a step, and return whether it must not be taken, a bool of no dimensions.

        Args:
            step: Its number, from 0.
            loss: Mean loss of its batch, nats, a scalar.
            norm: Norm of its gradient before clipping, a scalar.
            overflow: Whether it is to be left out only because the loss's scale was too large: nothing else of it
                counts then.
        """
        w, loss = self._limits, loss.double()
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        first = torch.isnan(self._average)
        average = torch.where(first, loss, self._average * w.DECAY + loss * (1.0 - w.DECAY))
        best = torch.minimum(self._best, average)
        high = average > torch.maximum(best * w.RISE, best + w.LEAST_RISE)
        steps = torch.where(high, self._high + 1, 0)
        lost = steps >= w.PATIENCE
        if w.ceiling is not None and step >= w.warmup:
            lost = lost | (average > w.ceiling)
        lost = lost | ~finite
        if overflow is None:
            self._average, self._best, self._high = average, best, steps
            self._lost = self._lost | lost
            return self._lost
        self._average = torch.where(overflow, self._average, average)
        self._best = torch.where(overflow, self._best, best)
        self._high = torch.where(overflow, self._high, steps)
        self._lost = self._lost | (lost & ~overflow)
        return self._lost | overflow


def clip_unseen(parameters: Iterable[Tensor], norm: Tensor, limit: float | None) -> None:
    """Scale all gradients by min(1, limit / (norm + 1e-6)), as `clip` does, without asking what the norm is.

    Args:
        parameters: Those whose gradients `norm` was computed from.
        norm: Their global norm, a scalar; if it is not finite they are no use afterwards.
        limit: Largest norm allowed, above 0; None or infinity: no limit.
    """
    if limit is None or limit == float("inf"):
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        scale = (limit / (norm.double() + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))


def can_refuse(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer can be told on the device that a step is not to be taken (see `refusing`)."""
    return all(map(_refuses, _each(optimizer)))


class refusing:  # noqa: N801 # reads as what it is: a context
    """Within it an optimizer's step does nothing where `refused` is true, whatever the gradients hold.

    Args:
        optimizer: One of which `can_refuse` is true; others step regardless.
        refused: A bool of no dimensions, on the device.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, refused: Tensor) -> None:
        self._optimizers, self._refused = list(filter(_refuses, _each(optimizer))), refused

    def __enter__(self) -> None:
        flag = self._refused.float()
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


def noted(values: Tensor) -> Callable[[], list[float]]:
    """Have values copied to the host when they are there, and return what waits for them and gives them.

    Args:
        values: (n,), on the device.
    """
    if values.device.type != "cuda":
        return values.tolist
    kept = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    kept.copy_(values, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def read() -> list[float]:
        there.synchronize()
        found: list[float] = kept.tolist()
        return found

    return read
