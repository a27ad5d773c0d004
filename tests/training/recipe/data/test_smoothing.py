"""Exponential smoothing as a linear function of a window: oracles, and what it continues exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.training.recipe.data.forecasts import SplitSeries, fit_smoothing, smoothing_weights, split_series
from evo_tune.training.recipe.data.series import find_series, passengers

shapes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 20)).filter(
    lambda shape: shape[1] <= shape[0]
)
shares = st.floats(0.01, 1.0)


@pytest.fixture(scope="module")
def split() -> SplitSeries:
    return split_series(find_series(passengers()).series, horizon=18, season=12, validation=0.2, test=0.2)


@given(shapes, shares, shares, st.floats(0.0, 1.0), st.floats(-1e3, 1e3))
def test_a_level_is_continued_and_a_shift_of_the_past_shifts_the_forecast(
    shape: tuple[int, int, int], level: float, seasonal: float, damping: float, shift: float
) -> None:
    context, season, horizon = shape
    weights = smoothing_weights(context, season, horizon, level, seasonal, damping)
    assert weights.shape == (context, horizon)
    assert weights.sum(0) == pytest.approx(np.ones(horizon))
    past = np.sin(np.arange(context))
    assert (past + shift) @ weights == pytest.approx(past @ weights + shift, abs=1e-8)


@given(shapes, shares, shares, st.floats(0.0, 1.0))
def test_a_season_is_continued_whatever_the_shares(
    shape: tuple[int, int, int], level: float, seasonal: float, damping: float
) -> None:
    context, season, horizon = shape
    series = np.tile(np.random.default_rng(0).normal(size=season), context + horizon)[: context + horizon]
    weights = smoothing_weights(context, season, horizon, level, seasonal, damping)
    assert series[:context] @ weights == pytest.approx(series[context:], abs=1e-8)


@pytest.mark.parametrize("season", [1, 4, 7])
def test_trend_and_season_are_continued_by_the_last_ones(season: int) -> None:
    time = np.arange(60.0)
    series = 0.7 * time + np.tile(np.random.default_rng(1).normal(size=season), 60)[:60]
    weights = smoothing_weights(40, season, 20, 1.0, 1.0, 1.0)
    assert series[:40] @ weights == pytest.approx(series[40:])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_without_season_and_damping_it_is_simple_exponential_smoothing(share: float) -> None:
    holtwinters = pytest.importorskip("statsmodels.tsa.holtwinters", reason="extra series")
    past = np.random.default_rng(2).normal(size=300).cumsum()
    model = holtwinters.SimpleExpSmoothing(past, initialization_method="known", initial_level=past[0])
    expected = model.fit(smoothing_level=share, optimized=False).forecast(1)
    assert past @ smoothing_weights(300, 1, 1, 1.0, share, 0.0) == pytest.approx(expected, rel=1e-6)


def test_it_is_the_best_of_those_tried_on_training_windows_alone(split: SplitSeries) -> None:
    levels = (0.1, 0.5, 0.9)
    fitted = fit_smoothing(split, 36, levels)
    windows = split.training(36)
    past = split.standardised[windows.start[:, None] + np.arange(-36, 0)].astype(np.float64)
    truth = split.standardised[windows.ahead(18)]
    error = np.abs(truth - past @ fitted.weights).mean()
    for given_shares in ((1.0, 1.0, 0.0), (0.3, 0.3, 0.97), (0.6, 0.1, 1.0)):
        assert error <= np.abs(truth - past @ smoothing_weights(36, 12, 18, *given_shares)).mean() + 1e-9
    assert (fitted.spread[:, 0] == -fitted.spread[:, 2]).all()
    assert (fitted.spread[:, 1] == 0.0).all()
    inside = (np.abs(truth - past @ fitted.weights) <= fitted.spread[:, 2]).mean()
    assert inside == pytest.approx(0.8, abs=0.05), "the band holds what it names on the windows that it is from"


@pytest.mark.parametrize(("context", "levels"), [(8, ()), (12, (0.5,)), (60, (0.25, 0.5))])
def test_any_window_and_any_quantiles_have_a_smoothing(context: int, levels: Any, split: SplitSeries) -> None:
    fitted = fit_smoothing(split, context, levels)
    assert fitted.weights.shape == (context, 18)
    assert fitted.spread.shape == (18, max(1, len(levels)))
    assert np.isfinite(fitted.weights).all()
    assert np.isfinite(fitted.spread).all()
