"""Importance of a coordinate: the share of the losses' variance that it explains by itself.

Reports show it for each gene, and strategies choose genes by it. This module knows numbers only, not trials or genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def importance(units: np.ndarray, losses: np.ndarray, unordered: bool = False) -> float:
    """Return the adjusted coefficient of determination of a one-way analysis of variance.

    The points form up to four groups by quartile of the coordinate, or one group for each unordered value. The
    variance of the losses' ranks between groups is divided by the total. Ranks are used because losses have long tails.

    Args:
        units: One coordinate of each point, shape (points,).
        losses: Loss of each point, shape (points,).
        unordered: Whether the coordinate's values have no order, so that quartiles would mean nothing.

    Returns:
        A share from 0 (explains nothing) to 1 (explains all).
    """
    places, groups = ranks(losses), np.unique(units)
    if unordered or len(groups) <= 4:
        groups = np.searchsorted(groups, units)
    else:
        groups = np.searchsorted(np.quantile(units, [0.25, 0.5, 0.75]), units)
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < 2 or len(names) == len(places) or np.ptp(places) == 0:
        return 0.0
    means = np.array([places[groups == name].mean() for name in names])
    total = float(((places - places.mean()) ** 2).sum())
    within = total - float((counts * (means - places.mean()) ** 2).sum())
    adjusted = 1.0 - (within / (len(places) - len(names))) / (total / (len(places) - 1))
    return max(0.0, adjusted)


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the ranks of values from 1, shape (values,); equal values get their mean rank."""
    array = np.asarray(values)
    order = np.argsort(array)  # not stable, which is faster; equal values are joined below
    ordered, result = array[order], np.empty(len(array))
    changes = ordered[1:] != ordered[:-1]
    ends = np.append(np.flatnonzero(changes), len(array) - 1) if len(array) else np.empty(0, dtype=int)
    counts = np.diff(ends, prepend=-1)
    result[order] = np.repeat(ends + 1 - (counts - 1) / 2, counts)
    return result


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rank correlation of two series of equal length; 0 if either has no spread."""
    x, y = ranks(first), ranks(second)
    spread = float(np.std(x) * np.std(y))
    return float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread else 0.0
