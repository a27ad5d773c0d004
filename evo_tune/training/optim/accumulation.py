"""Gradient accumulation that equals one large batch exactly, however ragged the micro-batches are.

The whole window of micro-batches is there before the first forward pass, so the number n of valid
targets is known and each micro-batch contributes its *sum* of losses divided by n. The mean of the
micro-batches' means, the usual way, weighs short ones too much. Knows nothing of optimizers or steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.training.data.batch import IGNORE, MicroBatch

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["accumulate", "count_targets", "cross_entropy_sum", "split", "z_sum"]


def count_targets(window: Sequence[MicroBatch]) -> int:
    """Return the number of valid targets in a window of micro-batches."""
    return sum(int(_valid(targets).sum()) for _, targets in window)


def _valid(targets: Tensor) -> Tensor:
    """Return which targets count, (…), bool."""
    return targets[..., 0] >= 0 if targets.is_floating_point() else targets != IGNORE


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy in nats.

    Args:
        logits: (…, classes), computed in at least float32.
        targets: (…), class numbers or IGNORE; or (…, classes), probabilities.
    """
    logits = logits.flatten(0, -2)
    if targets.is_floating_point():
        return F.cross_entropy(logits, targets.flatten(0, -2), reduction="sum")
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def z_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed square of log Σ exp(logits) over valid targets (z-loss: PaLM, arXiv:2204.02311).

    Args:
        logits: (…, classes).
        targets: (…), class numbers or IGNORE; or (…, classes), probabilities.
    """
    return logits.logsumexp(-1)[_valid(targets)].square().sum()


def accumulate(
    model: nn.Module,
    window: Sequence[MicroBatch],
    device: torch.device | str = "cpu",
    *,
    z_loss: float = 0.0,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    scale: Callable[[Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
    before: Callable[[int], None] = lambda number: None,
) -> tuple[Tensor, int]:
    """Add the gradient of the window's mean loss to the parameters' `.grad`.

    Args:
        model: Maps inputs to logits (…, classes).
        window: The micro-batches of one step.
        device: Where the model is.
        z_loss: Weight of `z_sum` in what is minimised, beside the cross-entropy.
        autocast: Gives the context of a forward pass.
        scale: Multiplies what is minimised, and with it the gradient (see `Precision`).
        ranks: The processes of which each has a part of the window, at least one micro-batch; the model is
            then what `Ranks.wrap` returned.
        before: Called with the number of each micro-batch before it is passed through the model.

    Returns:
        The mean cross-entropy over all valid targets of the window (a scalar on `device`, without graph),
        and their number n. With n = 0 there is no gradient, and the loss is 0. With ranks n is that of all,
        and the loss is this one's summand of the mean.
    """
    n = count_targets(window)
    if ranks is not None:
        n = int(ranks.sum(torch.tensor(n)))
    total = torch.zeros((), device=device)
    if n == 0:
        return total, 0
    for number, (inputs, targets) in enumerate(window):
        # Gradients travel once a window. The forward pass too must be under no_sync: it is what prepares them.
        silent = ranks is not None and number < len(window) - 1
        before(number)
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            with autocast():
                logits = model(inputs.to(device, non_blocking=True))
            if logits.dtype in (torch.bfloat16, torch.float16):
                logits = logits.float()
            targets = targets.to(device, non_blocking=True)
            loss = cross_entropy_sum(logits, targets) / n
            total = total + loss.detach()
            if z_loss:
                loss = loss + (z_loss / n) * z_sum(logits, targets)
            if ranks is not None:
                loss = loss * ranks.size  # their gradients are averaged, and a sum is wanted
            (loss if scale is None else scale(loss)).backward()  # type: ignore[no-untyped-call]
    return total, n


def split(window: Sequence[MicroBatch], parts: int) -> list[MicroBatch]:
    """Return the window with each micro-batch cut into up to `parts` smaller ones: the same gradient."""
    return [
        (inputs, targets)
        for micro in window
        for inputs, targets in zip(*(part.chunk(parts) for part in micro), strict=True)
    ]
