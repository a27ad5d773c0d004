"""How a learning rate moves when the batch size does.

With κ = batch / reference batch: 'linear' multiplies by κ (Goyal et al., arXiv:1706.02677, a rule for
SGD), 'sqrt' by √κ (Malladi et al., arXiv:2205.10287, for Adam), 'none' leaves it. Plain arithmetic.
"""

from __future__ import annotations

import math

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_name, check_number

__all__ = ["RULES", "scale_betas", "scale_lr", "scaled_betas"]

RULES = ("none", "sqrt", "linear")


def scale_lr(lr: float, batch: float, reference: float, rule: str) -> float:
    """Return the learning rate for `batch`, given the one that suits `reference`.

    Args:
        lr: Learning rate at the reference batch.
        batch: Batch size, in any unit.
        reference: The reference batch size, in the same unit.
        rule: 'none', 'sqrt' or 'linear'.

    Raises:
        RecipeError: A size that is not above zero, or an unknown rule.
    """
    check_number("lr", lr, "(0, inf)")
    check_number("batch", batch, "(0, inf)")
    check_number("reference batch", reference, "(0, inf)")
    check_name("batch rule", rule, RULES)
    ratio = batch / reference
    return lr * {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[rule]


def scale_betas(betas: tuple[float, float], ratio: float) -> tuple[float, float]:
    """Return Adam's β for a batch `ratio` times as large: 1 − β grows by the ratio (arXiv:2205.10287).

    Raises:
        RecipeError: The ratio is not above zero, or leaves no memory (ratio · (1 − β) ≥ 1).
    """
    check_number("batch ratio", ratio, "(0, inf)")
    first, second = (1.0 - ratio * (1.0 - beta) for beta in betas)
    if min(first, second) <= 0.0:
        raise RecipeError("batch ratio", ratio, f"less than 1/(1 - β) for β = {betas}")
    return first, second


def scaled_betas(betas: tuple[float, float], batch: float, reference: float, rule: str) -> tuple[float, float]:
    """Return Adam's β for `batch` by a rule, given those that suit `reference`: 'sqrt' moves them, others do not.

    Where a batch is so large that a β would have to be negative it is 0: that moment then remembers nothing.

    Raises:
        RecipeError: A size that is not above zero, or an unknown rule.
    """
    check_number("batch", batch, "(0, inf)")
    check_number("reference batch", reference, "(0, inf)")
    check_name("batch rule", rule, RULES)
    if rule != "sqrt":
        return betas
    first, second = (max(0.0, 1.0 - (batch / reference) * (1.0 - beta)) for beta in betas)
    return (first, second) if batch != reference else betas
