"""ViT: an image's patches as the tokens of an encoder (Dosovitskiy et al., arXiv:2010.11929).

Inputs are raw pixel values: the model carries the mean and deviation of its training images, so that what is
exported takes images as they come. Knows nothing of files or training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo_tune.recipe.models.encoder_config import STEM, ViTConfig
from evo_tune.training.models.encoder import Classifier

__all__ = ["ViT"]


class ViT(Classifier):
    """The model; see `Classifier` for its arguments."""

    config_class = ViTConfig
    config: ViTConfig
    mean: Tensor
    deviation: Tensor

    def build(self, config: ViTConfig) -> None:
        """Make patch embedding, positions and stem."""
        self.patches = nn.Linear(config.patch_values, config.width)
        self.positions = nn.Embedding(config.tokens, config.width)
        self.cls = nn.Embedding(1, config.width) if config.pooling == "cls" else None
        self.stem = None
        if config.stem == "conv":
            first, second = (nn.Conv2d(n, STEM, 3, padding=1, bias=False) for n in (config.channels, STEM))
            self.stem = nn.Sequential(first, nn.BatchNorm2d(STEM), nn.GELU(), second, nn.BatchNorm2d(STEM), nn.GELU())

    def __init__(self, config: ViTConfig, seed: int = 0, *, labels: Sequence[str] | None = None) -> None:
        super().__init__(config, seed, labels=labels)
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(config.channels, 1, 1))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the positions as large as the embedded patches, about 1, and the rest as every classifier does.

        At 0.02 they are lost beside the patches: a mean over tokens cannot tell where what is, and small
        models take long to find out.
        """
        super().initialise(generator)
        with torch.no_grad():
            self.positions.weight.normal_(0.0, 1.0, generator=generator)

    def standardise(self, images: Tensor) -> None:
        """Take the mean and deviation of each channel from training images, (n, channels, height, width)."""
        values = images.double()
        self.mean.copy_(values.mean((0, 2, 3))[:, None, None])
        spread = values.std((0, 2, 3), correction=0)[:, None, None]
        self.deviation.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (batch, classes), of images in pixel values, (batch, channels, height, width)."""
        x = (images.to(self.mean.dtype) - self.mean) / self.deviation
        if self.stem is not None:
            x = self.stem(x)
        batch, channels, height, width = x.shape
        p = self.config.patch
        x = x.view(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        x = self.patches(x.reshape(batch, self.config.patches, self.config.patch_values))
        if self.cls is not None:
            x = torch.cat((self.cls.weight.expand(batch, 1, -1), x), 1)
        x = self.encode(x + self.positions.weight)
        logits: Tensor = self.head((x.mean(1) if self.cls is None else x[:, 0]) * self.config.readout)
        return logits

    def classify(self, images: Tensor) -> list[str]:
        """Return the label of each image, (n, channels, height, width), in the pixel values of the training."""
        return self.names(images)
