"""Shape of a GPT: options, parameters and FLOPs.

This module does not load torch, so that a search can compute the size of a model before training.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from evo_tune.errors import RecipeError
from evo_tune.options.declare import Options, check_integer, check_name, fixed_option, option
from evo_tune.training.recipe.models.rules import GATED, ModelConfig

# Longest sequence, in tokens, for plain products in bfloat16 attention on a CPU (see `training.models.block`). Up to
# there they are faster than the fused kernel. At twice the length both are about equal; beyond, they are slower.
LONGEST_PLAIN = 256

# Sequence lengths for plain products in float32: 1.1 to 1.9 times faster, most if not a multiple of 16.
PLAIN_IN_FP32 = range(16, 49)


# Smallest vocabulary whose logits are computed in pieces (see `training.optim.losses`).
LARGE_VOCABULARY = 1024


def uses_plain_products(precision: str, keys: int) -> bool:
    """Return whether a CPU computes attention by three plain products instead of the fused kernel.

    Args:
        precision: Precision of the products: 'fp32', 'bf16' or another, for which the result is False.
        keys: Number of keys per query.
    """
    if precision == "bf16":
        return keys <= LONGEST_PLAIN
    # Not `keys in PLAIN_IN_FP32`: torch's compiler cannot trace it for a dynamic length.
    return precision == "fp32" and PLAIN_IN_FP32.start <= keys < PLAIN_IN_FP32.stop


def tokens_in_piece(vocab_size: int, device: str) -> int:
    """Return the tokens per piece of logits: few enough for a CPU's cache, or enough to fill a GPU."""
    return max(1, (2**21 if device == "cpu" else 2**26) // vocab_size)


# Limits on the chunks of queries in windowed attention; for shorter chunks, kernel calls cost more than they save.
SHORTEST_CHUNK, MOST_CHUNKS = 32, 16

# Longest context, in tokens, whose windows are one chunk: there chunks take more time than full attention, and a full
# mask takes the same (benchmarks/LOG.md).
LONGEST_WHOLE = 256


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """Shape of a decoder-only Transformer, pre-norm and causal. The defaults are GPT-2's, without biases.

    Args:
        vocab_size: Number V of tokens (int ≥ 2); 256 for bytes.
        context: Longest sequence T, in tokens.
        depth: Number L of blocks.
        width: Width d of the residual stream, a multiple of heads.
        heads: Number of attention heads.
        ffn_mult: Width of the hidden layer of each block, as a multiple of d. With a gate, that is
            three matrices instead of two, two thirds of it, to the nearest multiple of ffn_multiple.
        dropout: Dropped share of the outputs of embeddings and residual branches, below 1.
        attention_dropout: Dropped share of the attention weights, below 1. Separate from `dropout` because torch's
            fused CPU attention does not support it: attention is five times slower there.
        bias: Whether linear layers and norms have biases.
        tied: Whether the output head shares the embedding's weights.
        init: Initialisation of weights. 'normal': N(0, 0.02), outputs of residual branches smaller by 1/√(2L)
            (GPT-2). 'fan_in': N(0, 1/√fan-in) in hidden layers, outputs of residual branches at zero, so that each
            block starts as the identity. It suits small widths: at width 32, 0.02 is nine times less than
            1/√fan-in, and models stay long at the loss of letter pairs.
        position: 'learned', 'sinusoidal' (fixed) or 'rope' (rotary, needs an even number of channels per head).
        rope_base: Base of the rotary angles, above 1.
        extended_from: Context before an extension, in tokens (see `extend_context`); None: not extended.
        extension: Method of the extension: 'linear', or with rope also 'ntk' or 'yarn'.
        window: Tokens that a token attends to, including itself, 1 to the context; None: all earlier ones.
        window_pattern: Attention of each block, repeated from the first on: S for the window, L for all tokens.
        kv_heads: Heads of keys and values, a divisor of heads (grouped-query attention); None: heads.
        qk_norm: Whether queries and keys are normalised before their product.
        ffn: 'gelu', 'swiglu' or 'reglu' (with a gate; arXiv:2002.05202), or 'relu2' (squared ReLU; Primer,
            arXiv:2109.08668).
        norm: 'layernorm' or 'rmsnorm' (arXiv:1910.07467).
        softcap: Bound c of the logits, c · tanh(logits / c) (Gemma 2, arXiv:2408.00118); 0: no bound.
        value_embeddings: Whether every second block, from the last one back, adds an embedding of each token to its
            values. The embeddings begin at zero.
        residual_scaling: Whether the input of each block is λ · x + μ · x₀ instead of the residual stream x. x₀ is the
            first block's input; λ and μ are learned, from 1 and 0.
        ngrams: Length n of the longest sequences of tokens that end at a token and whose embeddings are added to the
            token's, one of each length from 2 to n (Byte Latent Transformer, arXiv:2412.09871); 1: none. The
            embeddings begin at zero.
        ngram_rows: Rows of each table of n-gram embeddings; n-grams that share a hash share a row.
        norm_eps: ε that norms add to the variance or mean square, above 0.
        ffn_multiple: Divisor of the hidden width with a gate; 64 for model files without this field.
        scaling: Parametrisation by size; None: standard.
        boundary: Token that ends a document: tokens attend only to tokens of their own document. None: to all.

    Raises:
        RecipeError: A field is out of its range or does not match another.
    """

    causal: ClassVar[bool] = True

    vocab_size: int = option(256, bounds="[2, inf)")
    context: int = option(128, bounds="[1, inf)")
    bias: bool = option(False)
    tied: bool = option(True)
    init: str = option("normal", choices=("normal", "fan_in"))
    position: str = option("learned", choices=("learned", "sinusoidal", "rope"))
    rope_base: float = option(10000.0, bounds="(1, inf)")
    extended_from: int | None = None
    extension: str = "linear"
    window: int | None = None
    window_pattern: str = "S"
    kv_heads: int | None = option(None, bounds="[1, inf)")
    qk_norm: bool = option(False)
    ffn: str = option("gelu", choices=("gelu", "swiglu", "relu2", "reglu"))
    norm: str = option("layernorm", choices=("layernorm", "rmsnorm"))
    softcap: float = option(0.0, bounds="[0, inf)")
    value_embeddings: bool = option(False)
    residual_scaling: bool = option(False)
    ngrams: int = option(1, bounds="[1, 8]")
    ngram_rows: int = option(4096, bounds="[1, 16777216]")
    norm_eps: float = option(1e-5, bounds="(0, 1)")
    ffn_multiple: int = option(8, bounds="[1, inf)")
    boundary: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        head_dim = self.width // self.heads
        if self.position == "rope" and head_dim % 2:
            raise RecipeError("heads", self.heads, f"one that leaves an even width of a head, not {head_dim}, for rope")
        bounds = {"extended_from": (1, self.context), "window": (1, self.context), "boundary": (0, self.vocab_size - 1)}
        for name, (low, high) in bounds.items():
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low, high)
        check_name("extension", self.extension, ("linear", "ntk", "yarn") if self.position == "rope" else ("linear",))
        if self.extension == "ntk" and head_dim < 4:
            raise RecipeError("extension", self.extension, f"another for heads of width {head_dim}")
        if not isinstance(self.window_pattern, str) or not self.window_pattern or set(self.window_pattern) - {*"SL"}:
            raise RecipeError("window_pattern", self.window_pattern, "letters S and L, at least one")
        if self.heads % self.key_value_heads:
            raise RecipeError("kv_heads", self.kv_heads, f"a divisor of heads={self.heads}")

    @property
    def key_value_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def stretch(self) -> float:
        """Ratio of the context to the one before the extension."""
        return self.context / (self.extended_from or self.context)

    @property
    def windows(self) -> tuple[int, ...]:
        """Tokens that a token attends to, for each block."""
        letters = (self.window_pattern[layer % len(self.window_pattern)] for layer in range(self.depth))
        return tuple(self.context if self.window is None or letter == "L" else self.window for letter in letters)

    @property
    def embeds_values(self) -> tuple[bool, ...]:
        """Whether each block has value embeddings."""
        return tuple(self.value_embeddings and (self.depth - layer) % 2 == 1 for layer in range(self.depth))

    @property
    def tables(self) -> int:
        positions = 0 if self.position == "learned" else self.context * self.width
        return positions + (self.chunk * (self.chunk + min(self.windows)) if min(self.windows) < self.context else 0)

    @property
    def chunk(self) -> int:
        """Queries per chunk of windowed attention, at least 32: about half a window, in at most 16 chunks.

        Up to a context of 256 tokens, one chunk has all queries.
        """
        if self.context <= LONGEST_WHOLE:
            return self.context
        return max(SHORTEST_CHUNK, -(-min(self.windows) // 2), -(-self.context // MOST_CHUNKS))

    def keys(self, window: int, length: int) -> float:
        """Return the mean number of keys that a block multiplies with a query, in a sequence of `length`.

        Without a window these are the query's own and earlier positions, (T + 1) / 2 on average. With a window they
        are the computed keys: all keys of a chunk's mask, and only the earlier ones in chunks without a mask. A window
        of more than about half the sequence therefore computes more keys than full attention. A mask over the whole
        sequence, of a short context or of documents, saves nothing and counts as full attention.

        Args:
            window: Tokens that a token attends to, including itself.
            length: Tokens T per sequence.
        """
        if window >= length or self.context <= LONGEST_WHOLE or self.boundary is not None:
            return (length + 1) / 2
        computed = 0.0
        for first, start, end in window_chunks(window, length, self.chunk):
            queries, keys = end - start, end - first
            computed += queries * ((queries + 1) / 2 if is_causal_chunk(first, start, end, window) else keys)
        return computed / length

    @property
    def ffn_width(self) -> int:
        """Width f of the hidden layer of each block."""
        return hidden_width(self.width, self.ffn_mult, self.ffn, self.ffn_multiple)

    @property
    def block_outputs(self) -> int:
        """Number of outputs of a block's linear layers: q, k, v, attention output, and feed-forward."""
        d = self.width
        return 2 * d + 2 * d * self.key_value_heads // self.heads + self.ffn_maps * self.ffn_width + d

    @property
    def matmul_parameters(self) -> int:
        """Number of weights that multiply each token: 4d² + 2df per block, and dV of the head, tied or not.

        Shared keys and values reduce the number; a gate adds d · f.
        """
        d, f = self.width, self.ffn_width
        return self.depth * (d * (self.block_outputs - d) + d * f) + d * self.vocab_size

    @property
    def embedding_rows(self) -> int:
        """Number of embeddings of tokens, positions and n-grams, each of the model's width."""
        positions = self.context if self.position == "learned" else 0
        return self.vocab_size + positions + (self.ngrams - 1) * self.ngram_rows

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, with a tied head counted once."""
        d = self.width
        norms = (2 * self.depth + 1) * d
        if self.bias and self.norm == "layernorm":
            norms *= 2
        if self.qk_norm:
            norms += self.depth * 2 * (d // self.heads)
        embeddings = self.embedding_rows * d
        embeddings += sum(self.embeds_values) * self.vocab_size * d * self.key_value_heads // self.heads
        biases = self.depth * self.block_outputs if self.bias else 0
        scales = 2 * self.depth if self.residual_scaling else 0
        head = d * self.vocab_size
        return self.matmul_parameters - head + norms + embeddings + biases + scales + (0 if self.tied else head)


def hidden_width(width: int, ffn_mult: float, ffn: str = "gelu", multiple: int = 8) -> int:
    """Return the width f of the hidden layer of a block (see `GPTConfig`)."""
    if ffn in GATED:
        return multiple * max(1, round(ffn_mult * width * 2 / 3 / multiple))
    return max(1, round(ffn_mult * width))


@dataclass(frozen=True, kw_only=True)
class PositionOptions(Options):
    """Positions."""

    position: Literal["learned", "sinusoidal", "rope"] = option("rope", help="Position encoding")
    rope_base: float = option(10000.0, bounds="(1, inf)", help="rope: base of the rotary angles")


@dataclass(frozen=True, kw_only=True)
class AttentionWindowOptions(Options):
    """Attention windows."""

    window: int | None = option(
        None, bounds="[1, inf)", unit="tokens", help="Tokens that a token attends to, at most the context; none: all"
    )
    window_pattern: str = option("S", help="Window of each block, repeated: S limited, L unlimited; SSSL for example")

    @staticmethod
    def is_slow_window(window: int, context: int) -> bool:
        """Return whether a window is the whole context, or may take more time than none (benchmarks/LOG.md)."""
        return window >= context or (context > LONGEST_WHOLE and 4 * window > context)


@dataclass(frozen=True, kw_only=True)
class ArchitectureOptions(Options):
    """Blocks."""

    ffn: Literal["gelu", "swiglu", "relu2", "reglu"] = option(
        "gelu", help="Type of the feed-forward layers; relu2: square of a ReLU; reglu: gate by a ReLU"
    )
    ffn_mult: float = option(
        4.0, bounds="(0, 64]", gene="2.0|2.667|4.0", help="Width of feed-forward layers, as a multiple of the model's"
    )
    kv_heads: int | None = option(
        None, bounds="[1, inf)", help="Most heads of keys and values, rounded down to a divisor of heads; none: heads"
    )
    norm: Literal["layernorm", "rmsnorm"] = option("layernorm", help="Norm of the inputs of each layer and of the head")
    qk_norm: bool = option(False, help="Normalise queries and keys before their product")
    value_embeddings: bool = option(False, help="Add embeddings of the tokens to the values of every second block")
    residual_scaling: bool = option(
        False, help="Learn factors of the residual stream and of the first block's input, for each block"
    )
    ngrams: int = option(
        1,
        bounds="[1, 8]",
        gene="1|2|3|4|5",
        help="Add embeddings of the n-grams that end at a token, one of each length from 2 to this; 1: none",
    )
    ngram_rows: int = option(
        4096,
        bounds="[1, 16777216]",
        gene="1024|4096|16384|65536",
        help="Rows of each table of n-gram embeddings, which are found by a hash",
    )
    softcap: float = option(
        0.0, bounds="[0, inf)", gene="0.0|15.0|30.0", help="Bound c of the logits, by c·tanh(logits/c); 0: no bound"
    )
    bias: bool = option(False, help="Add biases to linear layers and norms")
    tied: bool = option(True, help="Share the weights of embedding and output head")
    attention_dropout: float = option(0.0, bounds="[0, 1)", help="Dropout of the attention weights")
    init: Literal["fan_in", "normal"] = option(
        "fan_in", help="Initialisation of weights: fan_in suits small widths; normal is GPT-2's N(0, 0.02)"
    )


@dataclass(frozen=True, kw_only=True)
class ContextExtensionOptions(Options):
    """Context extension."""

    extend_from: int | None = fixed_option(
        None, bounds="[2, inf)", unit="tokens", help="Shorter context at the start of the training; none: no extension"
    )
    extension: Literal["linear", "ntk", "yarn"] = fixed_option(
        "linear", help="Extension of positions after extend_from; ntk and yarn need rope"
    )
    extend_share: float = option(0.2, bounds="(0, 1)", help="Share of the budget at the full context")


@dataclass(frozen=True, kw_only=True)
class GPTShapeOptions(ContextExtensionOptions, ArchitectureOptions, AttentionWindowOptions, PositionOptions):
    """Shape of a GPT apart from its size."""

    def shape(self, *, vocab: int, context: int, **sizes: Any) -> GPTConfig:
        """Return the shape of a model at the end of its training.

        A window as long as the context becomes None; kv_heads is rounded down to a divisor of heads.

        Args:
            vocab: Number of tokens.
            context: Longest sequence, in tokens.
            sizes: Depth, width, heads and dropout, and scaling if it is not standard (see `GPTConfig`).

        Raises:
            RecipeError: A number is out of its range.
        """
        shared = {field.name for field in fields(GPTShapeOptions)} & {field.name for field in fields(GPTConfig)}
        values = {name: getattr(self, name) for name in shared}
        if self.window is not None and self.window >= (self.extend_from or context):
            values["window"] = None
        values["kv_heads"] = largest_head_divisor(sizes["heads"], self.kv_heads)
        return GPTConfig(**values, **sizes, vocab_size=vocab, context=context, extended_from=self.extend_from)


def largest_head_divisor(heads: int, most: int | None) -> int | None:
    """Return the largest divisor of `heads` up to `most`; None if that is all of them or `most` is None."""
    return None if most is None or most >= heads else max(n for n in range(1, most + 1) if heads % n == 0)


def window_chunks(window: int, length: int, chunk: int) -> list[tuple[int, int, int]]:
    """Return the chunks of queries in a sequence, as (first key, first query, end of both)."""
    starts = range(0, length, chunk)
    return [(max(0, start - window + 1), start, min(start + chunk, length)) for start in starts]


def is_causal_chunk(first: int, start: int, end: int, window: int) -> bool:
    """Return whether plain causal attention, which has faster kernels than masks, gives a chunk of `window_chunks`."""
    return first == start and end - start <= window


def flops_per_token(config: GPTConfig, length: int | None = None) -> float:
    """Return the training FLOPs per token, forward and backward, with 2 FLOPs per multiply-add.

    The formula is 6 · N + 12 · d · Σ K over the blocks (PaLM, arXiv:2204.02311, appendix B, which takes K = T). N is
    the number of multiplying weights, with the head but without embedding look-ups. K is the mean number of computed
    keys per query (`GPTConfig.keys`): (T + 1) / 2 for full causal attention, since fused kernels skip the other half.
    `torch.utils.flop_counter` counts the whole square of causal attention, 2T / (T + 1) times as much. With a window
    it counts the same, except for that factor on chunks without a mask.

    Args:
        config: Shape of the model.
        length: Tokens per sequence, 1 to the context; None: the context.

    Raises:
        RecipeError: The length is not an integer from 1 to the context.
    """
    length = config.context if length is None else length
    check_integer("length", length, 1, config.context)
    keys = sum(config.keys(window, length) for window in config.windows)
    return 6.0 * config.matmul_parameters + 12.0 * config.width * keys
