"""Columns of a table that know the target: copies of it, or what is known only after it.

A model that reads such a column has a score that says nothing about rows to come. This module knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Beginning of the line about such columns, by which the verdict of `auto` knows it.
TELLING = "Warning: the target can be read off"

# Largest share of the error without any column that a column alone may leave to be named.
MOST_ERROR = 0.01

# Fewest judged rows, and fewest of them outside of the most frequent class: a few rows are told by chance.
FEWEST_ROWS, FEWEST_OTHERS = 30, 5

# Most intervals of a column of numbers.
INTERVALS = 200


@dataclass(frozen=True, eq=False)
class SingleColumns:
    """Predictions from one input of a table alone.

    Args:
        inputs: (rows, columns), numbers, or numbers of categories; NaN where missing.
        target: (rows,), class numbers or real numbers.
        classes: Number of classes; 0: real numbers.
        training: Rows to learn from.
        judged: Rows to predict.
    """

    inputs: NDArray[Any]
    target: NDArray[Any]
    classes: int
    training: NDArray[Any]
    judged: NDArray[Any]

    def telling(self) -> list[int]:
        """Return the places of the columns that alone predict the target of the judged rows almost perfectly.

        A column of numbers is divided into intervals around values of its training rows. The prediction is the most
        frequent class of the training rows in the interval; for real numbers it is their mean, or a straight line.
        """
        target, training, judged = self.target, self.training, self.judged
        if min(len(judged), len(training)) < FEWEST_ROWS:
            return []
        if self.classes and (target[judged] != np.bincount(target[training]).argmax()).sum() < FEWEST_OTHERS:
            return []
        return [place for place in range(self.inputs.shape[1]) if self._error_left(place) <= MOST_ERROR]

    def _error_left(self, place: int) -> float:
        """Return the error of a prediction from one input alone, as a share of that from none."""
        values, target, training, judged = self.inputs[:, place].astype(float), self.target, self.training, self.judged
        known = ~np.isnan(values)
        if not known[training].any():
            return 1.0
        lowest, highest = values[training][known[training]].min(), values[training][known[training]].max()
        values = np.where(known, values, 2.0 * lowest - highest - 1.0)  # missing values have an interval of their own
        points = np.unique(values[training])
        if len(points) > INTERVALS:
            points = np.unique(np.quantile(points, np.linspace(0.0, 1.0, INTERVALS), method="nearest"))
        cells = np.searchsorted((points[1:] + points[:-1]) / 2.0, values, side="right")
        if self.classes:
            counts = np.zeros((len(points), self.classes))
            np.add.at(counts, (cells[training], target[training]), 1.0)
            usual = int(counts.sum(axis=0).argmax())
            told = np.where(counts.sum(axis=1) > 0.0, counts.argmax(axis=1), usual)
            return float((told[cells[judged]] != target[judged]).sum() / (target[judged] != usual).sum())
        mean = target[training].mean()
        numbers = np.bincount(cells[training], minlength=len(points))
        sums = np.bincount(cells[training], weights=target[training], minlength=len(points))
        forecasts = [np.where(numbers > 0, sums / np.maximum(numbers, 1), mean)[cells[judged]]]
        if known.all():
            centred = values - values[training].mean()
            slope = (centred[training] @ (target[training] - mean)) / max(float((centred[training] ** 2).sum()), 1e-300)
            forecasts.append(mean + slope * centred[judged])
        total = _square_sum(target[judged] - mean)
        return min(_square_sum(target[judged] - forecast) for forecast in forecasts) / (total or 1.0)


def telling_lines(names: Sequence[str]) -> list[str]:
    """Return the line about the columns that know the target; none if there is no such column."""
    if not names:
        return []
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    remedy = f"if it is not known beforehand, leave it out by -o ignore={','.join(names[:5])}"
    return [f"{TELLING} {shown} alone: {remedy}"]


def _square_sum(errors: NDArray[np.float64]) -> float:
    return float((errors**2).sum())
