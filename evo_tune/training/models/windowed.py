"""Attention in a sliding window that computes little more than what is seen: queries in chunks, each with its keys.

A mask over the whole square would hide most of what it had computed. Which chunks there are follows from the shape
(`GPTConfig.chunk`), so that arithmetic and memory can be counted without torch. Knows nothing of layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evo_tune.training.models.attention import attend
from evo_tune.training.models.dropout import Dropout
from evo_tune.training.models.gpt_config import window_chunks

__all__ = ["attend_in_window", "chunk_mask"]


def chunk_mask(chunk: int, window: int) -> Tensor:
    """Return which keys the queries of a chunk may look at, (chunk, chunk + window - 1), bool.

    The last `chunk` keys are the queries' own; query i may look at the keys i to i + window - 1.
    """
    ahead = torch.arange(chunk + window - 1) - torch.arange(chunk)[:, None]
    return (ahead >= 0) & (ahead < window)


def attend_in_window(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: Dropout | None = None, scale: float | None = None
) -> Tensor:
    """Return what `attend` returns for `window_mask`, but for rounding.

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, length, head_dim); each is shared by heads / kv_heads queries' heads.
        v: As `k`.
        mask: As `chunk_mask` gives; its shape says how long chunk and window are.
        dropout: Drops weights, other ones in each chunk; None: none are.
        scale: See `attend`.

    Returns:
        As `q`.
    """
    length, (chunk, reach) = q.shape[2], mask.shape
    window = reach - chunk + 1
    outputs = []
    for number, (first, start, end) in enumerate(window_chunks(window, length, chunk)):
        if dropout is not None:
            dropout.part = number
        missing = first - (start - window + 1)  # keys before the first token, which the mask has room for
        seen = mask[: end - start, missing : end - start + window - 1]
        plain = first == start and end - start <= window  # all earlier tokens, of which kernels know more than of masks
        keys, values = k[:, :, first:end], v[:, :, first:end]
        y = attend(q[:, :, start:end], keys, values, None if plain else seen, dropout, scale=scale)
        outputs.append(y.transpose(1, 2))
    # Joined as layers hold them, (batch, length, heads, head_dim), so that no other copy is made.
    return torch.cat(outputs, 1).transpose(1, 2)
