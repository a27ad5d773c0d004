"""Encoders with a linear head: a base class, and its versions for images, texts and tables."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from evo_tune.training.hardware.device import run_block
from evo_tune.training.models.block import Block
from evo_tune.training.models.dropout import Dropout, DropPath
from evo_tune.training.models.model_files import SavedModel, TableFacts
from evo_tune.training.models.removed import restore_parts
from evo_tune.training.recipe.data.labelled_texts import PADDING
from evo_tune.training.recipe.data.tables import Columns
from evo_tune.training.recipe.models.encoder_config import (
    STEM,
    ConvConfig,
    EncoderConfig,
    FTConfig,
    TextConfig,
    ViTConfig,
)

C = TypeVar("C", bound="Encoder")


class EncoderBlock(Block):
    """A block with drop-path on its residual branches."""

    def __init__(self, config: EncoderConfig, drop_path: float) -> None:
        super().__init__(config)
        if drop_path:
            self.dropout = nn.Sequential(self.dropout, DropPath(drop_path))
            self.ffn_dropout = nn.Sequential(self.ffn_dropout, DropPath(drop_path))


class Encoder(SavedModel):
    """Base class of the encoders: a subclass builds its own parts in `build` and maps inputs to outputs.

    Args:
        config: Shape of the model.
        seed: Seed of the initial weights, drawn on the CPU from a separate generator.
        labels: Names of the outputs (classes, or the predicted number), in order; None: their numbers.

    Raises:
        RecipeError: The number of labels differs from the number of outputs.
    """

    # Recompute every n-th block in the backward pass: 1 for all blocks; None: none.
    recompute: int | None = None
    # Whether batches have different lengths (see `shorten`).
    lengths_vary: ClassVar[bool] = False

    def __init__(self, config: Any, seed: int = 0, *, labels: Sequence[str] | None = None) -> None:
        super().__init__(config, labels)
        with torch.random.fork_rng(devices=[]):  # the modules' own initialisation is overwritten
            self.dropout = Dropout(config.dropout)
            self.blocks = nn.ModuleList(self.make_blocks(config))
            self.norm = nn.LayerNorm(config.last_width)
            self.head = nn.Linear(config.head_inputs, config.outputs)
            self.build(config)
        self.initialise(torch.Generator().manual_seed(seed))
        if config.removed:
            restore_parts(self, config)

    def make_blocks(self, config: Any) -> Iterable[nn.Module]:
        """Return the blocks."""
        return (EncoderBlock(config, share) for share in config.drop_paths)

    def build(self, config: Any) -> None:
        """Build the parts that turn inputs into tokens; called before weights are initialised."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights N(0, 1/√fan-in), embeddings N(0, 0.02); residual branches and the head begin at zero.

        So each block begins as the identity, and the first loss is ln C exactly (see `GPTConfig.init`).
        """
        for module in self.modules():
            for name, weight in module.named_parameters(recurse=False):
                if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                    weight.fill_(1.0 if name == "weight" else 0.0)
                elif name == "bias":
                    weight.zero_()
                else:
                    matmul = isinstance(module, nn.Linear | nn.Conv2d)
                    std = 1.0 / math.sqrt(weight[0].numel()) if matmul else 0.02
                    weight.normal_(0.0, std, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        for name, weight in self.named_parameters():
            if name.endswith(".out.weight") or name == "head.weight":
                weight.zero_()

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pass tokens through the blocks.

        Args:
            x: (batch, tokens, width).
            mask: (batch, 1, 1, tokens), bool: tokens that may be attended to; None: all.

        Returns:
            (batch, tokens, width), normalised.
        """
        x = self.dropout(x)
        for number, block in enumerate(self.blocks):
            x = run_block(block, number, self.recompute, x, None, mask)
        normed: Tensor = self.norm(x)
        return normed

    def shorten(self, inputs: Tensor) -> Tensor:
        """Return inputs on the CPU without unneeded parts, such as padding; unchanged by default.

        It is called on the host before inputs are moved: a check on the device would have to wait for it.
        """
        return inputs

    def standardise(self, inputs: Tensor) -> None:
        """Store the scale of the training samples, (n, …); by default do nothing."""


class ImageEncoder(Encoder):
    """Base class of classifiers of images: their pixels are standardised."""

    mean: Tensor
    deviation: Tensor

    def build(self, config: Any) -> None:
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(config.channels, 1, 1))

    def standardise(self, images: Tensor) -> None:
        """Store the mean and deviation of each channel of training images, (n, channels, height, width)."""
        values = images.double()
        self.mean.copy_(values.mean((0, 2, 3))[:, None, None])
        spread = values.std((0, 2, 3), correction=0)[:, None, None]
        self.deviation.copy_(torch.where(spread > 0, spread, 1.0))

    def scale_pixels(self, images: Tensor) -> Tensor:
        """Return standardised pixels, (batch, channels, height, width)."""
        return (images.to(self.mean.dtype) - self.mean) / self.deviation


