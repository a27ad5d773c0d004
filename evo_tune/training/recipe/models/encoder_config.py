"""Shapes of the classifiers' encoders, with their parameters, FLOPs and memory by arithmetic.

This module does not load torch, so that a search can compute the size of a model before training. FLOPs are those of
training on one sample, forward and backward, with 2 per multiply-add. They agree with `torch.utils.flop_counter` for
attention by its plain formula. Element-wise operations are not counted. Memory is the memory that autograd keeps per
sample.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from evo_tune.errors import RecipeError
from evo_tune.options.declare import Options, check_integer, check_number, option
from evo_tune.training.recipe.models.gpt_config import hidden_width, uses_plain_products
from evo_tune.training.recipe.models.rules import ModelConfig

# Most weights of exponential smoothing (context times horizon).
LARGEST_SMOOTHING = 1 << 24

# Channels of the convolution stem.
STEM = 16


def nearest_divisor(width: int, heads: int, most: int) -> int:
    """Return the divisor of `width`, at most `most`, that is nearest to `heads`; the smaller one in a tie."""
    return min((n for n in range(1, most + 1) if width % n == 0), key=lambda n: (abs(n - heads), n))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """Shape common to all encoders: pre-norm blocks with full attention, and a linear head.

    Args:
        outputs: Number C of outputs: of classes, or of real numbers (int ≥ 1).
        depth: Number L of blocks.
        width: Width d of the residual stream, a multiple of heads.
        heads: Number of attention heads.
        ffn_mult: Width of the hidden layer of each block, as a multiple of d.
        dropout: Dropped share of the outputs of embeddings and residual branches, below 1.
        drop_path: Share of the samples that skip the last block in training, below 1. It falls linearly to 0 at the
            first block (arXiv:1603.09382).
        scaling: Parametrisation by size; None: standard.

    Raises:
        RecipeError: A field is out of its range or does not match another.
    """

    causal: ClassVar[bool] = False
    bias: ClassVar[bool] = True
    norm_eps: ClassVar[float] = 1e-5
    qk_norm: ClassVar[bool] = False

    # Fields of earlier versions, which model files contain.
    dropped: ClassVar[dict[str, object]] = {"attention_dropout": 0.0}

    outputs: int = option(bounds="[1, inf)")
    depth: int = option(4, bounds="[1, inf)")
    drop_path: float = option(0.0, bounds="[0, 1)")

    @property
    def gradient(self) -> float:
        """Size of the gradients outside of blocks and the head, relative to the base (see `models.rules`)."""
        return 1.0 if self.scaling is None else 1.0 / self.scaling.wider(self.width)

    @property
    def key_value_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.heads

    @property
    def ffn_width(self) -> int:
        """Width f of the hidden layer of each block."""
        return hidden_width(self.width, self.ffn_mult)

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """Share of the samples that skip each block."""
        return tuple(self.drop_path * block / max(1, self.depth - 1) for block in range(self.depth))

    @property
    def tokens(self) -> int:
        """Maximum number of tokens per sample."""
        raise NotImplementedError

    @property
    def last_width(self) -> int:
        """Channels after the last block."""
        return self.width

    @property
    def head_inputs(self) -> int:
        """Number of inputs of the head."""
        return self.last_width

    def passing_work(self, flops_per_sample: float) -> dict[str, float]:
        """Return the work of a token in a forward and a backward pass, by kind (see `computing.UNIT_COSTS`)."""
        attention = 12.0 * self.width * self.tokens * self.depth
        return {
            "products": max(0.0, flops_per_sample / self.tokens - attention),
            "attention": attention,
            "scores": float(self.heads * self.tokens * self.depth),
            "heads": self.depth * self.heads / self.tokens,
            "elements": float(self.depth * (8 * self.width + 2 * self.ffn_width)),
        }

    @property
    def encoder_parameters(self) -> int:
        """Number of parameters of blocks, final norm and head of h inputs: (4d² + 2df + 9d + f) L + 2d + hC + C."""
        d, f = self.width, self.ffn_width
        blocks = self.depth * (4 * d * d + 2 * d * f + 9 * d + f)
        return blocks + 2 * d + (self.head_inputs + 1) * self.outputs

    def encoder_flops(self, tokens: float) -> float:
        """Return the training FLOPs of blocks and head for one sample of `tokens` tokens."""
        d, f = self.width, self.ffn_width
        per_token = 6.0 * (4 * d * d + 2 * d * f) + 12.0 * d * tokens
        return self.depth * tokens * per_token + 6.0 * self.head_inputs * self.outputs

    def embedding_bytes(self, e: int) -> float:
        """Return the bytes per sample kept for the token embedding, with `e` bytes per number in products."""
        raise NotImplementedError

    def cast_parameters(self) -> int:
        """Return the number of weights that have a copy when products are in less than float32."""
        d, f = self.width, self.ffn_width
        return self.depth * (4 * d * d + 2 * d * f) + self.head_inputs * self.outputs

    def block_bytes(self, e: int, mask: int) -> float:
        """Return the bytes per sample that one block keeps for the backward pass.

        In float32 these are 16 numbers per channel, as in a GPT (see `memory.activation_bytes`).

        Args:
            e: Bytes per number in products.
            mask: Bytes per number of a dropout mask.
        """
        tokens, d = self.tokens, self.width
        norms = 2 * (4 + e) * d + 2 * 8  # inputs from the residual stream, outputs, two statistics each
        products = mask != 1 and uses_plain_products("fp32" if e == 4 else "bf16", tokens)
        # Queries, keys, values, result; attention weights, or one statistic of the softmax.
        attention = 4 * e * d + self.heads * (e * tokens if products else 4)
        dropped = 2 * mask * d if self.dropout else 0
        return float(tokens * (norms + attention + 2 * e * self.ffn_width + dropped))

    def activation_bytes(self, e: int, mask: int, recompute: int | None = None) -> float:
        """Return the bytes per sample that a pass keeps for the backward pass, without logits.

        Args:
            e: See `block_bytes`.
            mask: See `block_bytes`.
            recompute: Recompute every n-th block. Such a block keeps its input only, except one at a time, which is
                in memory in full. None: no block.
        """
        tokens, d, block = self.tokens, self.width, self.block_bytes(e, mask)
        ends = self.embedding_bytes(e) + tokens * (4 * d + 8)  # the last norm's inputs and statistics
        ends += tokens * d * (1 if mask == 1 else 4) if self.dropout else 0  # dropout there is in float32
        if recompute is None:
            return ends + self.depth * block
        recomputed = -(-self.depth // recompute)
        return ends + (self.depth - recomputed + 1) * block + recomputed * 4.0 * tokens * d


@dataclass(frozen=True, kw_only=True)
class ImageConfig(EncoderConfig):
    """Shape of a classifier of images.

    Args:
        channels: Channels of an image.
        image_height: Height of an image in pixels.
        image_width: Width of an image in pixels.
    """

    channels: int = option(3, bounds="[1, inf)")
    image_height: int = option(32, bounds="[1, inf)")
    image_width: int = option(32, bounds="[1, inf)")


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ImageConfig):
    """Shape of a Vision Transformer (Dosovitskiy et al., arXiv:2010.11929), whose tokens are square image patches.

    Args:
        patch: Side of a patch in pixels, a divisor of height and width.
        stem: 'none', or 'conv': two 3 × 3 convolutions with BatchNorm before the patches
            (after arXiv:2106.14881).
    """

    dropped: ClassVar[dict[str, object]] = {**EncoderConfig.dropped, "pooling": "mean"}

    patch: int = option(4, bounds="[1, inf)")
    stem: str = option("none", choices=("none", "conv"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_height % self.patch or self.image_width % self.patch:
            raise RecipeError("patch", self.patch, f"a divisor of {self.image_height} and {self.image_width} pixels")

    @property
    def tokens(self) -> int:
        """Number of patches per image."""
        return (self.image_height // self.patch) * (self.image_width // self.patch)

    @property
    def patch_values(self) -> int:
        """Number of values per patch."""
        return self.patch**2 * (self.channels if self.stem == "none" else STEM)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        d = self.width
        embedding = self.patch_values * d + d + self.tokens * d
        if self.stem == "conv":
            embedding += 9 * STEM * (self.channels + STEM) + 4 * STEM
        return embedding + self.encoder_parameters

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs per image; the pixels need no gradient."""
        first = 4.0 if self.stem == "none" else 6.0
        embedding = first * self.tokens * self.patch_values * self.width
        if self.stem == "conv":
            embedding += 9.0 * STEM * self.image_height * self.image_width * (4.0 * self.channels + 6.0 * STEM)
        return embedding + self.encoder_flops(self.tokens)

    def cast_parameters(self) -> int:
        # No copy of the first product's weights is kept: pixels need no gradient.
        stem_and_patches = self.patch_values * self.width + 9 * STEM * STEM if self.stem == "conv" else 0
        return stem_and_patches + super().cast_parameters()

    def embedding_bytes(self, e: int) -> float:
        """See `EncoderConfig`: patches; with a stem also the inputs of its convolutions, norms and GELUs."""
        pixels = self.image_height * self.image_width * (self.channels + 5 * STEM) if self.stem == "conv" else 0
        return float(e * (pixels + self.tokens * self.patch_values))


