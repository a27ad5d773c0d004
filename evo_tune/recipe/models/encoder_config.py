"""The shapes of the classifiers' encoders, and what follows from them by arithmetic: parameters, FLOPs, memory.

No torch here, so that a search can know a model's size before it trains one. FLOPs are those of training on
one sample, forward and backward, 2 a multiply-add, and agree with `torch.utils.flop_counter` where attention
is computed by its plain formula. Element-wise work is not counted. Memory is what autograd keeps of one sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.options.declare import Options, option
from evo_tune.recipe.models.gpt_config import ModelConfig, by_products
from evo_tune.recipe.models.rules import Parametrisation

STEM = 16
"""Channels of the convolution stem."""


def nearest_divisor(width: int, heads: int, most: int) -> int:
    """Return the number of heads up to `most` that divides the width and is nearest to `heads`, ties down."""
    return min((n for n in range(1, most + 1) if width % n == 0), key=lambda n: (abs(n - heads), n))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """What every encoder has: pre-norm blocks in which each token sees all others, and a linear head.

    Args:
        classes: Number of classes, 2 or more.
        depth: Number L of blocks.
        width: Width d of the residual stream, a multiple of heads.
        heads: Attention heads.
        ffn_mult: Width of the hidden layer of each block, as a multiple of d.
        dropout: Share of the embeddings' and residual branches' outputs that is dropped, below 1.
        attention_dropout: Share of the attention weights that is dropped, below 1.
        drop_path: Share of the samples for which the last block is left out in training, below 1; for
            earlier blocks it is less, in proportion, and 0 for the first (arXiv:1603.09382).
        scaling: How it depends on its size; None: as ever.

    Raises:
        RecipeError: A field is out of its range, or does not fit another.
    """

    causal: ClassVar[bool] = False
    bias: ClassVar[bool] = True
    norm_eps: ClassVar[float] = 1e-5
    qk_norm: ClassVar[bool] = False
    ffn: ClassVar[str] = "gelu"

    classes: int
    depth: int = 4
    width: int = 64
    heads: int = 4
    ffn_mult: float = 4.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    scaling: Parametrisation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("classes", self.classes, 2)
        for name in ("depth", "width", "heads"):
            check_integer(name, getattr(self, name), 1)
        if self.width % self.heads:
            raise RecipeError("heads", self.heads, f"a divisor of width={self.width}")
        check_number("ffn_mult", self.ffn_mult, "(0, 64]")
        for name in ("dropout", "attention_dropout", "drop_path"):
            check_number(name, getattr(self, name), "[0, 1)")

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads

    @property
    def ffn_width(self) -> int:
        """Width f of the hidden layer of each block."""
        return max(1, round(self.ffn_mult * self.width))

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """Share of the samples for which each block is left out."""
        return tuple(self.drop_path * block / max(1, self.depth - 1) for block in range(self.depth))

    @property
    def tokens(self) -> int:
        """Most tokens of a sample."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        raise NotImplementedError

    @property
    def encoder_parameters(self) -> int:
        """Parameters of blocks, final norm and head: (4d² + 2df + 9d + f) L + 2d + dC + C."""
        d, f = self.width, self.ffn_width
        return self.depth * (4 * d * d + 2 * d * f + 9 * d + f) + 2 * d + d * self.classes + self.classes

    def encoder_flops(self, tokens: float) -> float:
        """Return the FLOPs of blocks and head for one sample of so many tokens."""
        d, f = self.width, self.ffn_width
        per_token = 6.0 * (4 * d * d + 2 * d * f) + 12.0 * d * tokens
        return self.depth * tokens * per_token + 6.0 * d * self.classes

    def first_bytes(self, e: int) -> float:
        """Return the bytes kept of one sample of what makes tokens of it, in products of `e` bytes a number."""
        raise NotImplementedError

    def copied_parameters(self) -> int:
        """Return the weights of products, of which there is a copy where these are in less than float32."""
        d, f = self.width, self.ffn_width
        return self.depth * (4 * d * d + 2 * d * f) + d * self.classes

    def block_bytes(self, e: int, mask: int) -> float:
        """Return the bytes that one block keeps of one sample for the backward pass.

        In float32 16 numbers a channel, as in a GPT's (see `memory.activation_bytes`).

        Args:
            e: Bytes of a number in products.
            mask: Bytes of a number that says whether a channel is dropped.
        """
        tokens, d = self.tokens, self.width
        norms = 2 * (4 + e) * d + 2 * 8  # inputs from the residual stream, outputs, two statistics each
        products = mask != 1 and not self.attention_dropout and by_products("fp32" if e == 4 else "bf16", tokens)
        # Queries, keys, values, result; the weights between tokens, or one statistic of the softmax.
        attention = 4 * e * d + self.heads * (e * tokens if products else 4)
        dropped = 2 * mask * d if self.dropout else 0
        between = (2 * e + mask) * self.heads * tokens if self.attention_dropout else 0
        return float(tokens * (norms + attention + 2 * e * self.ffn_width + dropped + between))

    def kept_bytes(self, e: int, mask: int, recompute: int | None = None) -> float:
        """Return the bytes that a pass of one sample keeps for the backward pass, logits not counted.

        Args:
            e: See `block_bytes`.
            mask: See `block_bytes`.
            recompute: Every so-manieth block is computed again, so that of it there is its input only, and of one
                such block at a time everything; None: none is.
        """
        tokens, d, block = self.tokens, self.width, self.block_bytes(e, mask)
        ends = self.first_bytes(e) + tokens * (4 * d + 8)  # the last norm's inputs and statistics
        ends += tokens * d * (1 if mask == 1 else 4) if self.dropout else 0  # what is dropped there is in float32
        if recompute is None:
            return ends + self.depth * block
        again = -(-self.depth // recompute)
        return ends + (self.depth - again + 1) * block + again * 4.0 * tokens * d


@dataclass(frozen=True, kw_only=True)
class ViTConfig(EncoderConfig):
    """A Vision Transformer (Dosovitskiy et al., arXiv:2010.11929): square patches of an image are its tokens.

    Args:
        channels: Channels of an image.
        image_height: Its pixels from top to bottom, a multiple of patch.
        image_width: Its pixels from left to right, a multiple of patch.
        patch: Pixels along a side of a patch.
        pooling: What the head sees: 'mean' of the tokens, or a token of its own, 'cls'.
        stem: 'none', or 'conv': two 3 × 3 convolutions with BatchNorm before the patches
            (after arXiv:2106.14881).
    """

    channels: int = 3
    image_height: int = 32
    image_width: int = 32
    patch: int = 4
    pooling: str = "mean"
    stem: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "image_height", "image_width", "patch"):
            check_integer(name, getattr(self, name), 1)
        if self.image_height % self.patch or self.image_width % self.patch:
            raise RecipeError("patch", self.patch, f"a divisor of {self.image_height} and {self.image_width} pixels")
        check_name("pooling", self.pooling, ("mean", "cls"))
        check_name("stem", self.stem, ("none", "conv"))

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_height // self.patch) * (self.image_width // self.patch)

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.patches + (self.pooling == "cls")

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.patch**2 * (self.channels if self.stem == "none" else STEM)

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        d = self.width
        own = self.patch_values * d + d + self.tokens * d + (d if self.pooling == "cls" else 0)
        if self.stem == "conv":
            own += 9 * STEM * (self.channels + STEM) + 4 * STEM
        return own + self.encoder_parameters

    @property
    def flops_per_sample(self) -> float:
        """FLOPs of training on one image; the pixels themselves need no gradient."""
        first = 4.0 if self.stem == "none" else 6.0
        own = first * self.patches * self.patch_values * self.width
        if self.stem == "conv":
            own += 9.0 * STEM * self.image_height * self.image_width * (4.0 * self.channels + 6.0 * STEM)
        return own + self.encoder_flops(self.tokens)

    def copied_parameters(self) -> int:
        # The first product's weights are not needed for the gradient: pixels have none.
        own = self.patch_values * self.width + 9 * STEM * STEM if self.stem == "conv" else 0
        return own + super().copied_parameters()

    def first_bytes(self, e: int) -> float:
        """See `EncoderConfig`: patches; of a stem each convolution's inputs, and what norms and GELUs saw."""
        pixels = self.image_height * self.image_width * (self.channels + 5 * STEM) if self.stem == "conv" else 0
        return float(e * (pixels + self.patches * self.patch_values))


