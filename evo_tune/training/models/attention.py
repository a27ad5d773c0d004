"""How attention is computed: torch's fused kernel, or three plain products where those are faster.

On a CPU the fused kernel's backward pass in bfloat16 is two to four times slower than its own in float32, at
lengths where a row of scores fits in the cache anyway, and in float32 it is slow for few tokens too. Knows nothing of
layers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.recipe.models.gpt_config import LONGEST_DROPPED, by_products
from evo_tune.training.models.dropout import Dropout

__all__ = ["attend"]

_PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: Dropout | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Return each query's mean of the values, weighted by softmax(q · k / √head_dim).

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, keys, head_dim); each is shared by heads / kv_heads queries' heads.
        v: As `k`.
        mask: Bool, (length, keys), or if not causal anything that broadcasts to (batch, heads, length, keys):
            which keys each query may look at; None: all, or if causal itself and all earlier ones, of as many keys
            as queries.
        dropout: Drops weights; None: none are.
        causal: What no mask means.
        scale: By what q · k is multiplied; None: by 1/√head_dim.

    Returns:
        As `q`.
    """
    if scale is not None:  # the plain product's own is 1/√head_dim
        q = q * (scale * math.sqrt(q.shape[-1]))
    if dropout is not None:
        return _attend_dropped(q, k, v, mask, dropout, causal)
    if q.device.type == "cpu" and by_products(_PRECISIONS.get(q.dtype, ""), k.shape[2]):
        return _attend_plainly(q, k, v, mask) if causal else _attend_all(q, k, v, mask)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal and mask is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: Dropout | None = None) -> Tensor:
    batch, heads, length, head_dim = q.shape
    kv_heads, keys = k.shape[1:3]
    bias = q.new_full((length, keys), -torch.inf)
    bias = bias.triu_(1) if mask is None else bias.masked_fill_(mask, 0.0)
    # Heads that share a key stand below each other, as more queries of one product.
    shared = heads // kv_heads
    bias = bias.repeat(shared, 1) if shared > 1 else bias
    q = q.reshape(batch * kv_heads, shared * length, head_dim).contiguous()
    k, v = (x.reshape(batch * kv_heads, keys, head_dim).contiguous() for x in (k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=head_dim**-0.5)
    weights = scores.softmax(-1)
    if dropout is not None:
        weights = dropout(weights)
    return torch.bmm(weights, v).view(batch, heads, length, head_dim)


def _attend_dropped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: Dropout, causal: bool) -> Tensor:
    """Attend with weights that are dropped; what is dropped for a sample does not depend on the others.

    On a CPU torch's own function computes the same products.
    """
    length = q.shape[2]
    if q.device.type == "cuda" and length > LONGEST_DROPPED and dropout.noise:
        return _attend_one_by_one(q, k, v, mask, dropout, causal)
    if causal:
        return _attend_plainly(q, k, v, mask, dropout)
    return _attend_all(q, k, v, mask, dropout)


def _attend_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: Dropout | None = None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights: Tensor = scores.softmax(-1) if dropout is None else dropout(scores.softmax(-1))
    return weights @ v


def _attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: Dropout, causal: bool) -> Tensor:
    """Attend by the fused kernel, a sample at a time, each with a seed of its own."""
    assert dropout.noise is not None
    generator = torch.default_generator if q.device.type == "cpu" else torch.cuda.default_generators[q.device.index]
    before, rows = generator.get_state(), []
    for sample, seed in enumerate(dropout.noise.seeds(dropout.place, dropout.part)):
        generator.manual_seed(seed)
        one = slice(sample, sample + 1)
        own = mask[one] if mask is not None and mask.ndim == 4 and len(mask) > 1 else mask
        rows.append(
            F.scaled_dot_product_attention(
                q[one],
                k[one],
                v[one],
                attn_mask=own,
                dropout_p=dropout.share,
                is_causal=causal and mask is None,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    generator.set_state(before)  # for layers that are not ours
    return torch.cat(rows)
