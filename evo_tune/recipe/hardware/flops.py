"""Floating-point operations of a training, by formula. No torch here."""

from __future__ import annotations

from evo_tune.options.bounds import check_integer
from evo_tune.recipe.models.gpt_config import GPTConfig

__all__ = ["flops_per_token", "recompute_flops_per_token"]


def flops_per_token(config: GPTConfig, length: int | None = None) -> float:
    """Return the FLOPs that training on one token takes: forward and backward, 2 a multiply-add.

    6 · N + 12 · d · Σ K over the blocks, where N counts the weights that multiply (the head included, embedding
    look-ups not) and the second term is attention (PaLM, arXiv:2204.02311, appendix B): K keys a query. Without a
    window these are all T, though causal masking could skip half: the convention under which sizes are compared.
    With one they are those that are computed, which are more than those that are seen (`GPTConfig.keys`): a window
    is credited with the arithmetic that it saves, and no more.
    `torch.utils.flop_counter` agrees exactly where attention is computed by its plain formula, and with a window
    but for what lies before the first token: a few hundredths where the window is small against the length.

    Args:
        config: The model.
        length: Tokens in a sequence, if shorter than the model's context.

    Raises:
        RecipeError: The length is not a whole number from 1 to the context.
    """
    length = config.context if length is None else length
    check_integer("length", length, 1, config.context)
    keys = sum(config.keys(window, length) for window in config.windows)
    return 6.0 * config.matmul_parameters + 12.0 * config.width * keys


def recompute_flops_per_token(config: GPTConfig, every: int = 1, length: int | None = None) -> float:
    """Return the FLOPs that computing every so-manieth block again adds (see `GPT`'s recompute).

    A block's forward pass without its last linear layer, whose output no gradient needs. It is overhead and
    counts in no MFU. With f = 4d and every block the whole grows by 1 + (16d² + 4dT) / (3 · (24d² + 4dT)).

    Args:
        config: The model.
        every: 1 or more.
        length: Tokens in a sequence, if shorter than the model's context.

    Raises:
        RecipeError: A number is out of its range.
    """
    length = config.context if length is None else length
    check_integer("recompute", every, 1)
    check_integer("length", length, 1, config.context)
    weights = config.width * (config.block_outputs - config.width)
    windows = config.windows[::every]
    return float(sum(2 * weights + 4 * config.width * config.keys(window, length) for window in windows))
