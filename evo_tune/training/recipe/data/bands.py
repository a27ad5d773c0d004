"""Bands of forecasts that cover the share that they name: conformalized quantile regression.

The band between two quantiles is moved outwards or inwards by errors on windows that neither the training nor the
choice of a model has seen. This module knows no models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Fewest errors for a step of the horizon; with fewer windows, the nearest steps count too.
FEWEST = 40


def conformal_offsets(forecast: Array, truth: Array, scales: Array, levels: Sequence[float]) -> list[list[float]]:
    """Return what to add to each quantile at each step, in units of the scale of a series.

    For the levels l and 1 − l, the error of a window is max(lower − y, y − upper). Of n errors, the one of rank
    ⌈(n + 1)(1 − 2 l)⌉ is subtracted from the lower and added to the upper quantile (Romano, Patterson & Candès 2019,
    https://arxiv.org/abs/1905.03222, algorithm 1). A level without its opposite stays as it is, and so does the median.

    Args:
        forecast: (windows, horizon, levels), of windows that the model was neither trained nor chosen on.
        truth: (windows, horizon); NaN where unknown.
        scales: (windows,), scale of each window's series.
        levels: The quantiles, in order.

    Returns:
        A list for each level, with a number for each step.
    """
    horizon = truth.shape[1]
    offsets = np.zeros((len(levels), horizon))
    for lower, level in enumerate(levels):
        upper = next((index for index, other in enumerate(levels) if math.isclose(level + other, 1.0)), lower)
        if upper <= lower:
            continue
        outside = np.maximum(forecast[..., lower] - truth, truth - forecast[..., upper]) / scales[:, None]
        for step in range(horizon):
            errors = _errors_near(outside, step)
            if len(errors):
                rank = min(len(errors), math.ceil((len(errors) + 1) * (1.0 - 2.0 * level)))
                offsets[lower, step], offsets[upper, step] = -errors[rank - 1], errors[rank - 1]
    return [[float(offset) for offset in row] for row in offsets]


def _errors_near(outside: Array, step: int) -> Array:
    """Return the known errors of a step, sorted, with those of the nearest steps if there are fewer than `FEWEST`."""
    horizon = outside.shape[1]
    for distance in range(horizon):
        near = outside[:, max(0, step - distance) : step + distance + 1]
        errors = near[~np.isnan(near)]
        if len(errors) >= FEWEST:
            break
    return np.sort(errors)


def move_bands(forecast: Array, offsets: Sequence[Sequence[float]], scales: Array, levels: Sequence[float]) -> Array:
    """Return a forecast with its quantiles moved; none passes the median.

    Args:
        forecast: (windows, horizon, levels), in the units of the series.
        offsets: See `conformal_offsets`; empty: the forecast stays as it is.
        scales: (windows,), scale of each window's series.
        levels: The quantiles, in order, 0.5 among them.
    """
    if not offsets:
        return forecast
    moved = forecast + scales[:, None, None] * np.asarray(offsets).T
    median = forecast[..., [list(levels).index(0.5)]]
    below = np.asarray(levels) < 0.5
    bounded: Array = np.where(below, np.minimum(moved, median), np.maximum(moved, median))
    return bounded
