"""A text classifier: words or bytes of a text as the tokens of an encoder, and a head that reads their mean.

Short texts are filled up with padding, which is masked exactly: it is looked at by no token and counts in no
mean, so a text has the same logits, but for rounding, whatever it is batched with. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo_tune.recipe.data.labelled_texts import PADDING, encode_texts
from evo_tune.recipe.models.encoder_config import TextConfig
from evo_tune.training.models.encoder import Classifier

__all__ = ["TextClassifier"]


class TextClassifier(Classifier):
    """The model; see `Classifier` for its arguments."""

    config_class = TextConfig
    config: TextConfig

    def build(self, config: TextConfig) -> None:
        """Make the embeddings of tokens and positions."""
        self.embedding = nn.Embedding(config.vocabulary + 1, config.width)
        self.positions = nn.Embedding(config.length, config.width)

    def shortened(self, inputs: Tensor) -> Tensor:
        """Leave out the padding that all have, where that does not move what is dropped between which tokens."""
        return inputs if self.training and self.config.attention_dropout else without_padding(inputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, (batch, classes), of texts as `encode_texts` gives them, (batch, length)."""
        present = tokens != PADDING
        embedded = self.embedding(tokens.long()) + self.positions.weight[: tokens.shape[1]]
        x = self.encode(embedded, present[:, None, None])
        weight = present[..., None].to(x.dtype)
        logits: Tensor = self.head((x * weight).sum(1) / weight.sum(1) * self.config.readout)
        return logits

    def classify(self, texts: Sequence[str]) -> list[str]:
        """Return the label of each text."""
        return self.names(torch.from_numpy(encode_texts(texts, self.config)))


def without_padding(tokens: Tensor) -> Tensor:
    """Return texts on the CPU, (texts, length), without the padding that all of them have at their end."""
    longest = int((tokens != PADDING).sum(1).max()) if len(tokens) else 0
    return tokens[:, : max(1, longest)]
