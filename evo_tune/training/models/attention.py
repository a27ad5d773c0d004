"""How attention is computed: torch's fused kernel, or three plain products where those are faster.

On a CPU the fused kernel's backward pass in bfloat16 is two to four times slower than its own in float32, at
lengths where a row of scores fits in the cache anyway. Knows nothing of layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.training.models.gpt_config import LONGEST_PLAIN

__all__ = ["attend"]


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, *, causal: bool = True
) -> Tensor:
    """Return each query's mean of the values, weighted by softmax(q · k / √head_dim).

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, keys, head_dim); each is shared by heads / kv_heads queries' heads.
        v: As `k`.
        mask: Bool, (length, keys), or if not causal anything that broadcasts to (batch, heads, length, keys):
            which keys each query may look at; None: all, or if causal itself and all earlier ones, of as many keys
            as queries.
        dropout: Share of the weights that is dropped.
        causal: What no mask means.

    Returns:
        As `q`.
    """
    if causal and q.dtype is torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= LONGEST_PLAIN:
        return _attend_plainly(q, k, v, mask, dropout)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
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
    weights = F.dropout(scores.softmax(-1), dropout, training=dropout > 0.0)
    return torch.bmm(weights, v).view(batch, heads, length, head_dim)