@dataclass(frozen=True, kw_only=True)
class FTConfig(EncoderConfig):
    """FT-Transformer (Gorishniy et al., arXiv:2106.11959): each column of a table is a token, with one more to read.

    Args:
        numeric: Number of numeric columns.
        categories: Number of categories of each categorical column, 1 or more each.
        quantiles: By how many quantiles numbers get a normal distribution (see `Quantiles`); 0: they are standardised.
    """

    numeric: int = 1
    categories: tuple[int, ...] = ()
    quantiles: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "categories", tuple(self.categories))  # JSON knows lists only
        check_integer("numeric", self.numeric, 0)
        check_integer("quantiles", self.quantiles, 0)
        if self.quantiles == 1:
            raise RecipeError("quantiles", 1, "two or more, or 0 for none")
        for number in self.categories:
            check_integer("categories", number, 1)
        if self.tokens < 2:
            raise RecipeError("numeric", self.numeric, "a column at least, numeric or categorical")

    @property
    def tokens(self) -> int:
        """Tokens of a row."""
        return self.numeric + len(self.categories) + 1

    @property
    def parameters(self) -> int:
        """Trainable parameters: a column of numbers has a weight, an offset and a stand-in for missing ones.

        A column of categories has an embedding of each and of what is none of them, and an offset. The
        first block has no norm before its attention.
        """
        categorical = sum(number + 1 for number in self.categories) + len(self.categories)
        return self.width * (3 * self.numeric + categorical + 1 - 2) + self.encoder_parameters

    @property
    def flops_per_sample(self) -> float:
        """FLOPs of training on one row."""
        return self.encoder_flops(self.tokens)

    def first_bytes(self, e: int) -> float:
        """See `EncoderConfig`: numbers, which are missing, which categories; but the first block has no norm."""
        read = 4 * self.width  # by the head, of one token
        return 5.0 * self.numeric + 8.0 * len(self.categories) + read - self.tokens * (4 * self.width + 8)


