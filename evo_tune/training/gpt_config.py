"""The shape of a GPT, and what follows from it by arithmetic: its parameters.

No torch here, so that a search can know a model's size before it trains one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from evo_tune.errors import RecipeError
from evo_tune.training._check import check_integer, check_name, check_number

__all__ = ["GPTConfig"]


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A decoder-only Transformer: pre-norm, causal, learned positions.

    Args:
        vocab_size: Number V of tokens, 2 or more; 256 for bytes.
        context: Longest sequence T, in tokens.
        depth: Number L of blocks.
        width: Width d of the residual stream, a multiple of heads.
        heads: Attention heads.
        ffn_mult: Width of the hidden layer of each block, as a multiple of d.
        dropout: Share of the embeddings' and residual branches' outputs that is dropped, below 1.
        attention_dropout: Share of the attention weights that is dropped, below 1. Apart from `dropout`
            because torch's fused CPU attention has none: it makes attention five times slower there.
        bias: Whether linear layers and norms have biases.
        tied: Whether the head is the embedding.
        init: How weights begin. 'normal': N(0, 0.02), outputs of residual branches smaller by 1/√(2L)
            (GPT-2). 'fan_in': N(0, 1/√fan-in) in hidden layers, outputs of residual branches at zero, so
            that each block begins as the identity. At width 32, 0.02 is nine times less than 1/√fan-in, and
            small models take long to leave the plateau of letter pairs.

    Raises:
        RecipeError: A field is out of its range, or heads do not divide width.
    """

    vocab_size: int = 256
    context: int = 128
    depth: int = 2
    width: int = 64
    heads: int = 4
    ffn_mult: float = 4.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    bias: bool = False
    tied: bool = True
    init: str = "normal"

    def __post_init__(self) -> None:
        check_integer("vocab_size", self.vocab_size, 2)
        for name in ("context", "depth", "width", "heads"):
            check_integer(name, getattr(self, name), 1)
        if self.width % self.heads:
            raise RecipeError("heads", self.heads, f"a divisor of width={self.width}")
        check_number("ffn_mult", self.ffn_mult, "(0, 64]")
        check_number("dropout", self.dropout, "[0, 1)")
        check_number("attention_dropout", self.attention_dropout, "[0, 1)")
        check_name("init", self.init, ("normal", "fan_in"))
        for name in ("bias", "tied"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(name, getattr(self, name), "true or false")

    @property
    def ffn_width(self) -> int:
        """Width f of the hidden layer of each block."""
        return max(1, round(self.ffn_mult * self.width))

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply each token: 4d² + 2df in each block, and the head's dV, tied or not."""
        d, f = self.width, self.ffn_width
        return self.depth * (4 * d * d + 2 * d * f) + d * self.vocab_size

    @property
    def parameters(self) -> int:
        """Trainable parameters, a tied head counted once."""
        d = self.width
        norms = (2 * self.depth + 1) * d
        embeddings = (self.vocab_size + self.context) * d
        biases = self.depth * (5 * d + self.ffn_width) + norms if self.bias else 0
        head = d * self.vocab_size
        return self.matmul_parameters - head + norms + embeddings + biases + (0 if self.tied else head)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GPTConfig:
        """Build it from what `to_json` gave.

        Raises:
            RecipeError: An unknown field, or one out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name, value in data.items():
            if name not in known:
                raise RecipeError(name, value, f"only the fields {', '.join(known)}")
        return cls(**data)
