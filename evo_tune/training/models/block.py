"""A block of a Transformer: norms, attention, feed-forward layer, and positions."""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.training.models.dropout import Dropout
from evo_tune.training.recipe.models.encoder_config import EncoderConfig
from evo_tune.training.recipe.models.gpt_config import GPTConfig, is_causal_chunk, uses_plain_products, window_chunks


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm (arXiv:1910.07467); on a CPU in about half the time, without the scaled inputs in memory.

    There torch computes it by separate operations, which takes three times as long as a LayerNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.dtype != self.weight.dtype:
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        y: Tensor = _RMSNormed.apply(x, self.weight, eps)  # type: ignore[no-untyped-call]
        return y


class _RMSNormed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients r · (g ∘ w − x · r² · (g ∘ w · x) / d) and Σ r · g ∘ x, with r = 1 / RMS(x)."""
        x, weight, inverse = ctx.saved_tensors
        product = (slope * x).reshape(-1, x.shape[-1])
        along = product.mv(weight).view(inverse.shape)
        of_weight = product.T.mv(inverse.reshape(-1))
        towards = along * inverse.square() / -x.shape[-1]
        return torch.mul(slope, weight).addcmul_(x, towards).mul_(inverse), of_weight, None


_SLOW, _FAST = 1.0, 32.0  # turns within T: pairs below are interpolated, pairs above unchanged (YaRN's α, β)


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, *, context: int = 1, stretch: float = 1.0, method: str = "linear"
) -> Tensor:
    """Return the angle per position of each pair of channels, in radians.

    Args:
        head_dim: Channels of a head (even int); above 2 for 'ntk'.
        base: Base of the frequencies; the slowest pair turns about 1/base radians per position.
        context: Length T of the training, in tokens.
        stretch: s = T'/T, 1 or more; 1 changes nothing.
        method: 'linear', 'ntk' or 'yarn'.

    Returns:
        (head_dim / 2), float64, descending.
    """
    if method == "ntk":
        base = base * stretch ** (head_dim / (head_dim - 2))
    plain: Tensor = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if method == "ntk":
        return plain
    if method == "linear":
        return plain / stretch
    turns = context * plain / (2.0 * math.pi)
    unchanged_share = ((turns - _SLOW) / (_FAST - _SLOW)).clamp(0.0, 1.0)
    return (1.0 - unchanged_share) * plain / stretch + unchanged_share * plain


def rotary_table(length: int, frequencies: Tensor, gain: float = 1.0) -> Tensor:
    """Return cosines and sines of all positions' angles, times `gain`: (2, length, head_dim / 2), float64."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return gain * torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate queries or keys by their positions.

    The rotation uses at least float32: in bfloat16, cosines and so distances are off by up to 1/256.

    Args:
        x: (…, length, head_dim); channel i is paired with channel i + head_dim / 2.
        table: (2, length, head_dim / 2), from `rotary_table`.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = table.to(wide)
    first, second = x.to(wide).chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1).to(x.dtype)


def interpolate_positions(table: Tensor, length: int) -> Tensor:
    """Return a learned table stretched to `length` positions; the first and the last are unchanged.

    Args:
        table: (positions, width).
        length: New number of positions, at least the old.
    """
    rows = torch.nn.functional.interpolate(table.T[None], size=length, mode="linear", align_corners=True)
    return rows[0].T.contiguous()


_PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Return each query's mean of the values, weighted by softmax(q · k / √head_dim).

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, keys, head_dim); each is shared by heads / kv_heads query heads.
        v: Same shape as `k`.
        mask: Bool: keys that each query may attend to, (length, keys), or if not causal broadcastable to
            (batch, heads, length, keys). None: all keys, or if causal the query's own and earlier ones; then there must
            be as many keys as queries.
        causal: Whether attention is causal without a mask.
        scale: Factor of q · k; None: 1/√head_dim.

    Returns:
        Same shape as `q`.
    """
    if scale is not None:  # the functions below multiply by 1/√head_dim
        q = q * (scale * math.sqrt(q.shape[-1]))
    if q.device.type == "cpu" and uses_plain_products(_PRECISIONS.get(q.dtype, ""), k.shape[2]):
        return (_attend_plainly if causal else _attend_all)(q, k, v, mask)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, length, head_dim = q.shape
    kv_heads, keys = k.shape[1:3]
    bias = q.new_full((length, keys), -torch.inf)
    bias = bias.triu_(1) if mask is None else bias.masked_fill_(mask, 0.0)
    # Heads that share a key are stacked as additional queries of one product.
    shared = heads // kv_heads
    bias = bias.repeat(shared, 1) if shared > 1 else bias
    q = q.reshape(batch * kv_heads, shared * length, head_dim).contiguous()
    k, v = (x.reshape(batch * kv_heads, keys, head_dim).contiguous() for x in (k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=head_dim**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(batch, heads, length, head_dim)


def _attend_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights: Tensor = scores.softmax(-1)
    return weights @ v


def document_numbers(tokens: Tensor, boundary: int) -> Tensor:
    """Return the number of each token's document within its sequence; for the arguments see `document_mask`."""
    ends = tokens == boundary
    return ends.cumsum(1) - ends.long()


