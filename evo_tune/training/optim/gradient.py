"""The gradient of a step: summed over micro-batches exactly as in one large batch, its norm, and its clipping.

All micro-batches of a step are there before the first forward pass, so the number n of counted targets is known, and
each micro-batch contributes its *sum* of losses divided by n. The usual mean of means weighs short ones too much.
Knows nothing of optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.recipe.optim.optimisation import check_clip
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.optim.losses import CrossEntropy, Loss
from evo_tune.training.optim.watching import Number


def accumulate(
    model: nn.Module,
    window: Sequence[MicroBatch],
    device: torch.device | str = "cpu",
    *,
    loss: Loss | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    scale: Callable[[Tensor], Tensor] | None = None,
    ranks: Ranks | None = None,
    before: Callable[[int], None] = lambda number: None,
    targets: int | None = None,
) -> tuple[Tensor, int]:
    """Add the gradient of the step's mean loss to the parameters' `.grad`.

    Args:
        model: Maps inputs to outputs. One with `in_pieces` is called with a function beside its inputs, to which it
            gives what it makes logits of, and whose result it returns (see `GPT`).
        window: The micro-batches of one step.
        device: Where the model is.
        loss: What is minimised; None: cross-entropy.
        autocast: Gives the context of a forward pass.
        scale: Multiplies what is minimised, and with it the gradient (see `Precision`).
        ranks: The processes of which each has a part of the window, at least one micro-batch; the model is
            then what `Ranks.wrap` returned.
        before: Called with the number of each micro-batch before it is passed through the model.
        targets: Counted targets of the window, with ranks of all of them; None: they are counted.

    Returns:
        The mean loss over all counted targets of the window (a scalar on `device`, without graph), and their number.
        With ranks the number is that of all, and the loss is this one's summand of the mean.

    Raises:
        RecipeError: No target counts, so that there is nothing to learn from.
    """
    loss = loss or CrossEntropy()
    if targets is None:
        targets = sum(loss.count(aims) for _, aims in window)
        targets = targets if ranks is None else int(ranks.sum(torch.tensor(targets)))
    if targets == 0:
        raise RecipeError("targets", 0, "at least one in a step that is not padding")
    total = torch.zeros((), device=device)
    for number, (inputs, aims) in enumerate(window):
        # Gradients travel once a window. The forward pass too must be under no_sync: it is what prepares them.
        silent = ranks is not None and number < len(window) - 1
        before(number)
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            micro = inputs.to(device, non_blocking=True), aims.to(device, non_blocking=True)
            share, minimised = _shares(model, micro, targets, loss, autocast, scale, ranks)
            total = total + share
            minimised.backward()  # type: ignore[no-untyped-call]
    return total, targets


def _shares(
    model: nn.Module,
    micro: MicroBatch,
    n: int,
    loss: Loss,
    autocast: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor] | None,
    ranks: Ranks | None,
) -> tuple[Tensor, Tensor]:
    """Return a micro-batch's share of the mean loss, without graph, and what is to be minimised for it.

    Outputs are held by nothing but the graph, and those of a large vocabulary are never there whole.
    """
    inputs, targets = micro
    # Gradients of ranks are averaged, and a sum is wanted.
    times = 1.0 if ranks is None else float(ranks.size)
    if getattr(getattr(model, "module", model), "in_pieces", False):
        factor = torch.full((), times / n, device=inputs.device)  # a kernel: to copy a number there would wait
        pieces = loss.of_pieces(targets, factor if scale is None else scale(factor))
        if pieces is not None:
            with autocast():
                minimised, share = model(inputs, pieces)
            return share / n, minimised
    with autocast():
        outputs = model(inputs)
    if outputs.dtype in (torch.bfloat16, torch.float16):
        outputs = outputs.float()
    share, minimised = loss.shares(outputs, targets, n)
    if ranks is not None:
        minimised = minimised * times
    return share.detach(), minimised if scale is None else scale(minimised)


def split(window: Sequence[MicroBatch], parts: int) -> list[MicroBatch]:
    """Return the window with each micro-batch cut into up to `parts` smaller ones: the same gradient."""
    return [
        (inputs, targets)
        for micro in window
        for inputs, targets in zip(*(part.chunk(parts) for part in micro), strict=True)
    ]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm over all gradients (a scalar); parameters without one count as zero."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    # The public `torch.nn.utils.get_total_norm` does the same, from torch 2.6 on; one norm after another is slower.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def clip(parameters: Iterable[Tensor], norm: Number, limit: float | None) -> Number:
    """Scale all gradients by min(1, limit / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        parameters: Those whose gradients `norm` was computed from.
        norm: Their global norm: a number, or a float64 scalar on their device, for which nothing waits. If it is not
            finite, the gradients are of no use afterwards.
        limit: Largest norm allowed, above 0; None or infinity: no limit.

    Returns:
        The scale; 1.0: the gradients are as they were.

    Raises:
        RecipeError: The limit is zero or negative.
    """
    check_clip(limit)
    if limit is None or limit == math.inf:
        return 1.0
    gradients = [p.grad for p in parameters if p.grad is not None]
    if isinstance(norm, Tensor):
        # The public `clip_grads_with_norm_` (torch 2.6) does not return the scale; a loop over `mul_` is slower.
        scale: Number = (torch.full_like(norm, limit) / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        return scale
    scale = min(1.0, limit / (norm + 1e-6))
    if scale < 1.0:
        torch._foreach_mul_(gradients, scale)
    return scale
