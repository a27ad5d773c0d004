"""Sampling from a model of tokens, one token at a time. Knows nothing of text, or of how it was trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo_tune.options.bounds import check_integer, check_number
from evo_tune.recipe.models.gpt_config import GPTConfig

__all__ = ["continue_tokens"]


def continue_tokens(
    model: nn.Module,
    prompt: Sequence[int],
    length: int,
    config: GPTConfig,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Return the prompt and `length` sampled tokens; the training mode of the model is left as it was.

    Args:
        model: Maps (1, n) tokens to logits (1, n, vocab_size).
        prompt: What to go on from, at least one token.
        length: Number of tokens to add, 0 or more.
        config: The model's shape; only its last `context` tokens are looked at.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Sample only among this many likeliest tokens.
        seed: Seed of the sampling's own generator.

    Raises:
        RecipeError: An argument is out of its range.
    """
    check_integer("length", length, 0)
    check_number("temperature", temperature, "[0, inf)")
    if top_k is not None:
        check_integer("top_k", top_k, 1, config.vocab_size)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(length):
                seen = torch.tensor([tokens[-config.context :]], device=device)
                tokens.append(_sample(model(seen)[0, -1].float().cpu(), temperature, top_k, generator))
    finally:
        model.train(was_training)
    return tokens


def _sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
