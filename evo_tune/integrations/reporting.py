"""What a trainer of somebody else's tells its Context, and the one answer that all ranks of a training act on.

The trainers call it in every rank at the same steps. Rank 0 reports; if that says that the training is hopeless, each
rank hears of it and stops at the same step, so that none waits for another.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from evo_tune.plugins.context import Context, Pruned

__all__ = ["last_step", "numbers", "place", "report"]


def report(context: Context, fraction: float, metrics: Mapping[str, Any]) -> None:
    """Report a point of the curve, from every rank at once.

    Args:
        context: The evaluation's.
        fraction: Share of the full training done; at 0 nothing is reported.
        metrics: What is no number in them is left out.

    Raises:
        Pruned: A bound fixed at birth is passed, as rank 0 sees it; raised in every rank.
    """
    point = numbers(metrics)
    if not 0 < fraction <= 1 or not point:
        return
    rank, size = place()
    pruned = ""
    if rank == 0:
        try:
            context.report(fraction, decayed=None, **point)
        except Pruned as error:
            if size == 1:
                raise
            pruned = str(error)
    if size > 1:
        import torch.distributed as dist

        word = [pruned]
        dist.broadcast_object_list(word, src=0)
        if word[0]:
            raise Pruned(word[0])


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number in metrics, by names that `Context.report` takes."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, str | bytes | bool) or name in ("fraction", "decayed"):
            continue
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
    return found


def last_step(context: Context, steps: int) -> int:
    """Return the step at which a training of so many steps in full stops under this budget."""
    return min(steps, max(1, math.ceil(round(context.budget * steps, 6))))


def place() -> tuple[int, int]:
    """Return this rank, and how many there are."""
    torch = sys.modules.get("torch")
    dist = getattr(torch, "distributed", None)
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
