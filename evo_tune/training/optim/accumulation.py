"""Gradient accumulation that equals one large batch exactly, however ragged the micro-batches are.

The whole window of micro-batches is there before the first forward pass, so the number n of valid
targets is known and each micro-batch contributes its *sum* of losses divided by n. The mean of the
micro-batches' means, the usual way, weighs short ones too much. Knows nothing of optimizers or steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evo_tune.training.batch import MicroBatch
from evo_tune.training.optim.cross_entropy import cross_entropy_sum, summed_in_pieces, valid_targets, z_sum

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["accumulate", "count_targets", "split"]


def count_targets(window: Sequence[MicroBatch]) -> int:
    """Return the number of valid targets in a window of micro-batches."""
    return sum(int(valid_targets(targets).sum()) for _, targets in window)


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
    targets: int | None = None,
) -> tuple[Tensor, int]:
    """Add the gradient of the window's mean loss to the parameters' `.grad`.

    Args:
        model: Maps inputs to logits (…, classes). One that says `in_pieces` is called with a function beside its
            inputs, to which it gives what it makes logits of, and whose result it returns (see `GPT`).
        window: The micro-batches of one step.
        device: Where the model is.
        z_loss: Weight of `z_sum` in what is minimised, beside the cross-entropy.
        autocast: Gives the context of a forward pass.
        scale: Multiplies what is minimised, and with it the gradient (see `Precision`).
        ranks: The processes of which each has a part of the window, at least one micro-batch; the model is
            then what `Ranks.wrap` returned.
        before: Called with the number of each micro-batch before it is passed through the model.
        targets: Valid targets of the window, with ranks of all of them; None: they are counted.

    Returns:
        The mean cross-entropy over all valid targets of the window (a scalar on `device`, without graph),
        and their number n. With n = 0 there is no gradient, and the loss is 0. With ranks n is that of all,
        and the loss is this one's summand of the mean.
    """
    n = count_targets(window) if targets is None else targets
    if ranks is not None and targets is None:
        n = int(ranks.sum(torch.tensor(n)))
    total = torch.zeros((), device=device)
    if n == 0:
        return total, 0
    for number, (inputs, aims) in enumerate(window):
        # Gradients travel once a window. The forward pass too must be under no_sync: it is what prepares them.
        silent = ranks is not None and number < len(window) - 1
        before(number)
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            loss, minimised = _losses(model, inputs, aims, n, device, z_loss, autocast, scale, ranks)
            total = total + loss
            minimised.backward()  # type: ignore[no-untyped-call]
    return total, n


def _losses(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    n: int,
    device: torch.device | str,
    z_loss: float,
    autocast: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor] | None,
    ranks: Ranks | None,
) -> tuple[Tensor, Tensor]:
    """Return a micro-batch's summand of the mean cross-entropy, without graph, and what is to be minimised for it.

    Logits are held by nothing but the graph, and those of a large vocabulary are never there whole.
    """
    inputs, targets = (part.to(device, non_blocking=True) for part in (inputs, targets))
    # Gradients of ranks are averaged, and a sum is wanted.
    times = 1.0 if ranks is None else float(ranks.size)
    if getattr(getattr(model, "module", model), "in_pieces", False) and not targets.is_floating_point():
        factor = torch.full((), times / n, device=device)  # a kernel: a number that is copied there is waited for
        factor = factor if scale is None else scale(factor)
        with autocast():
            minimised, loss = model(inputs, partial(summed_in_pieces, targets=targets, z_loss=z_loss, factor=factor))
        return loss / n, minimised
    with autocast():
        logits = model(inputs)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    entropy = cross_entropy_sum(logits, targets) / n
    minimised = entropy + (z_loss / n) * z_sum(logits, targets) if z_loss else entropy
    if ranks is not None:
        minimised = minimised * times
    return entropy.detach(), minimised if scale is None else scale(minimised)


def split(window: Sequence[MicroBatch], parts: int) -> list[MicroBatch]:
    """Return the window with each micro-batch cut into up to `parts` smaller ones: the same gradient."""
    return [
        (inputs, targets)
        for micro in window
        for inputs, targets in zip(*(part.chunk(parts) for part in micro), strict=True)
    ]