@dataclass(frozen=True, kw_only=True)
class Quantiling(Options):
    """How a table's numbers are brought to one scale."""

    quantiles: int | Literal["auto"] | None = option(
        "auto",
        bounds="[2, 10000]",
        help="Numbers by rank, made normal, which outliers cannot stretch: by how many quantiles of the training rows; "
        "auto: a third of these rows, up to 1000; none: they are standardised",
    )

    def quantiles_of(self, rows: int) -> int:
        """Return by how many quantiles of so many training rows; 0: none."""
        return min(1000, max(2, rows // 3)) if self.quantiles == "auto" else self.quantiles or 0


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """A text classifier: it sees the first tokens of a text, and reads their mean.

    Args:
        unit: What a token is: 'bytes', or 'words' and punctuation marks, each by its hash (arXiv:0902.2206): neither
            has anything to be fitted to a text.
        length: Tokens of a text that are seen, at most.
        buckets: Number of hashes of words; words that share one are the same to the model.
    """

    unit: str = "words"
    length: int = 32
    buckets: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("unit", self.unit, ("words", "bytes"))
        check_integer("length", self.length, 1)
        check_integer("buckets", self.buckets, 1, 2**24)

    @property
    def tokens(self) -> int:
        """Most tokens of a text."""
        return self.length

    @property
    def vocabulary(self) -> int:
        """Different tokens, padding not counted."""
        return 256 if self.unit == "bytes" else self.buckets

    @property
    def parameters(self) -> int:
        """Trainable parameters: an embedding of each token and of padding, and one of each position."""
        return self.width * (self.vocabulary + 1 + self.length) + self.encoder_parameters

    def flops_per_sample(self, tokens: float) -> float:
        """Return the FLOPs of training on one text of so many tokens."""
        return self.encoder_flops(min(tokens, self.length))

    def first_bytes(self, e: int) -> float:
        """See `EncoderConfig`: which tokens, and which of them count."""
        return 12.0 * self.length
