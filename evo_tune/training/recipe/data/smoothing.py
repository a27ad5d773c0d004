"""Seasonal exponential smoothing of a window of values: its forecast is a linear function of the window.

The forecast of step h after the last value x_T is p_{T+h} + φ^h s.

p_t = Σ_k w_k x_{t−kS} is a mean over the same place in earlier seasons of S steps, with w_k ∝ (1 − γ)^k. Values after T
are the forecasts. s = Σ_j v_j (x_{T−j} − p_{T−j}) is the mean difference of the last values from theirs, with
v_j ∝ (1 − α)^j.

With γ = 1 and s = 0 this is the seasonal naive forecast. With S = 1 and φ = 0 it is simple exponential smoothing. With
α = γ = φ = 1 it continues trend and season. It is a relative of the damped forecasts of Gardner (1985,
https://doi.org/10.1002/for.3980040103).
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evo_tune.training.recipe.data.forecasts import Array, SplitSeries

# Values of α, γ and φ that are tried.
SHARES = 0.1, 0.3, 0.6, 1.0
DAMPING = 0.0, 0.7, 0.9, 0.97, 1.0

# Most training windows that they are chosen by, and the smallest weight of a difference, relative to the last one's.
MOST_WINDOWS, LEAST_WEIGHT = 512, 1e-4


class Smoothing(NamedTuple):
    """The forecast of exponential smoothing, for all series.

    Args:
        weights: (context, horizon); a forecast is the product of the window with them. Each column has the sum 1.
        spread: (horizon, max(1, levels)), what is added for each quantile, in units of the scale of a series.
    """

    weights: Array
    spread: Array


def smoothing_weights(context: int, season: int, horizon: int, level: float, seasonal: float, damping: float) -> Array:
    """Return the weights of a window in its forecast, (context, horizon).

    Args:
        context: Values of the window.
        season: Steps of a season, at most `context`; 1: none.
        horizon: Steps to forecast.
        level: α in (0, 1]; with 1 the last difference counts alone.
        seasonal: γ in (0, 1]; with 1 the last season counts alone.
        damping: φ in [0, 1].
    """
    values = np.concatenate([np.eye(context), np.zeros((context, horizon))], 1)

    def mean_of_seasons(time: int) -> Array:
        places = np.arange(time - season, -1, -season)
        shares = (1.0 - seasonal) ** np.arange(len(places))
        return np.asarray(values[:, places] @ (shares / shares.sum()))

    shares = (1.0 - level) ** np.arange(context - season)
    shares = shares[shares >= LEAST_WEIGHT]
    shift = np.zeros(context)
    for number, share in enumerate(shares / shares.sum() if len(shares) else shares):
        shift += share * (values[:, context - 1 - number] - mean_of_seasons(context - 1 - number))
    for step in range(horizon):
        values[:, context + step] = mean_of_seasons(context + step) + damping ** (step + 1) * shift
    return values[:, context:]


@lru_cache(maxsize=16)  # a worker trains on the same series repeatedly
def fit_smoothing(split: SplitSeries, context: int, levels: tuple[float, ...]) -> Smoothing:
    """Return the smoothing with the smallest mean absolute error on training windows, with the spread of its errors.

    Args:
        split: Series with their split.
        context: Values of a window.
        levels: Quantiles to forecast; empty: the mean.
    """
    windows, horizon = split.training(context), split.horizon
    chosen = np.unique(np.linspace(0, len(windows) - 1, MOST_WINDOWS).round().astype(np.int64))
    start, first = windows.start[chosen, None], windows.first[chosen, None]
    past = split.standardised[np.maximum(start + np.arange(-context, 0), first)].astype(np.float64)
    places = start + np.arange(horizon)
    truth = np.where(split.observed[places], split.standardised[places], np.nan)
    season = split.season if split.season <= context else 1
    candidates = [smoothing_weights(context, season, horizon, *given) for given in product(SHARES, SHARES, DAMPING)]
    weights = min(candidates, key=lambda weights: float(np.nanmean(np.abs(truth - past @ weights))))
    return Smoothing(weights, _spread(truth - past @ weights, levels))


def _spread(errors: Array, levels: tuple[float, ...]) -> Array:
    """Return the symmetric quantiles of errors, (windows, horizon), at each step: (horizon, max(1, levels))."""
    if not levels:
        return np.zeros((errors.shape[1], 1))
    sizes: NDArray[np.float64] = np.abs(np.where(np.isnan(errors).all(0), 0.0, errors))
    return np.stack([np.sign(level - 0.5) * np.nanquantile(sizes, abs(2 * level - 1), axis=0) for level in levels], 1)
