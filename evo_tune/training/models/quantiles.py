"""Numbers by their rank among the training rows' (a quantile transform): what outliers and skew cannot stretch.

Its quantiles are buffers of the model, so an exported one takes numbers as they come. Knows nothing of what reads them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Quantiles"]


class Quantiles(nn.Module):
    """Gives each column of numbers a normal distribution.

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
