"""FT-Transformer: a table's columns as the tokens of an encoder (Gorishniy et al., arXiv:2106.11959).

A number x of column j becomes the token b_j + x · w_j, a category b_j + its embedding; one more token, [CLS],
reads them all. As in the paper the first block has no norm before its attention, and the head is
Linear(ReLU(LayerNorm(x))). The feed-forward layers have a GELU where the paper's have a ReGLU. Numbers are made normal
by their quantiles, as in the paper, or standardised. A missing one counts as the column's middle, plus an embedding of
its own that begins at zero. Knows nothing of files or training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.recipe.data.tables import Columns
from evo_tune.recipe.models.encoder_config import FTConfig
from evo_tune.training.models.encoder import Classifier

__all__ = ["FTTransformer", "Quantiles"]


class Quantiles(nn.Module):
    """Gives each column of numbers a normal distribution, by rank: what outliers and skew cannot stretch.

    Its quantiles are buffers of the model, so an exported one takes numbers as they come.

    A number becomes its place among the training rows' quantiles, between 0 and 1, linear between two of them; of equal
    quantiles the middle is taken. The place becomes what a standard normal variable is below with that probability.
    `sklearn.preprocessing.QuantileTransformer` does the same, but for the ends: there the smallest and the largest
    number of the training rows stand 5.2 deviations out whatever they are, here half a quantile from 0 and 1.

    Args:
        columns: Number of columns.
        count: Quantiles of each, 2 or more.
    """

    values: Tensor

    def __init__(self, columns: int, count: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.linspace(0.0, 1.0, count).repeat(columns, 1))

    def learn(self, rows: Tensor) -> None:
        """Take the quantiles of training rows, (n, columns), missing numbers (NaN) left out; of none: as they are."""
        places = torch.linspace(0.0, 1.0, self.values.shape[1], dtype=torch.float64)
        for column, numbers in enumerate(rows.double().cpu().T):
            present = numbers[~numbers.isnan()].sort().values
            if len(present):
                at = places * (len(present) - 1)
                low, high = present[at.floor().long()], present[at.ceil().long()]
                self.values[column] = torch.maximum(low, low + (high - low) * (at - at.floor())).to(self.values)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the numbers of rows, (batch, columns), without missing ones, as normal ones."""
        x = rows.T.contiguous()
        both = (self._place(x, right=False) + self._place(x, right=True)).T - 1.0  # -1 to 1
        return math.sqrt(2.0) * torch.erfinv(both * (1.0 - 1.0 / self.values.shape[1]))

    def _place(self, x: Tensor, right: bool) -> Tensor:
        """Return where numbers, (columns, batch), lie among the quantiles, the first or the last of equal ones."""
        last = self.values.shape[1] - 1
        above = torch.searchsorted(self.values, x, right=right)
        lower = self.values.gather(1, (above - 1).clamp(0, last))
        upper = self.values.gather(1, above.clamp(0, last))
        gap = upper - lower
        share = torch.where(gap > 0, (x - lower) / torch.where(gap > 0, gap, 1.0), 0.0)
        return ((above - 1 + share) / last).clamp(0.0, 1.0)


class FTTransformer(Classifier):
    """The model.

    Args:
        config: Its shape.
        seed: Seed of the initial weights.
        labels: Names of the classes, in order; None: their numbers.
        columns: What the columns are called and which categories they know; `classify` needs it.
    """

    config_class = FTConfig
    config: FTConfig
    mean: Tensor
    deviation: Tensor
    first: Tensor

    def __init__(
        self,
        config: FTConfig,
        seed: int = 0,
        *,
        labels: Sequence[str] | None = None,
        columns: Columns | None = None,
    ) -> None:
        super().__init__(config, seed, labels=labels)
        self.columns = columns
        self.register_buffer("mean", torch.zeros(config.numeric))
        self.register_buffer("deviation", torch.ones(config.numeric))
        self.quantiles = Quantiles(config.numeric, config.quantiles) if config.quantiles and config.numeric else None
        # Embeddings of all categories lie in one table, one column's after another's: where each begins.
        sizes = torch.tensor([0, *(number + 1 for number in config.categories)])
        self.register_buffer("first", sizes.cumsum(0)[:-1], persistent=False)

    def build(self, config: FTConfig) -> None:
        """Make the tokens' weights. As embeddings they are spared by the weight decay, as in the paper."""
        rows, width = sum(number + 1 for number in config.categories), config.width
        self.weights = nn.Embedding(config.numeric, width) if config.numeric else None
        self.missing = nn.Embedding(config.numeric, width) if config.numeric else None
        self.categories = nn.Embedding(rows, width) if rows else None
        self.offsets = nn.Embedding(config.tokens, width)  # the first is [CLS]
        self.blocks[0].attention_norm = nn.Identity()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the tokens' weights from ±1/√width, as in the paper, and the others as every classifier does.

        The width is that of the base where there is one: tokens do not become smaller in a wider model.
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
        """Take quantiles, mean and deviation of each numeric column from training rows, (n, columns), ignoring NaN."""
        if self.quantiles is not None:
            self.quantiles.learn(rows[:, : self.config.numeric])
        values = rows[:, : self.config.numeric].double()
        present = ~values.isnan()
        count = present.sum(0).clamp(min=1)
        mean = values.nan_to_num().sum(0) / count
        spread = (((values - mean).nan_to_num() ** 2).sum(0) / count).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits, (batch, classes), of rows as `Columns.encode` gives them, (batch, columns)."""
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
        logits: Tensor = self.head(torch.relu(x[:, 0]) * self.config.readout)
        return logits

    def classify(self, table: Mapping[str, Any]) -> list[str]:
        """Return the label of each row of a table: column name to values, a DataFrame for one.

        Raises:
            RecipeError: A column is missing, or the model was made without the names of its columns.
        """
        if self.columns is None:
            raise RecipeError("columns", None, "a model that was given its Columns")
        return self.names(torch.from_numpy(self.columns.encode(table)))

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "columns": None if self.columns is None else self.columns.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FTTransformer:
        columns = data["columns"]
        return cls(
            FTConfig.from_json(data["model"]),
            labels=data["labels"],
            columns=None if columns is None else Columns.from_json(columns),
        )