class ConvNet(ImageEncoder):
    """A convolutional network that classifies images; see `Encoder` for the arguments."""

    config_class = ConvConfig
    config: ConvConfig

    def make_blocks(self, config: ConvConfig) -> Iterable[nn.Module]:
        for number, (inputs, width) in enumerate(zip((config.channels, *config.widths), config.widths, strict=False)):
            layers: list[nn.Module] = [] if number == 0 else [nn.MaxPool2d(2)]
            for channels in (inputs, width):
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            yield nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (batch, classes), of images in pixel values, (batch, channels, height, width)."""
        x = self.scale_pixels(images)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x.mean((2, 3))))
        return logits


class ViT(ImageEncoder):
    """A Transformer that classifies images; see `Encoder` for the arguments."""

    config_class = ViTConfig
    config: ViTConfig

    def build(self, config: ViTConfig) -> None:
        """Build patch embedding, positions and stem."""
        super().build(config)
        self.patches = nn.Linear(config.patch_values, config.width)
        self.positions = nn.Embedding(config.tokens, config.width)
        self.stem = None
        if config.stem == "conv":
            first, second = (nn.Conv2d(n, STEM, 3, padding=1, bias=False) for n in (config.channels, STEM))
            self.stem = nn.Sequential(first, nn.BatchNorm2d(STEM), nn.GELU(), second, nn.BatchNorm2d(STEM), nn.GELU())

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the positions as large as the embedded patches, about 1, and the rest as in `Encoder`.

        At 0.02 they would be negligible next to the patches. A mean over tokens then loses positions, and small models
        take long to learn them.
        """
        super().initialise(generator)
        with torch.no_grad():
            self.positions.weight.normal_(0.0, 1.0, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (batch, classes), of images in pixel values, (batch, channels, height, width)."""
        x = self.scale_pixels(images)
        if self.stem is not None:
            x = self.stem(x)
        batch, channels, height, width = x.shape
        p = self.config.patch
        x = x.view(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        x = self.patches(x.reshape(batch, self.config.tokens, self.config.patch_values))
        x = self.encode(x + self.positions.weight)
        logits: Tensor = self.head(x.mean(1))
        return logits


class TextClassifier(Encoder):
    """A classifier of texts; see `Encoder` for the arguments."""

    config_class = TextConfig
    config: TextConfig
    lengths_vary = True

    def build(self, config: TextConfig) -> None:
        """Build the embeddings of tokens and positions."""
        self.embedding = nn.Embedding(config.vocabulary + 1, config.width)
        self.positions = nn.Embedding(config.length, config.width)

    def shorten(self, inputs: Tensor) -> Tensor:
        """Remove the padding common to all texts."""
        longest = int((inputs != PADDING).sum(1).max()) if len(inputs) else 0
        return inputs[:, : max(1, longest)]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, (batch, classes), of texts as `encode_texts` gives them, (batch, length)."""
        present = tokens != PADDING
        embedded = self.embedding(tokens.long()) + self.positions.weight[: tokens.shape[1]]
        x = self.encode(embedded, present[:, None, None])
        weight = present[..., None].to(x.dtype)
        logits: Tensor = self.head((x * weight).sum(1) / weight.sum(1))
        return logits


class Quantiles(nn.Module):
    """Maps each column of numbers to a normal distribution by rank, which limits the effect of outliers and skew.

    Its quantiles are buffers of the model, so an exported model accepts raw numbers.

    A number becomes its position among the training rows' quantiles, between 0 and 1, with linear interpolation. Among
    equal quantiles the middle is taken. The position becomes the standard normal value of that cumulative probability.
    `sklearn.preprocessing.QuantileTransformer` does the same except at the ends. It maps the smallest and the largest
    training number to 5.2 deviations; here they map to half a quantile from 0 and 1.

    Args:
        columns: Number of columns.
        count: Number of quantiles per column (int ≥ 2).
    """

    values: Tensor

    def __init__(self, columns: int, count: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.linspace(0.0, 1.0, count).repeat(columns, 1))

    def learn(self, rows: Tensor) -> None:
        """Store the quantiles of training rows, (n, columns), ignoring NaN; a column without numbers is unchanged."""
        shares = np.linspace(0.0, 1.0, self.values.shape[1])
        for column, numbers in enumerate(rows.double().cpu().numpy().T):
            present = numbers[~np.isnan(numbers)]
            if len(present):
                self.values[column] = torch.from_numpy(np.quantile(present, shares))

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows, (batch, columns), without missing numbers, mapped to normal distributions."""
        x = rows.T.contiguous()
        ranks = (self._place(x, right=False) + self._place(x, right=True)).T - 1.0  # -1 to 1
        return math.sqrt(2.0) * torch.erfinv(ranks * (1.0 - 1.0 / self.values.shape[1]))

    def _place(self, x: Tensor, right: bool) -> Tensor:
        """Return the position of numbers, (columns, batch), among quantiles, the first or the last of equal ones."""
        last = self.values.shape[1] - 1
        above = torch.searchsorted(self.values, x, right=right)
        lower = self.values.gather(1, (above - 1).clamp(0, last))
        upper = self.values.gather(1, above.clamp(0, last))
        gap = upper - lower
        share = torch.where(gap > 0, (x - lower) / torch.where(gap > 0, gap, 1.0), 0.0)
        return ((above - 1 + share) / last).clamp(0.0, 1.0)


class FTTransformer(TableFacts, Encoder):
    """A model of tables: a classifier, or with a scale a regression of one number.

    Args:
        config: Shape of the model.
        seed: Seed of the initial weights.
        labels: Names of the classes, in order, or of the predicted number; None: their numbers.
        columns: Names of the columns and their known categories; required by `evo_tune.load_model`.
        scale: Mean and standard deviation of the predicted number, whose standardised value is the output; None: the
            outputs are logits of classes.
    """

    config_class = FTConfig
    config: FTConfig
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        config: FTConfig,
        seed: int = 0,
        *,
        labels: Sequence[str] | None = None,
        columns: Columns | None = None,
        scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__(config, seed, labels=labels)
        self.set_table(config, columns, scale)
        self.register_buffer("mean", torch.zeros(config.numeric))
        self.register_buffer("deviation", torch.ones(config.numeric))
        self.quantiles = Quantiles(config.numeric, config.quantiles) if config.quantiles and config.numeric else None

    def build(self, config: FTConfig) -> None:
        """Build the tokens' weights. As embeddings they have no weight decay, as in the paper."""
        rows, width = sum(number + 1 for number in config.categories), config.width
        self.weights = nn.Embedding(config.numeric, width) if config.numeric else None
        self.missing = nn.Embedding(config.numeric, width) if config.numeric else None
        self.categories = nn.Embedding(rows, width) if rows else None
        self.offsets = nn.Embedding(config.tokens, width)  # the first is [CLS]
        self.blocks[0].attention_norm = nn.Identity()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the tokens' weights from ±1/√width, as in the paper, and the others as in `Encoder`.

        The width is the base model's if there is one: tokens do not shrink in a wider model.
        """
        super().initialise(generator)
        scaling = self.config.scaling
        bound = (self.config.width if scaling is None else scaling.width) ** -0.5
        with torch.no_grad():
            for part in (self.weights, self.categories, self.offsets):
                if part is not None:
                    part.weight.uniform_(-bound, bound, generator=generator)
            if self.missing is not None:
                self.missing.weight.zero_()

    def standardise(self, rows: Tensor) -> None:
        """Store quantiles, mean and deviation of each numeric column of training rows, (n, columns), ignoring NaN."""
        if self.quantiles is not None:
            self.quantiles.learn(rows[:, : self.config.numeric])
        values = rows[:, : self.config.numeric].double()
        mean = values.nanmean(0).nan_to_num()
        spread = ((values - mean) ** 2).nanmean(0).nan_to_num().sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, rows: Tensor) -> Tensor:
        """Return outputs, (batch, outputs), of rows as `Columns.encode` gives them, (batch, columns)."""
        numeric = self.config.numeric
        tokens = [self.offsets.weight.new_zeros(len(rows), 1, self.config.width)]
        if self.weights is not None and self.missing is not None:
            missing = rows[:, :numeric].isnan()
            x = torch.where(missing, self.mean, rows[:, :numeric])
            scaled = (x - self.mean) / self.deviation if self.quantiles is None else self.quantiles(x)
            x = torch.where(missing, 0.0, scaled)
            tokens.append(x[..., None] * self.weights.weight + missing[..., None] * self.missing.weight)
        if self.categories is not None:
            tokens.append(self.categories(rows[:, numeric:].long() + self.first))
        x = self.encode(torch.cat(tokens, 1) + self.offsets.weight)
        logits: Tensor = self.head(torch.relu(x[:, 0]))
        return logits
