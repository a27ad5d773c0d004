"""Forecasts of series: the split by time, the windows of each part, scores, and forecasts without a model.

Every series is divided in order of time into training, validation and test part. A window is the start of a horizon.
Training windows end before the validation part begins. Windows of the other parts may look back into earlier parts, as
a forecast does when it is used. This module knows no tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.options.bounds import check_number
from evo_tune.training.recipe.data.series import Series

Array = NDArray[np.float64]

EVALUATED = 512
"""About the number of windows in the validation part and in the test part; at least one per series."""

ONE_SIGMA = 2.0 * (1.0 - NormalDist().cdf(1.0))
"""Share outside of a normal interval of one standard deviation to each side."""

SHORTEST = 4
"""Fewest values before the horizon in the training part."""


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

    @classmethod
    def concatenate(cls, parts: Sequence[ForecastWindows]) -> ForecastWindows:
        """Return the windows of several parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "first", "series")))

    def past(self, context: int) -> NDArray[np.int64]:
        """Return the places of the values before each horizon, (n, context); a series' first value is repeated."""
        places: NDArray[np.int64] = np.maximum(self.start[:, None] + np.arange(-context, 0), self.first[:, None])
        return places

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
        ends: (series, 2), numbers of values before the validation part and before the test part.
        scales: (series,), mean absolute error of the seasonal naive forecast in the training part.
        centres: (series,), mean of the training part.
    """

    series: tuple[Series, ...]
    left_out: dict[str, str]
    horizon: int
    season: int
    ends: NDArray[np.int64]
    scales: Array
    centres: Array

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Place of each series' first value in `values`; (series,)."""
        return np.cumsum([0, *(len(series.values) for series in self.series)])[:-1]

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
        lengths = [len(series.values) for series in self.series]
        centred = self.values - np.repeat(self.centres, lengths)
        return (centred / np.repeat(self.scales, lengths)).astype(np.float32)

    def training(self, context: int) -> ForecastWindows:
        """Return all windows of the training parts with `context` values before them, and one for a short series."""
        return self._windows(lambda number: _all(self.ends[number, 0] - self.horizon, context))

    def count(self, context: int) -> int:
        """Return the number of training windows; see `training`."""
        last = self.ends[:, 0] - self.horizon
        return int((last - np.minimum(context, last) + 1).sum())

    @cached_property
    def held_out(self) -> ForecastWindows:
        """Windows of the validation parts, evenly spaced."""
        return self._evaluated(self.ends[:, 0], self.ends[:, 1])

    @cached_property
    def test(self) -> ForecastWindows:
        """Windows of the test parts, evenly spaced."""
        return self._evaluated(self.ends[:, 1], np.array([len(series.values) for series in self.series]))

    def _evaluated(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> ForecastWindows:
        most = max(1, EVALUATED // len(self.series))

        def starts(number: int) -> NDArray[np.int64]:
            first, last = begins[number], ends[number] - self.horizon
            if most == 1:
                return np.array([last])
            return np.unique(np.linspace(first, last, min(most, last - first + 1)).round().astype(np.int64))

        return self._windows(starts)

    def _windows(self, starts: Callable[[int], NDArray[np.int64]]) -> ForecastWindows:
        parts = []
        for number, first in enumerate(self.firsts):
            start = first + starts(number)
            parts.append(ForecastWindows(start, np.full(len(start), first), np.full(len(start), number)))
        return ForecastWindows.concatenate(parts)

    def truth(self, windows: ForecastWindows) -> Array:
        """Return the values to forecast, (windows, horizon); NaN where the file had none."""
        places = windows.ahead(self.horizon)
        return np.where(self.observed[places], self.values[places], np.nan)


def _all(last: int, context: int) -> NDArray[np.int64]:
    return np.arange(min(context, last), last + 1)


def split_series(series: Sequence[Series], *, horizon: int, season: int, validation: float, test: float) -> SplitSeries:
    """Split series by time and scale them.

    The test part is the last `test` of the values of a series, and the validation part the `validation` before it, each
    at least one horizon. A series is left out if it is too short, or if its training part repeats itself exactly every
    season: its seasonal naive error is 0, so MASE is not defined.

    Args:
        series: The series.
        horizon: Steps to forecast (int ≥ 1).
        season: Steps of a season (int ≥ 1).
        validation: Share of the validation part, in (0, 1).
        test: Share of the test part, in (0, 1).

    Raises:
        OptionError: No series is left.
        RecipeError: The shares leave nothing for training.
    """
    check_number("validation", validation + test, "(0, 1)")
    used, ends, scales, left_out = [], [], [], {}
    for single in series:
        count = len(single.values)
        validated, tested = (max(horizon, round(share * count)) for share in (validation, test))
        training = count - validated - tested
        if training < horizon + max(season + 1, SHORTEST):
            left_out[single.name] = f"{count} values are too few"
            continue
        if not (scale := naive_error(single.values[:training], single.observed[:training], season)) > 0:
            left_out[single.name] = (
                "it repeats itself every season, so MASE is not defined" if season > 1 else "it is constant"
            )
            continue
        used.append(single)
        ends.append((training, training + validated))
        scales.append(scale)
    if not used:
        raise OptionError(_none_left(series, horizon, season, left_out))
    centres = [single.values[:training].mean() for single, (training, _) in zip(used, ends, strict=True)]
    return SplitSeries(tuple(used), left_out, horizon, season, np.array(ends), np.array(scales), np.array(centres))


def _none_left(series: Sequence[Series], horizon: int, season: int, left_out: dict[str, str]) -> str:
    longest = max(len(single.values) for single in series)
    if any("few" in reason for reason in left_out.values()):
        need = horizon + max(season + 1, SHORTEST)
        return (
            f"-o horizon={horizon}: the longest series has {longest} values: expected at least {need} to train on (a "
            f"season of {season} and the horizon), and a horizon each to judge by and to test with: give a shorter "
            "horizon, more values, or -o season=1"
        )
    name, reason = next(iter(left_out.items()))
    return f"series {name!r} cannot be used: {reason}: expected values that change"


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
    forecast: Array = centres[:, None, None] + scales[:, None, None] * quantiles
    return forecast


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


def seasonal_naive(divided: SplitSeries, windows: ForecastWindows, quantiles: Sequence[float]) -> Array:
    """Return the last known season as the forecast, (windows, horizon, outputs).

    Its quantiles come from differences between values of the training part that are as many seasons apart. Their median
    is subtracted, so the median forecast is the plain seasonal naive one.

    Args:
        divided: The series.
        windows: Windows to forecast.
        quantiles: Quantiles in order; empty: the forecast alone.
    """
    steps = np.arange(divided.horizon)
    seasons = steps // divided.season + 1
    places = np.maximum(windows.start[:, None] + steps - seasons * divided.season, windows.first[:, None])
    point: Array = divided.values[places][..., None]
    if not quantiles:
        return point
    spread: Array = np.array([_spread(divided, number, seasons, quantiles) for number in range(len(divided.series))])
    forecast: Array = point + spread[windows.series]
    return forecast


def _spread(divided: SplitSeries, number: int, seasons: NDArray[np.int64], quantiles: Sequence[float]) -> Array:
    """Return the quantiles of seasonal differences of a series, less the median, (horizon, quantiles)."""
    values = divided.series[number].values[: divided.ends[number, 0]]
    of_lag: dict[int, Array] = {}
    spread = np.zeros(len(quantiles))
    for lag in sorted({int(season_count) * divided.season for season_count in seasons}):
        if len(values) >= lag + 2:  # else that of fewer seasons
            differences = values[lag:] - values[:-lag]
            spread = np.quantile(differences, quantiles) - np.median(differences)
        of_lag[lag] = spread
    return np.array([of_lag[int(season_count) * divided.season] for season_count in seasons])


def theta_forecast(divided: SplitSeries, windows: ForecastWindows, quantiles: Sequence[float]) -> Array:
    """Return the forecasts of statsmodels' Theta method (Assimakopoulos & Nikolopoulos 2000), as `seasonal_naive` does.

    It is fitted anew for each window to all values before the horizon. Quantiles are those of its normal prediction
    intervals.

    Raises:
        OptionError: statsmodels is not installed.
    """
    try:
        from statsmodels.tsa.forecasting.theta import ThetaModel
    except ImportError:
        raise OptionError(
            "-o compare=theta needs statsmodels, which is not installed: pip install 'evo-tune[series]', or give none"
        ) from None
    values, season = divided.values, divided.season
    deviations = np.array([NormalDist().inv_cdf(level) for level in quantiles] or [0.0])
    forecast = np.empty((len(windows), divided.horizon, len(deviations)))
    for row, (start, first) in enumerate(zip(windows.start, windows.first, strict=True)):
        past = values[first:start]
        with warnings.catch_warnings():  # of likelihoods that do not converge, which are used all the same
            warnings.simplefilter("ignore")
            fit = ThetaModel(past, period=season, deseasonalize=1 < season <= len(past) // 2).fit()
            point = np.asarray(fit.forecast(divided.horizon), float)
            upper = np.asarray(fit.prediction_intervals(divided.horizon, alpha=ONE_SIGMA), float)[:, 1]
        forecast[row] = point[:, None] + (upper - point)[:, None] * deviations
    return forecast
