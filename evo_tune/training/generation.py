"""Sampling text from a byte-level model, one byte at a time. Knows nothing of how it was trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.training._check import check_integer, check_number
from evo_tune.training.gpt_config import GPTConfig

__all__ = ["continue_bytes"]


def continue_bytes(
    model: nn.Module,
    prompt: bytes,
    length: int,
    config: GPTConfig,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> bytes:
    """Return the prompt and `length` sampled bytes; the training mode of the model is left as it was.

    Args:
        model: Maps (1, n) bytes to logits (1, n, 256).
        prompt: What to go on from; empty stands for a new line.
        length: Number of bytes to add, 0 or more.
        config: The model's shape; only its last `context` bytes are looked at.
        temperature: Divides the logits; 0 takes the likeliest byte.
        top_k: Sample only among this many likeliest bytes.
        seed: Seed of the sampling's own generator.

    Raises:
        RecipeError: The vocabulary is not that of bytes, or an argument is out of its range.
    """
    if config.vocab_size != 256:
        raise RecipeError("vocab_size", config.vocab_size, "256: only models of bytes can write text")
    check_integer("length", length, 0)
    check_number("temperature", temperature, "[0, inf)")
    if top_k is not None:
        check_integer("top_k", top_k, 1, 256)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    text = bytearray(prompt or b"\n")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(length):
                seen = torch.tensor([list(text[-config.context :])], device=device)
                text.append(_sample(model(seen)[0, -1].float().cpu(), temperature, top_k, generator))
    finally:
        model.train(was_training)
    return bytes(text)


def _sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
