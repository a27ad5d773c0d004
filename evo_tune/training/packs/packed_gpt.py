"""The forward pass of several GPTs of one shape: products of all members in one call, attention over all their samples.

Weights come stacked, (members, …), by the names that a `GPT` has for them; what does not depend on the member is the
`GPT`'s own. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.training.models.attention import attend
from evo_tune.training.models.block import Block
from evo_tune.training.models.dropout import Dropout
from evo_tune.training.models.gpt import GPT
from evo_tune.training.models.positions import rotate
from evo_tune.training.models.windowed import attend_in_window
from evo_tune.training.packs.dropping import PackedDropout

__all__ = ["PackedGPT"]


class PackedGPT:
    """Several GPTs, of which each is given inputs of its own.

    Args:
        models: Of one shape, but for the shares of dropout.
    """

    def __init__(self, models: Sequence[GPT]) -> None:
        self.members, self.one = len(models), models[0]
        self.config = self.one.config
        blocks = [[cast(Block, block) for block in model.blocks] for model in models]
        self.dropout = PackedDropout([model.dropout for model in models])
        self.dropouts = [
            [
                PackedDropout([cast(Dropout, drop) for drop in drops])
                for drops in (
                    [block.attention.dropout for block in same],
                    [block.dropout for block in same],
                    [block.ffn_dropout for block in same],
                )
            ]
            for same in zip(*blocks, strict=True)
        ]

    def __call__(self, weights: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what logits are made of, and the heads.

        Args:
            weights: Of all members, each (members, …).
            tokens: (members, batch, length).

        Returns:
            (members, batch · length, width) and (members, vocab_size, width).
        """
        members, batch, length = tokens.shape
        config, x = self.config, self._embedded(weights, tokens)
        rotation = None if self.one.rotation is None else self.one.rotation[:, :length]
        for number, window in enumerate(config.windows):
            mask = self.one.mask if window < length else None
            x = self._block(weights, number, x, (members * batch, length), rotation, mask)
        head = weights["embedding.weight" if self.one.head is None else "head.weight"]
        if config.bias:  # logits have none
            x = F.layer_norm(x, x.shape[-1:], eps=config.norm_eps)
            x = torch.addcmul(weights["norm.bias"][:, None], x, weights["norm.weight"][:, None])
        else:
            x, head, _ = self._normed(weights, "norm", x, head, None)
        return x if config.readout == 1.0 else x * config.readout, head

    def _embedded(self, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        members, _, length = tokens.shape
        table = weights["embedding.weight"]
        first = torch.arange(0, members * table.shape[1], table.shape[1], device=tokens.device)
        x = F.embedding(tokens + first[:, None, None], table.reshape(-1, table.shape[2]))
        if self.one.positions is not None:
            x = x + weights["positions.weight"][:, None, :length]
        elif self.one.fixed is not None:
            x = x + self.one.fixed[:length]
        dropped: Tensor = self.dropout(x)
        return dropped.view(members, -1, table.shape[2])

    def _block(
        self,
        weights: Mapping[str, Tensor],
        number: int,
        x: Tensor,
        sequences: tuple[int, int],
        rotation: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        name = f"blocks.{number}"
        block = cast(Block, self.one.blocks[number])
        weights_dropout, dropout, ffn_dropout = self.dropouts[number]
        qkv = self._linear(weights, f"{name}.attention.qkv", x, f"{name}.attention_norm")
        y = self._attended(weights, name, qkv, sequences, rotation, mask, weights_dropout)
        y = self._linear(weights, f"{name}.attention.out", y)
        x = torch.add(x, dropout(y), alpha=block.branch)
        y = self._linear(weights, f"{name}.ffn.up", x, f"{name}.ffn_norm")
        if block.ffn.gated:
            gate, value = y.chunk(2, -1)
            y = F.silu(gate) * value
        else:
            y = F.gelu(y)
        return torch.add(x, ffn_dropout(self._linear(weights, f"{name}.ffn.out", y)), alpha=block.branch)

    def _attended(
        self,
        weights: Mapping[str, Tensor],
        block: str,
        qkv: Tensor,
        sequences: tuple[int, int],
        rotation: Tensor | None,
        mask: Tensor | None,
        dropout: PackedDropout,
    ) -> Tensor:
        """Attend within sequences; see `models.block.Attention`."""
        config = self.config
        heads, kv_heads, head_dim = config.heads, config.key_value_heads, config.width // config.heads
        qkv = qkv.view(*sequences, heads + 2 * kv_heads, head_dim)
        q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], 2)
        if config.qk_norm:
            q, k = (self._rms_normed(weights[f"{block}.attention.{n}_norm.weight"], x) for n, x in (("q", q), ("k", k)))
        if rotation is not None:
            q, k = rotate(q, rotation[:, :, None]), rotate(k, rotation[:, :, None])
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        dropped = dropout if dropout.active else None
        if mask is not None:
            y = attend_in_window(q, k, v, mask, dropped, config.attention_scale)
        else:
            y = attend(q, k, v, None, dropped, scale=config.attention_scale)
        return y.transpose(1, 2).reshape(self.members, -1, config.width)

    def _rms_normed(self, weight: Tensor, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.to(weight.dtype), x.shape[-1:])
        return (normed.view(self.members, -1, x.shape[-1]) * weight[:, None]).view(x.shape).to(x.dtype)

    def _linear(self, weights: Mapping[str, Tensor], name: str, x: Tensor, norm: str | None = None) -> Tensor:
        """Return a linear layer's outputs, of normed inputs if a norm is named."""
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        if norm is not None:
            x, weight, bias = self._normed(weights, norm, x, weight, bias)
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)

    def _normed(
        self, weights: Mapping[str, Tensor], norm: str, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a norm's outputs before its gains, and a linear layer behind it that holds them.

        A gain is a number of each channel, and the layer's weights are fewer than what goes through them.
        """
        x = F.layer_norm(x, x.shape[-1:], eps=self.config.norm_eps)
        gains, shifts = weights[f"{norm}.weight"], weights.get(f"{norm}.bias")
        if shifts is not None:
            shift = torch.bmm(weight, shifts[:, :, None]).squeeze(2)
            bias = shift if bias is None else bias + shift
        return x, weight * gains[:, None], bias
