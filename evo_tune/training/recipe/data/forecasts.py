"""Forecasts of series: the split by time, the windows of each part, scores, bands, and forecasts without a model.

All series are divided at the same two times into training, validation and test part, because series of one time may
share what moves them. A window is the start of a horizon. Training windows end before the validation part begins.
Windows of the other parts may look back into earlier parts, as
a forecast does when it is used.

Bands of forecasts cover the share that they name by conformalized quantile regression: the band between two quantiles
is moved outwards or inwards by errors on windows that neither the training nor the choice of a model has seen. This
module knows no tensors and no models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError, require_extra
from evo_tune.options.declare import check_number
from evo_tune.training.recipe.data.series import Series, standardise_covariates
from evo_tune.training.recipe.data.times import MOST_MISSING

Array = NDArray[np.float64]

# About the number of windows in the validation part and in the test part; at least one per series.
EVALUATED = 512

# Share outside of a normal interval of one standard deviation to each side.
ONE_SIGMA = 2.0 * (1.0 - NormalDist().cdf(1.0))

# Fewest errors for a step of a band; with fewer windows, the nearest steps count too.
FEWEST_ERRORS = 40

# Fewest values before the horizon in the training part.
SHORTEST = 4


@dataclass(frozen=True)
class ForecastWindows:
    """Starts of horizons in the values of all series, which follow each other in one array.

    Args:
        start: (n,), place of the first value to forecast.
        first: (n,), place of the first value of its series.
        series: (n,), number of its series.
    """

    start: NDArray[np.int64]
    first: NDArray[np.int64]
    series: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    def ahead(self, horizon: int) -> NDArray[np.int64]:
        """Return the places of the values to forecast, (n, horizon)."""
        return self.start[:, None] + np.arange(horizon)


@dataclass(frozen=True, eq=False)
class SplitSeries:
    """Series with their split.

    Args:
        series: The series that are used.
        left_out: Reason by name of the series that are not.
        horizon: Steps to forecast.
        season: Steps of a season.
        cuts: Positions on the grid at which the validation part and the test part of all series begin.
        ends: (series, 2), numbers of values before the validation part and before the test part.
        scales: (series,), mean absolute error of the seasonal naive forecast in the training part.
        centres: (series,), mean of the training part, without filled values.
        covariate_scales: (covariates, 2), means and standard deviations in the training parts of all series.
    """

    series: tuple[Series, ...]
    left_out: dict[str, str]
    horizon: int
    season: int
    cuts: tuple[int, int]
    ends: NDArray[np.int64]
    scales: Array
    centres: Array
    covariate_scales: Array

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Place of each series' first value in `values`; (series,)."""
        return np.cumsum([0, *(len(series) for series in self.series)])[:-1]

    @cached_property
    def values(self) -> Array:
        """Values of all series, one after the other."""
        return np.concatenate([series.values for series in self.series])

    @cached_property
    def observed(self) -> NDArray[np.bool_]:
        """Whether each of `values` was in the file; others are not scored."""
        return np.concatenate([series.observed for series in self.series])

    @cached_property
    def standardised(self) -> NDArray[np.float32]:
        """`values` less the centre of their series, divided by its scale; float32."""
        lengths = [len(series) for series in self.series]
        centred = self.values - np.repeat(self.centres, lengths)
        return (centred / np.repeat(self.scales, lengths)).astype(np.float32)

    @cached_property
    def inputs(self) -> NDArray[np.float32]:
        """`standardised`, or with covariates (values, 1 + covariates), also standardised."""
        if not len(self.covariate_scales):
            return self.standardised
        pairs = [(series.covariates, len(series)) for series in self.series if series.covariates is not None]
        covariates = [standardise_covariates(values[:length], self.covariate_scales) for values, length in pairs]
        return np.column_stack([self.standardised, np.concatenate(covariates)])

    @cached_property
    def observed_ahead(self) -> NDArray[np.int64]:
        """Number of observed values in the horizon that starts at each place, (values − horizon + 1,)."""
        before = np.concatenate([[0], np.cumsum(self.observed)])
        return np.asarray(before[self.horizon :] - before[: -self.horizon])

    def training(self, context: int) -> ForecastWindows:
        """Return the windows of the training parts with `context` values before them, and one for a short series.

        Windows without an observed value to forecast are left out.
        """
        parts = zip(self.series, self.ends[:, 0], strict=True)
        last_observed = np.array([np.flatnonzero(series.observed[:end])[-1] for series, end in parts])
        last_starts = np.minimum(self.ends[:, 0] - self.horizon, last_observed)
        starts = [np.arange(min(context, last), last + 1) for last in last_starts.tolist()]
        places = zip(self.firsts.tolist(), starts, strict=True)
        return self._windows([start[self.observed_ahead[first + start] > 0] for first, start in places])

    @cached_property
    def held_out(self) -> ForecastWindows:
        """Windows of the validation parts, evenly spaced; none of a series that has less than a horizon there."""
        return self._evenly_spaced_windows(self.ends[:, 0], self.ends[:, 1])

    @cached_property
    def test(self) -> ForecastWindows:
        """Windows of the test parts, as `held_out`."""
        return self._evenly_spaced_windows(self.ends[:, 1], np.array([len(series) for series in self.series]))

    def _evenly_spaced_windows(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> ForecastWindows:
        lasts = ends - self.horizon
        per_series = max(1, EVALUATED // max(1, int(np.count_nonzero(lasts >= begins))))
        starts = []
        for first, last in zip(begins, lasts, strict=True):
            spaced = np.linspace(first, last, max(0, min(per_series, last - first + 1))).round().astype(np.int64)
            starts.append(np.unique(spaced) if per_series > 1 or not len(spaced) else np.array([last]))
        return self._windows(starts)

    def _windows(self, starts: Sequence[NDArray[np.int64]]) -> ForecastWindows:
        """Return windows, from the places of their horizons within each series."""
        lengths = [len(places) for places in starts]
        first = np.repeat(self.firsts, lengths)
        return ForecastWindows(first + np.concatenate(starts), first, np.repeat(np.arange(len(starts)), lengths))

    def truth(self, windows: ForecastWindows) -> Array:
        """Return the values to forecast, (windows, horizon); NaN where the file had none."""
        places = windows.ahead(self.horizon)
        return np.where(self.observed[places], self.values[places], np.nan)


def split_series(
    series: Sequence[Series], *, horizon: int, season: int, validation: float, test: float, inputs: Sequence[str] = ()
) -> SplitSeries:
    """Split series by time and scale them.

    The test part begins at the latest time after which the share `test` of all values follows, and the validation part
    at the latest time that leaves it the share `validation`; each is at least one horizon. A series is left out if its
    training part is too short or repeats itself exactly every season: its seasonal naive error is 0, so MASE is not
    defined. It is also left out if its validation part has missing values only. A series that ends earlier is used for
    training.

    Args:
        series: The series.
        horizon: Steps to forecast (int ≥ 1).
        season: Steps of a season (int ≥ 1).
        validation: Share of the validation part, in (0, 1).
        test: Share of the test part, in (0, 1).
        inputs: Names of the covariates, in the order of `Series.covariates`.

    Raises:
        OptionError: No series is left, or none has a horizon in the validation part or in the test part.
        RecipeError: The shares leave nothing for training.
    """
    check_number("validation", validation + test, "(0, 1)")
    used, ends, scales, centres, left_out = [], [], [], [], {}
    shortest = horizon + max(season + 1, SHORTEST)
    cuts = _find_cuts(series, horizon, validation, test)
    for single in series:
        training, judged = (min(max(0, cut - single.first), len(single)) for cut in cuts)
        if training < shortest:
            left_out[single.name] = f"{training} of its {len(single)} values before the validation part are too few"
            continue
        past = single.values[:training]
        scale = naive_error(past, single.observed[:training], season)
        if not scale > 0:
            constant = "it repeats itself every season, so MASE is not defined" if season > 1 else "it is constant"
            left_out[single.name] = constant
            continue
        if judged > training and not single.observed[training:judged].any():
            left_out[single.name] = "its validation part has no value"
            continue
        used.append(single)
        ends.append((training, judged))
        scales.append(scale)
        centres.append(past[single.observed[:training]].mean())
    if used:
        arrays = np.array(ends), np.array(scales), np.array(centres)
        split = SplitSeries(
            tuple(used), left_out, horizon, season, cuts, *arrays, _covariate_scales(used, arrays[0], inputs)
        )
        if not (len(split.held_out) and len(split.test)):
            raise OptionError(
                f"-o horizon={horizon}: no series has so many values after the time at which all are divided: give a "
                "shorter horizon, or series that end at about the same time"
            )
        return split
    if any("few" in reason for reason in left_out.values()):
        longest = max(len(single) for single in series)
        raise OptionError(
            f"-o horizon={horizon}: the longest series has {longest} values: expected at least {shortest} to train on "
            f"(a season of {season} and the horizon), and a horizon each to judge by and to test with: give a shorter "
            "horizon, more values, or -o season=1"
        )
    name, reason = next(iter(left_out.items()))
    raise OptionError(f"series {name!r} cannot be used: {reason}: expected values that change")


def _covariate_scales(series: Sequence[Series], ends: NDArray[np.int64], names: Sequence[str]) -> Array:
    """Return mean and standard deviation of each covariate over the training parts, (covariates, 2).

    Raises:
        OptionError: A covariate has one value there, or too few.
    """
    if not names:
        return np.empty((0, 2))
    parts = [single.covariates[:end] for single, end in zip(series, ends[:, 0], strict=True)]  # type: ignore[index]
    values = np.concatenate(parts)
    for name, column in zip(names, values.T, strict=True):
        if np.isnan(column).mean() > MOST_MISSING or not np.nanstd(column) > 0.0:
            raise OptionError(f"covariate {name!r} has one value, or too few, before the validation part: leave it out")
    return np.stack([np.nanmean(values, 0), np.nanstd(values, 0)], 1)


def _find_cuts(series: Sequence[Series], horizon: int, validation: float, test: float) -> tuple[int, int]:
    """Return the positions on the grid at which validation and test part begin; see `split_series`."""
    positions = np.concatenate([single.first + np.arange(len(single)) for single in series])
    start, mean_length = int(positions.min()), len(positions) / len(series)
    following = np.cumsum(np.bincount(positions - start)[::-1])[::-1]  # number of values at each position or later

    def latest(wanted: int) -> int:
        return max(0, int(np.count_nonzero(following >= wanted)) - 1)

    test_values, validation_values = (len(series) * max(horizon, round(s * mean_length)) for s in (test, validation))
    test_begin = latest(test_values)
    return start + latest(int(following[test_begin]) + validation_values), start + test_begin


def naive_error(values: Array, observed: NDArray[np.bool_], season: int) -> float:
    """Return the mean absolute difference between values and those of a season before; NaN without pairs.

    The scale of MASE (Hyndman & Koehler 2006, https://doi.org/10.1016/j.ijforecast.2006.03.001).

    Args:
        values: (n,), without gaps.
        observed: (n,); pairs with a filled value do not count.
        season: Steps of a season.
    """
    pairs = observed[season:] & observed[:-season]
    return float(np.abs(values[season:] - values[:-season])[pairs].mean()) if pairs.any() else float("nan")


# ---------------------------------------------------------------- scores


def unscale_outputs(outputs: Array, centres: Array, scales: Array, levels: int) -> Array:
    """Return a model's outputs as forecasts in the units of the series, with quantiles in order.

    Sorting never makes the quantile loss larger (Chernozhukov et al. 2010, https://doi.org/10.3982/ECTA7880).

    Args:
        outputs: (windows, horizon · levels), standardised.
        centres: (windows,), see `SplitSeries`.
        scales: (windows,), see `SplitSeries`.
        levels: Number of quantiles; 0: the outputs are means.

    Returns:
        (windows, horizon, max(1, levels)).
    """
    quantiles = np.sort(outputs.reshape(len(outputs), -1, max(1, levels)), axis=2)
    return np.asarray(centres[:, None, None] + scales[:, None, None] * quantiles)


@dataclass(frozen=True)
class ForecastScores:
    """Scores of the forecasts of some windows. Values that were missing in the file do not count.

    Args:
        loss: Mean loss in units of the scale of each series: the quantile loss, or the squared error.
        mase: Mean absolute error of the median or mean, divided by the scale of its series (Hyndman & Koehler 2006).
        smape: 200 |y − ŷ| / (|y| + |ŷ|), mean, in percent (as in M4); 0 where both are 0.
        quantile_loss: Mean over quantiles of the quantile loss, divided by the scale; a mean counts as the median.
    """

    loss: float
    mase: float
    smape: float
    quantile_loss: float

    @classmethod
    def of(cls, forecast: Array, truth: Array, scales: Array, quantiles: Sequence[float]) -> ForecastScores:
        """Return the scores of forecasts.

        Args:
            forecast: (windows, horizon, outputs): the quantiles in order, or the mean alone.
            truth: (windows, horizon); NaN where unknown.
            scales: (windows,), scale of each window's series.
            quantiles: The quantiles, 0.5 among them; empty: the forecast is the mean.
        """
        scale = scales[:, None]
        point = forecast[..., quantiles.index(0.5) if quantiles else 0]
        error = np.abs(truth - point)
        size = np.abs(truth) + np.abs(point)
        relative = np.where(size > 0, 200.0 * error / np.where(size > 0, size, 1.0), 0.0 * size)
        pinball = pinball_loss(forecast, truth, quantiles or (0.5,)) / scale[..., None]
        quantile_loss = float(np.nanmean(pinball))
        return cls(
            loss=quantile_loss if quantiles else float(np.nanmean(((truth - point) / scale) ** 2)),
            mase=float(np.nanmean(error / scale)),
            smape=float(np.nanmean(relative)),
            quantile_loss=quantile_loss,
        )


def pinball_loss(forecast: Array, truth: Array, quantiles: Sequence[float]) -> Array:
    """Return max(q (y − ŷ), (q − 1) (y − ŷ)) of each quantile q (Koenker & Bassett 1978).

    Args:
        forecast: (…, quantiles).
        truth: (…).
        quantiles: The quantiles.
    """
    error, levels = truth[..., None] - forecast, np.asarray(quantiles)
    return np.maximum(levels * error, (levels - 1.0) * error)


# ---------------------------------------------------------------- forecasts without a model


def seasonal_naive(split: SplitSeries, windows: ForecastWindows, quantiles: Sequence[float]) -> Array:
    """Return the last known season as the forecast, (windows, horizon, outputs).

    Its quantiles come from differences between values of the training part that are as many seasons apart. Their median
    is subtracted, so the median forecast is the plain seasonal naive one.

    Args:
        split: The series.
        windows: Windows to forecast.
        quantiles: Quantiles in order; empty: the forecast alone.
    """
    steps = np.arange(split.horizon)
    seasons = steps // split.season + 1
    places = np.maximum(windows.start[:, None] + steps - seasons * split.season, windows.first[:, None])
    point: Array = split.values[places][..., None]
    if not quantiles:
        return point
    numbers = range(len(split.series))
    spread = np.array([_difference_quantiles(split, number, seasons, quantiles) for number in numbers])
    return np.asarray(point + spread[windows.series])


def _difference_quantiles(
    split: SplitSeries, number: int, seasons: NDArray[np.int64], quantiles: Sequence[float]
) -> Array:
    """Return the quantiles of seasonal differences of a series, less the median, (horizon, quantiles)."""
    values = split.series[number].values[: split.ends[number, 0]]
    of_season: dict[int, Array] = {}
    spread = np.zeros(len(quantiles))
    for season in range(1, int(seasons.max()) + 1):
        lag = season * split.season
        if len(values) >= lag + 2:  # else that of fewer seasons
            differences = values[lag:] - values[:-lag]
            spread = np.quantile(differences, quantiles) - np.median(differences)
        of_season[season] = spread
    return np.array([of_season[season] for season in seasons.tolist()])


def theta_forecast(split: SplitSeries, windows: ForecastWindows, quantiles: Sequence[float]) -> Array:
    """Return the forecasts of statsmodels' Theta method (Assimakopoulos & Nikolopoulos 2000), as `seasonal_naive` does.

    It is fitted anew for each window to all values before the horizon. Quantiles are those of its normal prediction
    intervals.

    Raises:
        UsageError: statsmodels is not installed.
    """
    with require_extra("-o compare=theta", "series"):
        from statsmodels.tsa.forecasting.theta import ThetaModel
    values, season = split.values, split.season
    deviations = np.array([NormalDist().inv_cdf(level) for level in quantiles] or [0.0])
    forecast = np.empty((len(windows), split.horizon, len(deviations)))
    for row, (start, first) in enumerate(zip(windows.start, windows.first, strict=True)):
        past = values[first:start]
        with warnings.catch_warnings():  # of likelihoods that do not converge, which are used all the same
            warnings.simplefilter("ignore")
            fit = ThetaModel(past, period=season, deseasonalize=1 < season <= len(past) // 2).fit()
            point = np.asarray(fit.forecast(split.horizon), float)
            upper = np.asarray(fit.prediction_intervals(split.horizon, alpha=ONE_SIGMA), float)[:, 1]
        forecast[row] = point[:, None] + (upper - point)[:, None] * deviations
    return forecast


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
    """Return the known errors of a step, sorted, with those of the nearest steps if they are too few."""
    horizon = outside.shape[1]
    for distance in range(horizon):
        near = outside[:, max(0, step - distance) : step + distance + 1]
        errors = near[~np.isnan(near)]
        if len(errors) >= FEWEST_ERRORS:
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
    return np.asarray(np.where(below, np.minimum(moved, median), np.maximum(moved, median)))


# Seasonal exponential smoothing of a window of values: its forecast is a linear function of the window. The forecast of
# step h after the last value x_T is p_{T+h} + φ^h s.
#
# p_t = Σ_k w_k x_{t−kS} is a mean over the same place in earlier seasons of S steps, with w_k ∝ (1 − γ)^k. Values after
# T are the forecasts. s = Σ_j v_j (x_{T−j} − p_{T−j}) is the mean difference of the last values from theirs, with
# v_j ∝ (1 − α)^j.
#
# With γ = 1 and s = 0 this is the seasonal naive forecast. With S = 1 and φ = 0 it is simple exponential smoothing.
# With α = γ = φ = 1 it continues trend and season. It is a relative of the damped forecasts of Gardner (1985,
# https://doi.org/10.1002/for.3980040103).

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