@dataclass(frozen=True, kw_only=True)
class ConvConfig(ImageConfig):
    """Shape of a convolutional network for images (after VGG, Simonyan & Zisserman, arXiv:1409.1556).

    A block is two 3 × 3 convolutions, each with BatchNorm and ReLU. Between two blocks, the largest of 2 × 2 pixels
    is taken, and the channels double. The head reads the mean of the pixels.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("depth", self.depth, 1, most_blocks(self.image_height, self.image_width))

    @property
    def tokens(self) -> int:
        """Number of pixels per image."""
        return self.image_height * self.image_width

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block."""
        return tuple(self.width << block for block in range(self.depth))

    @property
    def last_width(self) -> int:
        return self.widths[-1]

    @property
    def _blocks(self) -> list[tuple[int, int, int]]:
        """Channels in, channels out and pixels of each block."""
        inputs = (self.channels, *self.widths)
        pixels = [(self.image_height >> block) * (self.image_width >> block) for block in range(self.depth)]
        return list(zip(inputs, self.widths, pixels, strict=False))

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        blocks = sum(9 * width * (inputs + width) + 4 * width for inputs, width, _ in self._blocks)
        return blocks + 2 * self.last_width + (self.last_width + 1) * self.outputs

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs per image; the pixels need no gradient."""
        blocks = sum(54.0 * width * (inputs + width) * pixels for inputs, width, pixels in self._blocks)
        return blocks - 18.0 * self.channels * self.width * self.tokens + 6.0 * self.last_width * self.outputs

    def passing_work(self, flops_per_sample: float) -> dict[str, float]:
        elements = sum(6.0 * width * pixels for _, width, pixels in self._blocks)
        return {"convolutions": flops_per_sample / self.tokens, "elements": elements / self.tokens}

    def cast_parameters(self) -> int:
        blocks = sum(9 * width * (inputs + width) for inputs, width, _ in self._blocks)
        return blocks - 9 * self.channels * self.width + self.last_width * self.outputs

    def activation_bytes(self, e: int, mask: int, recompute: int | None = None) -> float:
        """Return the bytes per image that a pass keeps for the backward pass; no block is recomputed.

        A block keeps the inputs of its convolutions and norms, and its output where a pooling or the mean follows.
        """
        blocks = sum(e * pixels * (inputs + 4 * width) for inputs, width, pixels in self._blocks)
        pooled = sum(8 * inputs * pixels for inputs, _, pixels in self._blocks[1:])  # places of the largest pixels
        return float(blocks + pooled + 4 * self.last_width + (4 + e) * self.last_width + 8)


def most_blocks(height: int, width: int) -> int:
    """Return the most blocks of a `ConvConfig` for images of this size: each halves the sides."""
    return min(height, width).bit_length()


@dataclass(frozen=True, kw_only=True)
class PatchConfig(EncoderConfig):
    """Shape of a PatchTST (Nie et al., arXiv:2211.14730), whose tokens are patches of the past of one series.

    Patches overlap by half. As in the paper, the last value is repeated so that the last patch ends beyond the past,
    and the head reads all tokens.

    Args:
        context: Values of the past that are read.
        patch: Values in a patch, at most context.
        horizon: Values to forecast.
        levels: Quantiles to forecast, in order; empty: the mean. There are `horizon` outputs for each.
        past: Number of covariates that are known up to the last value.
        known: Number of covariates that are known ahead.
        smoothing: Whether the forecast of exponential smoothing is added (see `data.forecasts`); otherwise the mean.
    """

    context: int = option(bounds="[1, inf)")
    patch: int
    horizon: int = option(bounds="[1, inf)")
    levels: tuple[float, ...] = ()
    past: int = option(0, bounds="[0, inf)")
    known: int = option(0, bounds="[0, inf)")
    smoothing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "levels", tuple(self.levels))  # JSON has lists only
        check_integer("patch", self.patch, 1, self.context)
        for level in self.levels:
            check_number("levels", level, "(0, 1)")
        check_integer("outputs", self.outputs, outputs := self.horizon * max(1, len(self.levels)), outputs)
        if self.smoothing:  # the file of a stranger's model must not ask for more memory
            check_integer("context", self.context, 1, LARGEST_SMOOTHING // self.horizon)

    @property
    def window_values(self) -> int:
        """Values of a window: the past, or with covariates past and horizon of the series and of each covariate."""
        covariates = self.past + self.known
        return self.context + (self.horizon + covariates * (self.context + self.horizon) if covariates else 0)

    @property
    def stride(self) -> int:
        """Values between the starts of two patches."""
        return max(1, self.patch // 2)

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return (self.context - self.patch) // self.stride + 2

    @property
    def head_inputs(self) -> int:
        """Number of inputs of the head: those of all tokens."""
        return self.tokens * self.width

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, with the embedding of patches and positions, and the effect of covariates."""
        effect = (self.known + 2) * self.width + 1 if self.known else 0
        return (self.patch * (1 + self.past) + 1 + self.tokens) * self.width + effect + self.encoder_parameters

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs of one window; its values need no gradient, unless the effect of covariates is subtracted."""
        embedding = (6.0 if self.known else 4.0) * self.tokens * self.patch * (1 + self.past) * self.width
        effect = (4.0 * self.known + 6.0) * (self.context + self.horizon) * self.width if self.known else 0.0
        if self.smoothing:
            effect += (4.0 if self.known else 2.0) * self.context * self.horizon
        return embedding + effect + self.encoder_flops(self.tokens)

    def embedding_bytes(self, e: int) -> float:
        """See `EncoderConfig`: the patches, the inputs of the head, and the past less the effect of covariates."""
        steps = self.context + self.horizon
        effect = e * steps * (self.known + 2 * self.width) + 16 * self.context if self.known else 0
        return float(e * self.tokens * (self.patch * (1 + self.past) + self.width) + effect)


@dataclass(frozen=True, kw_only=True)
class FTConfig(EncoderConfig):
    """Shape of an FT-Transformer (Gorishniy et al., arXiv:2106.11959): one token per column, and one for the head.

    Args:
        numeric: Number of numeric columns (int ≥ 0).
        categories: Number of categories of each categorical column (int ≥ 1).
        quantiles: Number of quantiles that map numbers to a normal distribution (see `Quantiles`); 0: standardise.
    """

    dropped: ClassVar[dict[str, object]] = {**EncoderConfig.dropped, "ffn": "gelu"}

    numeric: int = option(1, bounds="[0, inf)")
    categories: tuple[int, ...] = ()
    quantiles: int = option(0, bounds="[0, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "categories", tuple(self.categories))  # JSON has lists only
        if self.quantiles == 1:
            raise RecipeError("quantiles", 1, "two or more, or 0 for none")
        for number in self.categories:
            check_integer("categories", number, 1)
        if self.tokens < 2:
            raise RecipeError("numeric", self.numeric, "a column at least, numeric or categorical")

    @property
    def tokens(self) -> int:
        """Number of tokens per row."""
        return self.numeric + len(self.categories) + 1

    @property
    def parameters(self) -> int:
        """Number of trainable parameters.

        A numeric column has a weight, an offset, and an embedding of missing values. A categorical column has an
        offset, and an embedding for each category and for unknown ones. The first block has no norm before its
        attention.
        """
        categorical = sum(number + 1 for number in self.categories) + len(self.categories)
        return self.width * (3 * self.numeric + categorical + 1 - 2) + self.encoder_parameters

    @property
    def tables(self) -> int:
        return self.numeric * (self.quantiles + 2)

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs per row."""
        return self.encoder_flops(self.tokens)

    def embedding_bytes(self, e: int) -> float:
        """See `EncoderConfig`: numbers, missing-value masks and categories, less the first block's absent norm."""
        read = 4 * self.width  # one token, the input of the head
        return 5.0 * self.numeric + 8.0 * len(self.categories) + read - self.tokens * (4 * self.width + 8)


