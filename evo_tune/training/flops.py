"""Floating-point operations of a training, by formula. No torch here."""

from __future__ import annotations

from evo_tune.training._check import check_integer
from evo_tune.training.gpt_config import GPTConfig

__all__ = ["flops_per_token"]


def flops_per_token(config: GPTConfig, length: int | None = None) -> float:
    """Return the FLOPs that training on one token takes: forward and backward, 2 a multiply-add.

    6 · N + 12 · L · d · T, where N counts the weights that multiply (the head included, embedding
    look-ups not) and the second term is attention (PaLM, arXiv:2204.02311, appendix B). Attention counts
    the full square though causal masking could skip half: the convention under which sizes are compared.
    `torch.utils.flop_counter` agrees exactly where attention is computed by its plain formula.

    Args:
        config: The model.
        length: Tokens in a sequence, if shorter than the model's context.

    Raises:
        RecipeError: The length is not a whole number from 1 to the context.
    """
    length = config.context if length is None else length
    check_integer("length", length, 1, config.context)
    return 6.0 * config.matmul_parameters + 12.0 * config.depth * config.width * length