def document_mask(tokens: Tensor, boundary: int, window: int) -> Tensor:
    """Return the keys that each query may attend to: earlier ones of its document, and its own.

    Args:
        tokens: (batch, length), integers.
        boundary: Token that ends a document; it belongs to the document.
        window: Tokens that a query attends to, including its own.

    Returns:
        (batch, 1, length, length), bool.
    """
    document = document_numbers(tokens, boundary)
    distance = torch.arange(tokens.shape[1], device=tokens.device)
    distance = distance[:, None] - distance
    same = document[:, :, None] == document[:, None, :]
    return (same & (distance >= 0) & (distance < window))[:, None]


def chunk_mask(chunk: int, window: int) -> Tensor:
    """Return the keys that the queries of a chunk may attend to, (chunk, chunk + window - 1), bool.

    The last `chunk` keys are at the queries' own positions; query i may attend to the keys i to i + window - 1.
    """
    distance = torch.arange(chunk + window - 1) - torch.arange(chunk)[:, None]
    return (distance >= 0) & (distance < window)


def attend_in_window(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """Return the result of `attend` with the full mask of a window, up to rounding, chunk by chunk.

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, length, head_dim); each is shared by heads / kv_heads query heads.
        v: Same shape as `k`.
        mask: Mask from `chunk_mask`; its shape gives the lengths of chunk and window.
        scale: See `attend`.

    Returns:
        Same shape as `q`.
    """
    length, (chunk, reach) = q.shape[2], mask.shape
    window = reach - chunk + 1
    outputs = []
    for first, start, end in window_chunks(window, length, chunk):
        missing = first - (start - window + 1)  # columns of the mask for keys before the first token
        visible = mask[: end - start, missing : end - start + window - 1]
        plain = is_causal_chunk(first, start, end, window)
        keys, values = k[:, :, first:end], v[:, :, first:end]
        y = attend(q[:, :, start:end], keys, values, None if plain else visible, scale=scale)
        outputs.append(y.transpose(1, 2))
    # Joined in the layers' order, (batch, length, heads, head_dim), to avoid another copy.
    return torch.cat(outputs, 1).transpose(1, 2)


@lru_cache(maxsize=8)
def flex_window_mask(length: int, window: int, device: torch.device) -> Any:
    """Return the BlockMask of a window for `attend_by_flex`; this imports torch's compiler.

    Args:
        length: Tokens in a sequence.
        window: Tokens that a query attends to, including its own.
        device: Device of the mask.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    return create_block_mask(is_visible, None, None, length, length, device=str(device))


def flex_document_mask(tokens: Tensor, boundary: int, window: int) -> Any:
    """Return the BlockMask of the keys of `document_mask` for `attend_by_flex`; this imports torch's compiler.

    Args:
        tokens: See `document_mask`.
        boundary: See `document_mask`.
        window: See `document_mask`.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    batch_size, length = tokens.shape
    document = document_numbers(tokens, boundary)

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (document[batch, query] == document[batch, key]) & (key <= query) & (query - key < window)

    mask = create_block_mask(is_visible, batch_size, None, length, length, device=str(tokens.device))
    for part in (document, *mask.as_tuple()):
        if isinstance(part, Tensor) and batch_size > 1:
            torch._dynamo.mark_dynamic(part, 0)
    return mask


def attend_by_flex(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None = None) -> Tensor:
    """Return the result of `attend` with the mask as a tensor, up to rounding, by torch's flex_attention.

    It must be compiled; a CPU has no backward pass of it.

    Args:
        q: (batch, heads, length, head_dim).
        k: (batch, kv_heads, length, head_dim).
        v: Same shape as `k`.
        mask: BlockMask of torch.
        scale: See `attend`.
    """
    from torch.nn.attention.flex_attention import flex_attention

    y: Tensor = flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return y


class FusedLinear(nn.Linear):
    """Several linear maps of the same inputs as one product; the rows of its weight are those of all maps in order.

    Args:
        inputs: Channels of the inputs.
        maps: Output sizes of the maps; optimizers of whole matrices, such as Muon, split the weight by them.
        bias: Whether the maps have biases.
    """

    def __init__(self, inputs: int, maps: tuple[int, ...], *, bias: bool) -> None:
        super().__init__(inputs, sum(maps), bias=bias)
        self.maps: tuple[int, ...] = maps


class Attention(nn.Module):
    """Multi-head self-attention, causal if the config says so.

    With fewer key-value heads than heads, heads share them (GQA).

    Args:
        config: Shape of the model.
        windowed: Whether the mask is that of a window (see `chunk_mask`).
        vocabulary: Number of tokens with value embeddings; None: none.
    """

    def __init__(
        self, config: GPTConfig | EncoderConfig, *, windowed: bool = False, vocabulary: int | None = None
    ) -> None:
        super().__init__()
        self.windowed = windowed
        self.heads, self.kv_heads = config.heads, config.key_value_heads
        self.causal, self.scale = config.causal, config.attention_scale
        width, head_dim = config.width, config.width // config.heads
        self.qkv = FusedLinear(width, (width, *2 * (self.kv_heads * head_dim,)), bias=config.bias)
        self.out = nn.Linear(width, width, bias=config.bias)
        # Large queries and keys make attention collapse at high learning rates (arXiv:2302.05442).
        self.q_norm = RMSNorm(head_dim) if config.qk_norm else None
        self.k_norm = RMSNorm(head_dim) if config.qk_norm else None
        self.values = None if vocabulary is None else nn.Embedding(vocabulary, self.kv_heads * head_dim)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | Any | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: (batch, length, width).
            rotation: (2, length, head_dim / 2), from `rotary_table`; None: no rotation of queries and keys.
            mask: Mask broadcastable to (batch, heads, length, length), or if windowed from `chunk_mask`; None:
                all tokens, or if causal all earlier ones. A mask of four dimensions is complete: it is causal if the
                attention is. Or a BlockMask for `attend_by_flex`.
            tokens: (batch, length), required by value embeddings.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, self.heads + 2 * self.kv_heads, width // self.heads)
        # Each (batch, length, heads, head_dim): this memory order avoids a copy of `y` below.
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 2)
        if self.q_norm is not None and self.k_norm is not None:
            dtype = self.q_norm.weight.dtype  # under autocast norms use their inputs' precision, which may be lower
            q, k = self.q_norm(q.to(dtype)), self.k_norm(k.to(dtype))
        if rotation is not None:
            q, k = rotate(q, rotation[:, :, None]), rotate(k, rotation[:, :, None])
        q, k = q.to(v.dtype), k.to(v.dtype)
        if self.values is not None:
            v = v + self.values(tokens).view(v.shape).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        flex = mask is not None and not isinstance(mask, Tensor)
        whole = mask is not None and not flex and mask.ndim == 4
        if flex:
            y = attend_by_flex(q, k, v, mask, self.scale)
        elif whole or mask is None or not self.windowed:
            y = attend(q, k, v, mask, causal=self.causal and not whole, scale=self.scale)
        else:
            y = attend_in_window(q, k, v, mask, self.scale)
        attended: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return attended