@dataclass(frozen=True, kw_only=True)
class QuantileOptions(Options):
    """Scaling of a table's numbers."""

    quantiles: int | Literal["auto"] | None = option(
        "auto",
        bounds="[2, 10000]",
        help="Number of quantiles of the training rows that map numbers to a normal distribution, robust to outliers; "
        "auto: a third of these rows, up to 1000; none: standardise instead",
    )

    def quantiles_of(self, rows: int) -> int:
        """Return the number of quantiles for `rows` training rows; 0: none."""
        return min(1000, max(2, rows // 3)) if self.quantiles == "auto" else self.quantiles or 0


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """Shape of a text classifier, which reads the first tokens of a text and averages them for the head.

    Args:
        unit: Kind of token: 'bytes', or 'words' (and punctuation marks) by their hash (arXiv:0902.2206). Neither is
            fitted to the text.
        length: Maximum number of tokens read per text.
        buckets: Number of word hashes; words with the same hash share a token.
    """

    unit: str = option("words", choices=("words", "bytes"))
    length: int = option(32, bounds="[1, inf)")
    buckets: int = option(4096, bounds=f"[1, {2**24}]")

    @property
    def tokens(self) -> int:
        """Maximum number of tokens per text."""
        return self.length

    @property
    def vocabulary(self) -> int:
        """Number of different tokens, without padding."""
        return 256 if self.unit == "bytes" else self.buckets

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, with an embedding per token, per position and for padding."""
        return self.width * (self.vocabulary + 1 + self.length) + self.encoder_parameters

    def flops_per_sample(self, tokens: float) -> float:
        """Return the training FLOPs of one text of `tokens` tokens."""
        return self.encoder_flops(min(tokens, self.length))

    def embedding_bytes(self, e: int) -> float:
        """See `EncoderConfig`: the tokens and their padding mask."""
        return 12.0 * self.length
