"""The shape of a GPT: its parameters, its FLOPs, and the options that describe it.

No torch here, so that a search knows the size of a model before it trains one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.models.rules import Parametrisation

C = TypeVar("C", bound="ModelConfig")


class ModelConfig:
    """The shape of a model, as a dataclass of plain fields; `scaling` says how it depends on its size."""

    depth: int
    width: int
    heads: int
    scaling: Parametrisation | None

    def __post_init__(self) -> None:
        given: Any = self.scaling
        if isinstance(given, Mapping):  # as JSON has it
            object.__setattr__(self, "scaling", Parametrisation(**given))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        data: dict[str, Any] = asdict(self)  # type: ignore[call-overload] # of the dataclasses below
        return data

    @property
    def branch(self) -> float:
        """By what residual branches are multiplied."""
        return 1.0 if self.scaling is None else 1.0 / self.scaling.deeper(self.depth)

    @property
    def readout(self) -> float:
        """By what logits are multiplied."""
        return 1.0 if self.scaling is None else 1.0 / self.scaling.wider(self.width)

    @property
    def attention_scale(self) -> float | None:
        """By what queries times keys are multiplied; None: by 1/√head_dim."""
        return None if self.scaling is None else self.scaling.attention_scale(self.width // self.heads)

    @classmethod
    def from_json(cls: type[C], data: Mapping[str, Any]) -> C:
        """Build it from what `to_json` gave.

        Raises:
            RecipeError: An unknown field, or one out of its range.
        """
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name, value in data.items():
            if name not in known:
                raise RecipeError(name, value, f"only the fields {', '.join(known)}")
        return cls(**data)


LONGEST_PLAIN = 256
"""Tokens up to which attention in bfloat16 on a CPU is computed by plain products (see
`training.models.block`): there they are
the faster; at twice as many they are about even, beyond they lose."""

PLAIN_IN_FP32 = range(16, 49)
"""Tokens for which they are the faster in float32: 1.1 to 1.9 times, most where the number is no multiple of 16."""

LONGEST_DROPPED = 512
"""Tokens up to which dropped weights of attention are computed as one product on a GPU, and not by the fused kernel,
which leaves no weights behind but has to be called for each sample, since its noise depends on those beside it."""

LARGE_VOCABULARY = 1024
"""Tokens from which on logits are never there whole (see `training.optim.losses`)."""

_LOGITS_IN_PIECE = {"cpu": 2**21}
_LOGITS_ON_GPU = 2**26


def by_products(precision: str, keys: int) -> bool:
    """Say whether a CPU computes attention by three plain products, and not by the fused kernel.

    Args:
        precision: Of the products: 'fp32', 'bf16' or another, in which it does not.
        keys: Tokens that a query may look at.
    """
    return keys <= LONGEST_PLAIN if precision == "bf16" else precision == "fp32" and keys in PLAIN_IN_FP32


def tokens_in_piece(vocab_size: int, device: str) -> int:
    """Return for how many tokens at a time logits are made: what fits a CPU's cache; a GPU is to be filled."""
    return max(1, _LOGITS_IN_PIECE.get(device, _LOGITS_ON_GPU) // vocab_size)


SHORTEST_CHUNK, MOST_CHUNKS = 32, 16
"""Of windowed attention's queries: shorter chunks save less arithmetic than their kernels' calls take."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """A decoder-only Transformer: pre-norm, causal. The defaults are GPT-2's, without biases.

    Args:
        vocab_size: Number V of tokens, 2 or more; 256 for bytes.
        context: Longest sequence T, in tokens.
        depth: Number L of blocks.
        width: Width d of the residual stream, a multiple of heads.
        heads: Attention heads.
        ffn_mult: Width of the hidden layer of each block, as a multiple of d. A SwiGLU, which has three
            matrices for two, gets two thirds of it, to the nearest multiple of ffn_multiple.
        dropout: Share of the embeddings' and residual branches' outputs that is dropped, below 1.
        attention_dropout: Share of the attention weights that is dropped, below 1. Apart from `dropout`
            because torch's fused CPU attention has none: it makes attention five times slower there.
        bias: Whether linear layers and norms have biases.
        tied: Whether the head is the embedding.
        init: How weights begin. 'normal': N(0, 0.02), outputs of residual branches smaller by 1/√(2L)
            (GPT-2). 'fan_in': N(0, 1/√fan-in) in hidden layers, outputs of residual branches at zero, so
            that each block begins as the identity. At width 32, 0.02 is nine times less than 1/√fan-in, and
            small models take long to leave the plateau of letter pairs.
        position: 'learned', 'sinusoidal' (fixed) or 'rope' (rotary, which needs an even width of a head).
        rope_base: Base of the rotary angles, above 1.
        extended_from: Context that the model was first trained at, if it has been extended since (see
            `extend_context`).
        extension: How it was: 'linear', or for rope 'ntk' or 'yarn' too.
        window: Tokens that a token sees, itself included, 1 to the context; None: all earlier ones.
        window_pattern: Which blocks have the window, repeated from the first on: S do, L see all.
        kv_heads: Heads of keys and values, a divisor of heads (grouped-query attention); None: heads.
        qk_norm: Whether queries and keys are normed before they meet.
        ffn: 'gelu' or 'swiglu'.
        norm_eps: What LayerNorms add to the variance, above 0; another than 1e-5 in models that were grown.
        ffn_multiple: Of what the width of a SwiGLU is a multiple; files of models that do not say it had 64.
        scaling: How it depends on its size; None: as ever.

    Raises:
        RecipeError: A field is out of its range, or does not fit another.
    """

    causal: ClassVar[bool] = True

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
    position: str = "learned"
    rope_base: float = 10000.0
    extended_from: int | None = None
    extension: str = "linear"
    window: int | None = None
    window_pattern: str = "S"
    kv_heads: int | None = None
    qk_norm: bool = False
    ffn: str = "gelu"
    norm_eps: float = 1e-5
    ffn_multiple: int = 8
    scaling: Parametrisation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("vocab_size", self.vocab_size, 2)
        for name in ("context", "depth", "width", "heads"):
            check_integer(name, getattr(self, name), 1)
        if self.width % self.heads:
            raise RecipeError("heads", self.heads, f"a divisor of width={self.width}")
        check_number("ffn_mult", self.ffn_mult, "(0, 64]")
        check_number("dropout", self.dropout, "[0, 1)")
        check_number("attention_dropout", self.attention_dropout, "[0, 1)")
        check_name("init", self.init, ("normal", "fan_in"))
        for name in ("bias", "tied", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(name, getattr(self, name), "true or false")
        self._check_positions()
        self._check_attention()

    def _check_positions(self) -> None:
        check_name("position", self.position, ("learned", "sinusoidal", "rope"))
        check_number("rope_base", self.rope_base, "(1, inf)")
        head_dim = self.width // self.heads
        if self.position == "rope" and head_dim % 2:
            raise RecipeError("heads", self.heads, f"one that leaves an even width of a head, not {head_dim}, for rope")
        if self.extended_from is not None:
            check_integer("extended_from", self.extended_from, 1, self.context)
        check_name("extension", self.extension, ("linear", "ntk", "yarn") if self.position == "rope" else ("linear",))
        if self.extension == "ntk" and head_dim < 4:
            raise RecipeError("extension", self.extension, f"another for heads of width {head_dim}")

    def _check_attention(self) -> None:
        if self.window is not None:
            check_integer("window", self.window, 1, self.context)
        if not isinstance(self.window_pattern, str) or not self.window_pattern or set(self.window_pattern) - {*"SL"}:
            raise RecipeError("window_pattern", self.window_pattern, "letters S and L, at least one")
        if self.kv_heads is not None:
            check_integer("kv_heads", self.kv_heads, 1)
            if self.heads % self.kv_heads:
                raise RecipeError("kv_heads", self.kv_heads, f"a divisor of heads={self.heads}")
        check_name("ffn", self.ffn, ("gelu", "swiglu"))
        check_number("norm_eps", self.norm_eps, "(0, 1)")
        check_integer("ffn_multiple", self.ffn_multiple, 1)

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def stretch(self) -> float:
        """How many times longer the context is than the one first trained at."""
        return self.context / (self.extended_from or self.context)

    @property
    def windows(self) -> tuple[int, ...]:
        """Tokens that a token sees, in each block."""
        letters = (self.window_pattern[layer % len(self.window_pattern)] for layer in range(self.depth))
        return tuple(self.context if self.window is None or letter == "L" else self.window for letter in letters)

    @property
    def chunk(self) -> int:
        """Queries that go through windowed attention together, 32 or more: about half a window, and few chunks."""
        return max(SHORTEST_CHUNK, -(-min(self.windows) // 2), -(-self.context // MOST_CHUNKS))

    def keys(self, window: int, length: int) -> int:
        """Return by how many keys a block multiplies each query, in a sequence of `length`.

        Without a window all, though causal masking could skip half: the convention under which sizes are compared.
        With one a chunk's, and likewise as if what lies before the first token were not skipped.
        """
        return length if window >= length else min(length, self.chunk + window - 1)

    @property
    def ffn_width(self) -> int:
        """Width f of the hidden layer of each block."""
        return hidden_width(self.width, self.ffn_mult, self.ffn, self.ffn_multiple)

    @property
    def block_outputs(self) -> int:
        """Outputs of a block's linear layers: those of q, k, v and the attention, and of the feed-forward."""
        d, gates = self.width, 2 if self.ffn == "swiglu" else 1
        return 2 * d + 2 * d * self.key_value_heads // self.heads + gates * self.ffn_width + d

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply each token: 4d² + 2df in each block, and the head's dV, tied or not.

        Shared keys and values make it less, a SwiGLU's gate d · f more.
        """
        d, f = self.width, self.ffn_width
        return self.depth * (d * (self.block_outputs - d) + d * f) + d * self.vocab_size

    @property
    def parameters(self) -> int:
        """Trainable parameters, a tied head counted once."""
        d = self.width
        norms = (2 * self.depth + 1) * d
        if self.bias:
            norms *= 2
        if self.qk_norm:
            norms += self.depth * 2 * (d // self.heads)
        embeddings = (self.vocab_size + (self.context if self.position == "learned" else 0)) * d
        biases = self.depth * self.block_outputs if self.bias else 0
        head = d * self.vocab_size
        return self.matmul_parameters - head + norms + embeddings + biases + (0 if self.tied else head)


def hidden_width(width: int, ffn_mult: float, ffn: str = "gelu", multiple: int = 8) -> int:
    """Return the width f of the hidden layer of a block (see `GPTConfig`)."""
    if ffn == "swiglu":
        return multiple * max(1, round(ffn_mult * width * 2 / 3 / multiple))
    return max(1, round(ffn_mult * width))


@dataclass(frozen=True, kw_only=True)
class Positions(Options):
    """Positions."""

    position: Literal["learned", "sinusoidal", "rope"] = option("learned", help="How a token knows where it stands")
    rope_base: float = option(10000.0, bounds="(1, inf)", help="rope: base of the angles")


@dataclass(frozen=True, kw_only=True)
class Windows(Options):
    """Windows of attention."""

    window: int | None = option(None, bounds="[1, inf)", unit="tokens", help="That a token sees, up to the context")
    window_pattern: str = option("S", help="Which blocks have the window, repeated: S do, L see all: SSSL")


@dataclass(frozen=True, kw_only=True)
class Architecture(Options):
    """Blocks."""

    ffn: Literal["gelu", "swiglu"] = option("gelu", help="Kind of the feed-forward layers")
    ffn_mult: float = option(4.0, bounds="(0, 64]", gene="2.0|2.667|4.0", help="Their width, by that of the model")
    kv_heads: int | None = option(
        None, bounds="[1, inf)", help="Heads of keys and values, at most: the next divisor of heads below is taken"
    )
    qk_norm: bool = option(False, help="Norm queries and keys before they meet")
    bias: bool = option(False, help="Linear layers and norms have biases")
    tied: bool = option(True, help="The head is the embedding")
    attention_dropout: float = option(0.0, bounds="[0, 1)", help="Share of the attention's weights that is dropped")
    init: Literal["fan_in", "normal"] = option(
        "fan_in", help="How weights begin: fan_in suits small widths, normal is GPT-2's N(0, 0.02)"
    )


@dataclass(frozen=True, kw_only=True)
class Extending(Options):
    """Long texts."""

    extend_from: int | None = option(
        None, bounds="[2, inf)", unit="tokens", gene=None, help="Context to train at first, shorter than the whole"
    )
    extension: Literal["linear", "ntk", "yarn"] = option(
        "linear", gene=None, help="How positions are then extended; ntk and yarn with rope only"
    )
    extend_share: float = option(0.2, bounds="(0, 1)", help="Share of the budget that is spent at the whole context")


@dataclass(frozen=True, kw_only=True)
class Decoder(Extending, Architecture, Windows, Positions):
    """The shape of a GPT beside its size."""

    def shape(
        self,
        *,
        vocab: int,
        context: int,
        depth: int,
        width: int,
        heads: int,
        dropout: float,
        scaling: Parametrisation | None = None,
    ) -> GPTConfig:
        """Return the shape of a model at the end of its training.

        A window as long as the context is none, and heads of keys and values are a divisor of the heads.

        Raises:
            RecipeError: A number is out of its range.
        """
        seen = self.extend_from or context
        return GPTConfig(
            vocab_size=vocab,
            context=context,
            depth=depth,
            width=width,
            heads=heads,
            ffn_mult=self.ffn_mult,
            dropout=dropout,
            attention_dropout=self.attention_dropout,
            bias=self.bias,
            tied=self.tied,
            init=self.init,
            position=self.position,
            rope_base=self.rope_base,
            extended_from=self.extend_from,
            extension=self.extension,
            window=self.window if self.window is None or self.window < seen else None,
            window_pattern=self.window_pattern,
            kv_heads=divisor_below(heads, self.kv_heads),
            qk_norm=self.qk_norm,
            ffn=self.ffn,
            scaling=scaling,
        )


def divisor_below(heads: int, most: int | None) -> int | None:
    """Return the largest divisor of `heads` up to `most`; None for one each."""
    return None if most is None or most >= heads else max(n for n in range(1, most + 1) if heads % n == 0)


def window_chunks(window: int, length: int, chunk: int) -> list[tuple[int, int, int]]:
    """Return the chunks of queries in a sequence: first key, first query, and the end of both."""
    starts = range(0, length, chunk)
    return [(max(0, start - window + 1), start, min(start + chunk, length)) for start in starts]


def flops_per_token(config: GPTConfig, length: int | None = None) -> float:
    """Return the FLOPs that training on one token takes: forward and backward, 2 a multiply-add.

    6 · N + 12 · d · Σ K over the blocks, where N counts the weights that multiply (the head included, embedding
    look-ups not) and the second term is attention (PaLM, arXiv:2204.02311, appendix B): K keys a query. Without a
    window these are all T, though causal masking could skip half: the convention under which sizes are compared.
    With one they are those that are computed, which are more than those that are seen (`GPTConfig.keys`): a window
    is credited with the arithmetic that it saves, and no more.
    `torch.utils.flop_counter` agrees exactly where attention is computed by its plain formula, and with a window
    but for what lies before the first token: a few hundredths where the window is small against the length.

    Args:
        config: The model.
        length: Tokens in a sequence, if shorter than the model's context.

    Raises:
        RecipeError: The length is not a whole number from 1 to the context.
    """
    length = config.context if length is None else length
    check_integer("length", length, 1, config.context)
    keys = sum(config.keys(window, length) for window in config.windows)
    return 6.0 * config.matmul_parameters + 12.0 * config.width * keys
