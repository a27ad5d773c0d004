"""A block of a Transformer: norms, attention, feed-forward layer, and positions."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_name
from evo_tune.recipe.models.encoder_config import EncoderConfig
from evo_tune.recipe.models.gpt_config import LONGEST_DROPPED, GPTConfig, by_products, window_chunks
from evo_tune.training.models.dropout import Dropout

_SLOW, _FAST = 1.0, 32.0  # turns within T: pairs below are interpolated, pairs above left alone (YaRN's α, β)


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, *, context: int = 1, stretch: float = 1.0, method: str = "linear"
) -> Tensor:
    """Return the angle per position of each pair of channels, in radians.

    Args:
        head_dim: Channels of a head, an even number; above 2 for 'ntk'.
        base: The slowest pair turns about 1/base radians a position.
        context: Length T that the model was trained at.
        stretch: s = T'/T, 1 or more; 1 changes nothing.
        method: 'linear', 'ntk' or 'yarn'.

    Returns:
        (head_dim / 2), float64, falling.

    Raises:
        RecipeError: An odd head_dim, a stretch below 1, or an unknown method.
    """
    check_name("extension", method, ("linear", "ntk", "yarn"))
    if head_dim % 2 or (method == "ntk" and head_dim < 4):
        raise RecipeError("head_dim", head_dim, "an even number, 4 or more for 'ntk'")
    if not stretch >= 1.0:
        raise RecipeError("stretch", stretch, "a number of 1 or more")
    if method == "ntk":
        base = base * stretch ** (head_dim / (head_dim - 2))
    plain: Tensor = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if method == "ntk":
        return plain
    if method == "linear":
        return plain / stretch
    turns = context * plain / (2.0 * math.pi)
    kept = ((turns - _SLOW) / (_FAST - _SLOW)).clamp(0.0, 1.0)
    return (1.0 - kept) * plain / stretch + kept * plain


def rotary_table(length: int, frequencies: Tensor, gain: float = 1.0) -> Tensor:
    """Return cosines and sines of all positions' angles, times `gain`: (2, length, head_dim / 2), float64."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return gain * torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys by their positions.

    Args:
        x: (…, length, head_dim); channel i is paired with channel i + head_dim / 2. Turned in float32 at least: in
            bfloat16 an angle's cosine is off by up to 1/256, and distances with it.
        table: (2, length, head_dim / 2), as `rotary_table` gives.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = table.to(wide)
    first, second = x.to(wide).chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1).to(x.dtype)


