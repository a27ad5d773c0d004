"""What is decided of a pack's step on its device: of each member whether it is taken (see `stepping.verdict`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evo_tune.training.optim.divergence import DivergenceWatch
from evo_tune.training.trainer import Trainer

__all__ = ["PackWatch"]


class PackWatch:
    """Judges each step's losses and gradient norms where they are, by the arithmetic of `DivergenceWatch`.

    Args:
        trainers: The members, of which no step is unread.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        watches, device = [trainer.watch for trainer in trainers], trainers[0].device

        def each(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self._average, self._best = each([w.average for w in watches]), each([w.best for w in watches])
        self._high = each([w.high_steps for w in watches], torch.int64)
        self._ceiling = each([math.inf if w.ceiling is None else w.ceiling for w in watches])
        self._warmup = each([w.warmup for w in watches], torch.int64)
        self._step = each([trainer.step for trainer in trainers], torch.int64)
        self._lost = torch.zeros(len(trainers), dtype=torch.bool, device=device)

    def judge(self, losses: Tensor, norms: Tensor) -> Tensor:
        """Take note of a step of each, and return which must not be taken, (members,), bool.

        Args:
            losses: Mean losses of the members' batches, nats, (members,).
            norms: Norms of their gradients before clipping, (members,).
        """
        w, losses = DivergenceWatch, losses.double()
        first = torch.isnan(self._average)
        self._average = torch.where(first, losses, self._average * w.DECAY + losses * (1.0 - w.DECAY))
        self._best = torch.minimum(self._best, self._average)
        high = self._average > torch.maximum(self._best * w.RISE, self._best + w.LEAST_RISE)
        self._high = torch.where(high, self._high + 1, 0)
        above = (self._average > self._ceiling) & (self._step >= self._warmup)
        finite = torch.isfinite(losses) & torch.isfinite(norms)
        self._lost = self._lost | above | (self._high >= w.PATIENCE) | ~finite
        self._step += 1
        return self._lost
