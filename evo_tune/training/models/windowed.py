"""Attention in a sliding window that computes little more than what is seen: queries in chunks, each with its keys.

A mask over the whole square would hide most of what it had computed. Which chunks there are follows from the shape
(`GPTConfig.chunk`), so that arithmetic and memory can be counted without torch. Knows nothing of layers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evo_tune.recipe.models.gpt_config import window_chunks
from evo_tune.training.models.attention import attend
from evo_tune.training.models.dropout import Dropout

__all__ = ["FlexMask", "attend_by_flex", "attend_in_window", "chunk_mask", "flex_mask"]


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


class FlexMask(NamedTuple):
    """Which tiles of the square of queries and keys are computed.

    Args:
        length: Tokens in the sequences that it is for.
        mask: A BlockMask of torch's.
    """

    length: int
    mask: Any


@lru_cache(maxsize=8)
def flex_mask(length: int, window: int, device: torch.device) -> FlexMask:
    """Return the mask of a window for `attend_by_flex`; torch's compiler is imported for it.

    Args:
        length: Tokens in a sequence.
        window: Keys that a query sees, its own among them.
        device: Where.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    return FlexMask(length, create_block_mask(seen, None, None, length, length, device=str(device)))


def attend_by_flex(q: Tensor, k: Tensor, v: Tensor, mask: FlexMask, scale: float | None = None) -> Tensor:
    """Return what `attend_in_window` returns, but for rounding, by torch's flex_attention; to be compiled.

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, length, head_dim).
        v: As `k`.
        mask: As `flex_mask` gives.
        scale: See `attend`.
    """
    from torch.nn.attention.flex_attention import flex_attention

    y: Tensor = flex_attention(q, k, v, block_mask=mask.mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return y