class FeedForward(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, config: GPTConfig | EncoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.ffn_width, bias=config.bias)
        self.out = nn.Linear(config.ffn_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.gelu(self.up(x)))
        return y


def norm_of(config: GPTConfig | EncoderConfig) -> nn.Module:
    """Return a norm of the residual stream."""
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


class Block(nn.Module):
    """Attention and feed-forward layer, each as pre-norm residual branch, multiplied by `config.branch`.

    `windowed` and `vocabulary` are as in `Attention`.
    """

    def __init__(
        self, config: GPTConfig | EncoderConfig, *, windowed: bool = False, vocabulary: int | None = None
    ) -> None:
        super().__init__()
        self.branch = config.branch
        self.attention_norm = norm_of(config)
        self.attention = Attention(config, windowed=windowed, vocabulary=vocabulary)
        self.ffn_norm = norm_of(config)
        self.ffn = FeedForward(config)
        # Separate layers, since each has its own noise.
        self.dropout: nn.Module = Dropout(config.dropout)
        self.ffn_dropout: nn.Module = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor | None = None,
        mask: Tensor | Any | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Return the residual stream after the block.

        Args:
            x: Residual stream, (batch, length, width).
            rotation: See `Attention.forward`.
            mask: See `Attention.forward`.
            tokens: See `Attention.forward`.
        """
        # One kernel for any factor.
        # Without a name of its own, the attention's output is freed before the feed-forward layers.
        x = torch.add(
            x, self.dropout(self.attention(self.attention_norm(x), rotation, mask, tokens)), alpha=self.branch
        )
        return torch.add(x, self.ffn_dropout(self.ffn(self.ffn_norm(x))), alpha=self.branch)
