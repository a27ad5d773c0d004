"""Clip gradients by their global norm, once a step, after accumulation.

The norm is computed first and handed out, so that the caller can refuse one that is not finite: clipping
by an infinite norm would set every gradient to zero and leave a NaN.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.recipe.optim.clipping import check_clip

__all__ = ["clip", "gradient_norm"]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm over all gradients (a scalar); parameters without one count as zero."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def clip(parameters: Iterable[Tensor], norm: float, limit: float | None) -> bool:
    """Scale all gradients by min(1, limit / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        parameters: Those whose gradients `norm` was computed from.
        norm: Their global norm, finite.
        limit: Largest norm allowed, above 0; None or infinity: no limit.

    Returns:
        Whether the gradients were scaled.

    Raises:
        RecipeError: The limit is zero or negative, or the norm is not finite.
    """
    check_clip(limit)
    if not norm < float("inf"):
        raise RecipeError("gradient norm", norm, "a finite number; check it before clipping")
    scale = 1.0 if limit is None else limit / (norm + 1e-6)
    if scale >= 1.0:
        return False
    torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
    return True
