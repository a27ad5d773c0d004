"""The gradient of a step: summed over micro-batches exactly as in one large batch, its norm, and its clipping.

All micro-batches of a step are available before the first forward pass, so the number n of counted targets is known.
Each micro-batch contributes its *sum* of losses divided by n; a mean of means would weight short ones too much.
This module is independent of optimizers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
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
        model: Module that maps inputs to outputs. If it has `in_pieces`, it is also given a function; it calls the
            function with the head's inputs and weight, and returns its result (see `GPT`).
        window: Micro-batches of one step.
        device: Device of the model.
        loss: Loss to minimise; None: cross-entropy.
        autocast: Function that returns the context of a forward pass.
        scale: Function that scales the minimised loss, and so the gradient (see `Precision`).
        ranks: Processes that each have a part of the window, at least one micro-batch; the model must then
            come from `Ranks.wrap`.
        before: Function called with the number of each micro-batch before its forward pass.
        targets: Counted targets of the window over all ranks; None: count them.

    Returns:
        The mean loss over all counted targets of the window (a scalar on `device`, without graph), and their number.
        With ranks, the number is over all ranks, and the loss is this rank's share of the mean.

    Raises:
        RecipeError: No target counts.
    """
    loss = loss or CrossEntropy()
    if targets is None:
        targets = sum(loss.count(aims) for _, aims in window)
        targets = targets if ranks is None else int(ranks.sum(torch.tensor(targets)))
    if targets == 0:
        raise RecipeError("targets", 0, "at least one in a step that is not padding")
    # The ranks' gradients are averaged, but their sum is needed.
    times = 1.0 if ranks is None else float(ranks.size)

    def compute_shares(inputs: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
        """Return a micro-batch's share of the mean loss, without graph, and the scalar to minimise for it.

        Only the graph keeps the outputs, and the logits of a large vocabulary are never in memory as a whole.
        """
        if getattr(getattr(model, "module", model), "in_pieces", False):
            factor = torch.full((), times / targets, device=inputs.device)  # a kernel: copying a number would wait
            pieces = loss.of_pieces(aims, factor if scale is None else scale(factor))
            if pieces is not None:
                with autocast():
                    minimised, share = model(inputs, pieces)
                return share / targets, minimised
        with autocast():
            outputs = model(inputs)
        if outputs.dtype in (torch.bfloat16, torch.float16):
            outputs = outputs.float()
        share, minimised = loss.shares(outputs, aims, targets)
        if ranks is not None:
            minimised = minimised * times
        return share.detach(), minimised if scale is None else scale(minimised)

    total = torch.zeros((), device=device)
    for number, (inputs, aims) in enumerate(window):
        # Gradients are reduced once per window. The forward pass must be under no_sync too: it prepares the reduction.
        silent = ranks is not None and number < len(window) - 1
        before(number)
        with model.no_sync() if silent else nullcontext():  # type: ignore[operator]
            share, minimised = compute_shares(inputs.to(device, non_blocking=True), aims.to(device, non_blocking=True))
            total = total + share
            minimised.backward()  # type: ignore[no-untyped-call]
    return total, targets


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm over all gradients (a scalar); parameters without a gradient count as zero."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    # Equivalent to the public `torch.nn.utils.get_total_norm`, whose separate norms on a CPU are slower.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def clip(parameters: Iterable[Tensor], norm: Number, limit: float | None) -> Number:
    """Scale all gradients by min(1, limit / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        parameters: Parameters whose gradients have the norm `norm`.
        norm: Their global norm: a number, or a float64 scalar on their device, which is not waited for. If it is not
            finite, the gradients are unusable afterwards.
        limit: Largest norm allowed, above 0; None or infinity: no limit.

    Returns:
        The scale; at 1.0 the gradients are unchanged.

    Raises:
        RecipeError: The limit is zero or negative.
    """
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
