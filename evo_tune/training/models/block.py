"""The blocks of a Transformer: attention and a feed-forward layer, each a residual branch. Knows no tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.recipe.models.encoder_config import EncoderConfig
from evo_tune.recipe.models.gpt_config import GPTConfig
from evo_tune.training.models.attention import attend
from evo_tune.training.models.dropout import Dropout
from evo_tune.training.models.positions import rotate
from evo_tune.training.models.windowed import FlexMask, attend_by_flex, attend_in_window

__all__ = ["Attention", "Block", "FeedForward", "FusedLinear"]


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
