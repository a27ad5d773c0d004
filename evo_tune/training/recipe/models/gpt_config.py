"""Shape of a GPT: options, parameters and FLOPs.

This module does not load torch, so that a search can compute the size of a model before training.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from evo_tune.errors import RecipeError
from evo_tune.options.declare import Options, check_integer, check_name, fixed_option, option, redeclare
from evo_tune.training.recipe.models.rules import ModelConfig

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
class GPTShape:
    """Architecture of a GPT."""

    # Fields of `GPTConfig` that are options of an evaluator too. Parts that cost loss at equal time are not here:
    # gates, squared ReLU, RMSNorm, an untied head, bounded logits, a z-loss (benchmarks/LOG.md, "Parts of a GPT").
    position: str = option("rope", choices=("learned", "rope"), help="Position encoding")
    window: int | None = option(
        None, bounds="[1, inf)", unit="tokens", help="Tokens that a token attends to, at most the context; none: all"
    )
    ffn_mult: float = option(
        4.0, bounds="(0, 64]", gene="2.0|2.667|4.0", help="Width of feed-forward layers, as a multiple of the model's"
    )
    kv_heads: int | None = option(
        None, bounds="[1, inf)", help="Most heads of keys and values, rounded down to a divisor of heads; none: heads"
    )
    # It costs loss in short trainings, but allows higher learning rates, so it is a gene of `language_model`.
    qk_norm: bool = option(False, help="Normalise queries and keys before their product")
    value_embeddings: bool = option(False, help="Add embeddings of the tokens to the values of every second block")
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
    extension: str = fixed_option(
        "linear",
        choices=("linear", "ntk", "yarn"),
        help="Extension of positions after extend_from; ntk and yarn need rope",
    )


@dataclass(frozen=True, kw_only=True)
class GPTConfig(GPTShape, ModelConfig):
    """Shape of a decoder-only Transformer, pre-norm and causal. The defaults are GPT-2's, without biases.

    Args:
        vocab_size: Number V of tokens (int ≥ 2); 256 for bytes.
        context: Longest sequence T, in tokens.
        depth: Number L of blocks.
        width: Width d of the residual stream, a multiple of heads.
        heads: Number of attention heads.
        ffn_mult: Width of the hidden layer of each block, as a multiple of d.
        dropout: Dropped share of the outputs of embeddings and residual branches, below 1.
        init: Initialisation of weights. 'normal': N(0, 0.02), outputs of residual branches smaller by 1/√(2L)
            (GPT-2). 'fan_in': N(0, 1/√fan-in) in hidden layers, outputs of residual branches at zero, so that each
            block starts as the identity. It suits small widths: at width 32, 0.02 is nine times less than
            1/√fan-in, and models stay long at the loss of letter pairs.
        position: 'learned', or 'rope' (rotary, needs an even number of channels per head).
        extended_from: Context before an extension, in tokens (see `extend_context`); None: not extended.
        extension: Method of the extension: 'linear', or with rope also 'ntk' or 'yarn'.
        window: Tokens that a token attends to, including itself, 1 to the context; None: all earlier ones.
        kv_heads: Heads of keys and values, a divisor of heads (grouped-query attention); None: heads.
        qk_norm: Whether queries and keys are normalised before their product.
        value_embeddings: Whether every second block, from the last one back, adds an embedding of each token to its
            values. The embeddings begin at zero.
        ngrams: Length n of the longest sequences of tokens that end at a token and whose embeddings are added to the
            token's, one of each length from 2 to n (Byte Latent Transformer, arXiv:2412.09871); 1: none. The
            embeddings begin at zero.
        ngram_rows: Rows of each table of n-gram embeddings; n-grams that share a hash share a row.
        norm_eps: ε that norms add to the variance or mean square, above 0.
        scaling: Parametrisation by size; None: standard.
        boundary: Token that ends a document: tokens attend only to tokens of their own document. None: to all.

    Raises:
        RecipeError: A field is out of its range or does not match another.
    """

    causal: ClassVar[bool] = True
    bias: ClassVar[bool] = False
    tied: ClassVar[bool] = True

    # Fields of earlier versions, which model files contain.
    dropped: ClassVar[dict[str, object]] = {
        "attention_dropout": 0.0,
        "bias": False,
        "tied": True,
        "rope_base": 10000.0,
        "window_pattern": "S",
        "ffn": "gelu",
        "ffn_multiple": 8,
        "norm": "layernorm",
        "softcap": 0.0,
        "residual_scaling": False,
    }

    vocab_size: int = option(256, bounds="[2, inf)")
    context: int = option(128, bounds="[1, inf)")
    init: str = option("normal", choices=("normal", "fan_in"))
    position: str = redeclare(GPTShape, "position", "learned", reason="as in GPT-2")
    extended_from: int | None = None
    norm_eps: float = option(1e-5, bounds="(0, 1)")
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
    def reach(self) -> int:
        """Tokens that a token attends to, including itself."""
        return self.context if self.window is None else self.window

    @property
    def embeds_values(self) -> tuple[bool, ...]:
        """Whether each block has value embeddings."""
        return tuple(self.value_embeddings and (self.depth - layer) % 2 == 1 for layer in range(self.depth))

    @property
    def tables(self) -> int:
        positions = 0 if self.position == "learned" else self.context * self.width
        return positions + (self.chunk * (self.chunk + self.reach) if self.reach < self.context else 0)

    @property
    def chunk(self) -> int:
        """Queries per chunk of windowed attention, at least 32: about half a window, in at most 16 chunks.

        Up to a context of 256 tokens, one chunk has all queries.
        """
        if self.context <= LONGEST_WHOLE:
            return self.context
        return max(SHORTEST_CHUNK, -(-self.reach // 2), -(-self.context // MOST_CHUNKS))

    def keys(self, length: int) -> float:
        """Return the mean number of keys that a block multiplies with a query, in a sequence of `length`.

        Without a window these are the query's own and earlier positions, (T + 1) / 2 on average. With a window they
        are the computed keys: all keys of a chunk's mask, and only the earlier ones in chunks without a mask. A window
        of more than about half the sequence therefore computes more keys than full attention. A mask over the whole
        sequence, of a short context or of documents, saves nothing and counts as full attention.

        Args:
            length: Tokens T per sequence.
        """
        window = self.reach
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
        return hidden_width(self.width, self.ffn_mult)

    @property
    def block_outputs(self) -> int:
        """Number of outputs of a block's linear layers: q, k, v, attention output, and feed-forward."""
        d = self.width
        return 2 * d + 2 * d * self.key_value_heads // self.heads + self.ffn_width + d

    @property
    def matmul_parameters(self) -> int:
        """Number of weights that multiply each token: 4d² + 2df per block, and dV of the head.

        Shared keys and values reduce the number.
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
        """Number of trainable parameters; the head is the embedding."""
        d = self.width
        norms = (2 * self.depth + 1) * d
        if self.qk_norm:
            norms += self.depth * 2 * (d // self.heads)
        embeddings = self.embedding_rows * d
        embeddings += sum(self.embeds_values) * self.vocab_size * d * self.key_value_heads // self.heads
        return self.matmul_parameters - d * self.vocab_size + norms + embeddings


def hidden_width(width: int, ffn_mult: float) -> int:
    """Return the width f of the hidden layer of a block."""
    return max(1, round(ffn_mult * width))


@dataclass(frozen=True, kw_only=True)
class GPTShapeOptions(GPTShape, Options):
    """Shape of a GPT apart from its size, and its growth."""

    # Options of earlier versions.
    dropped: ClassVar[dict[str, object]] = {**GPTConfig.dropped, "init": "fan_in"}

    extend_from: int | None = fixed_option(
        None, bounds="[2, inf)", unit="tokens", help="Shorter context at the start of the training; none: no extension"
    )
    extend_share: float = option(0.2, bounds="(0, 1)", help="Share of the budget at the full context")

    @staticmethod
    def is_slow_window(window: int, context: int) -> bool:
        """Return whether a window is the whole context, or may take more time than none (benchmarks/LOG.md)."""
        return window >= context or (context > LONGEST_WHOLE and 4 * window > context)

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
        values = {field.name: getattr(self, field.name) for field in fields(GPTShape)}
        if self.window is not None and self.window >= (self.extend_from or context):
            values["window"] = None
        values["kv_heads"] = largest_head_divisor(sizes["heads"], self.kv_heads)
        # fan_in suits small widths: "init normal" costs .03 nats (benchmarks/LOG.md, "Parts of a GPT").
        return GPTConfig(
            **values, **sizes, vocab_size=vocab, context=context, extended_from=self.extend_from, init="fan_in"
        )


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

    The formula is 6 · N + 12 · d · L · K for L blocks (PaLM, arXiv:2204.02311, appendix B, which takes K = T). N is
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
    return 6.0 * config.matmul_parameters + 12.0 * config.width * (config.depth * config.keys(length))