def sinusoids(length: int, width: int, stretch: float = 1.0) -> Tensor:
    """Return the fixed positions of Vaswani et al. (arXiv:1706.03762), each channel within ±1.

    Args:
        length: Number of positions.
        width: Channels: sines in the first half, cosines in the second (one fewer if odd).
        stretch: Positions are divided by it.

    Returns:
        (length, width), float64.
    """
    half = -(-width // 2)
    frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / stretch * frequencies
    return torch.cat((angles.sin(), angles.cos()), 1)[:, :width]


def interpolate_positions(table: Tensor, length: int) -> Tensor:
    """Return a learned table stretched to `length` positions, the first and the last kept as they are.

    Args:
        table: (positions, width).
        length: At least as many.

    Raises:
        RecipeError: Fewer positions than the table has.
    """
    if length < len(table):
        raise RecipeError("context", length, f"{len(table)} or more")
    rows = torch.nn.functional.interpolate(table.T[None], size=length, mode="linear", align_corners=True)
    return rows[0].T.contiguous()


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


class FusedLinear(nn.Linear):
    """Several linear maps of the same inputs as one product; its weight has one below another.

    Args:
        inputs: Channels of the inputs.
        maps: Outputs of each map; an optimizer that looks at whole matrices takes them apart.
        bias: Whether they have biases.
    """

    def __init__(self, inputs: int, maps: tuple[int, ...], *, bias: bool) -> None:
        super().__init__(inputs, sum(maps), bias=bias)
        self.maps: tuple[int, ...] = maps


class Attention(nn.Module):
    """Multi-head self-attention, causal if the config says so.

    With fewer key-value heads than heads, these are shared (GQA).

    Args:
        config: The model's shape.
        windowed: Whether a mask is that of a window (see `chunk_mask`).
    """

    def __init__(self, config: GPTConfig | EncoderConfig, *, windowed: bool = False) -> None:
        super().__init__()
        self.windowed = windowed
        self.flex: FlexMask | None = None  # see `stepping.compiling`
        self.heads, self.kv_heads = config.heads, config.key_value_heads
        self.dropout = Dropout(config.attention_dropout)  # of the weights between tokens
        self.causal, self.scale = config.causal, config.attention_scale
        width, head_dim = config.width, config.width // config.heads
        self.qkv = FusedLinear(width, (width, *2 * (self.kv_heads * head_dim,)), bias=config.bias)
        self.out = nn.Linear(width, width, bias=config.bias)
        # Large queries and keys make attention collapse at high learning rates (arXiv:2302.05442).
        self.q_norm = nn.RMSNorm(head_dim) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim) if config.qk_norm else None

    def forward(self, x: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: (batch, length, width).
            rotation: (2, length, head_dim / 2), as `rotary_table` gives; None: queries and keys as they are.
            mask: What broadcasts to (batch, heads, length, length), or of a window what `chunk_mask` gives; None: to
                all tokens, or if causal to all earlier ones.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, self.heads + 2 * self.kv_heads, width // self.heads)
        # Each (batch, length, heads, head_dim): in this order in memory, so that `y` below needs no copy.
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 2)
        if self.q_norm is not None and self.k_norm is not None:
            dtype = self.q_norm.weight.dtype  # autocast leaves norms to their inputs' precision, which may be less
            q, k = self.q_norm(q.to(dtype)).to(q.dtype), self.k_norm(k.to(dtype)).to(k.dtype)
        if rotation is not None:
            q, k = rotate(q, rotation[:, :, None]), rotate(k, rotation[:, :, None])
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        dropout = self.dropout if self.dropout.active else None
        if self.flex is not None and mask is not None and dropout is None and length == self.flex.length:
            y = attend_by_flex(q, k, v, self.flex, self.scale)
        elif self.windowed and mask is not None:
            y = attend_in_window(q, k, v, mask, dropout, self.scale)
        else:
            y = attend(q, k, v, mask, dropout, causal=self.causal, scale=self.scale)
        attended: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return attended


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, or with a gate beside (SwiGLU, arXiv:2002.05202)."""

    def __init__(self, config: GPTConfig | EncoderConfig) -> None:
        super().__init__()
        self.gated = config.ffn == "swiglu"
        self.up = FusedLinear(config.width, (config.ffn_width,) * (2 if self.gated else 1), bias=config.bias)
        self.out = nn.Linear(config.ffn_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.gated:
            gate, value = hidden.chunk(2, -1)
            hidden = F.silu(gate) * value
        else:
            hidden = F.gelu(hidden)
        y: Tensor = self.out(hidden)
        return y


class Block(nn.Module):
    """Attention and feed-forward, each normed on the way in and added on the way out, times `config.branch`.

    `windowed` is as in `Attention`.
    """

    def __init__(self, config: GPTConfig | EncoderConfig, *, windowed: bool = False) -> None:
        super().__init__()
        self.branch = config.branch
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
        self.attention = Attention(config, windowed=windowed)
        self.ffn_norm = nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)
        self.ffn = FeedForward(config)
        # Each a layer of its own, since each has its own noise.
        self.dropout: nn.Module = Dropout(config.dropout)
        self.ffn_dropout: nn.Module = Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        # One kernel, whatever the factor.
        x = torch.add(x, self.dropout(self.attention(self.attention_norm(x), rotation, mask)), alpha=self.branch)
        return torch.add(x, self.ffn_dropout(self.ffn(self.ffn_norm(x))), alpha=self.branch)
