"""The split by time, scores against formulas written out, and forecasts without a model."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evo_tune.errors import OptionError, UsageError
from evo_tune.training.recipe.data.forecasts import (
    ForecastScores,
    ForecastWindows,
    SplitSeries,
    naive_error,
    seasonal_naive,
    split_series,
    theta_forecast,
)
from evo_tune.training.recipe.data.series import Series, find_series, passengers
from tests.extras import need
from tests.training.recipe.data.refusals import without


def past(windows: ForecastWindows, context: int) -> NDArray[np.int64]:
    """Return the places of the values before each horizon."""
    places: NDArray[np.int64] = np.maximum(windows.start[:, None] + np.arange(-context, 0), windows.first[:, None])
    return places


def series(name: str, values: np.ndarray, first: int = 0) -> Series:  # type: ignore[type-arg]
    return Series(name, first, values.astype(float), np.ones(len(values), bool))


@pytest.fixture(scope="module")
def air() -> SplitSeries:
    return split_series(find_series(passengers()).series, horizon=6, season=12, validation=0.2, test=0.2)


@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(10, 150)), min_size=1, max_size=5),
    horizon=st.integers(1, 12),
    season=st.integers(1, 6),
    context=st.integers(1, 60),
    validation=st.floats(0.05, 0.4),
    gaps=st.booleans(),
)
def test_parts_follow_each_other_in_time_over_all_series(
    spans: list[tuple[int, int]], horizon: int, season: int, context: int, validation: float, gaps: bool
) -> None:
    rng = np.random.default_rng(1)
    given_ = [series(str(number), rng.normal(size=length), first) for number, (first, length) in enumerate(spans)]
    for single in given_ if gaps else []:
        middle = len(single) // 2
        single.observed[middle - len(single) // 10 : middle] = False
    try:
        found = split_series(given_, horizon=horizon, season=season, validation=validation, test=0.2)
    except OptionError as error:
        assert "longest series" in str(error) or "no series has so many values" in str(error)  # noqa: PT017
        return
    parts = [one.ahead(horizon) for one in (found.training(context), found.held_out, found.test)]
    owners = [one.series for one in (found.training(context), found.held_out, found.test)]
    positions = np.concatenate([single.first + np.arange(len(single)) for single in found.series])
    training, held, tested = (positions[part] for part in parts)
    assert training.max() < found.cuts[0] <= held.min() <= held.max() < found.cuts[1] <= tested.min()
    for number, first in enumerate(found.firsts):
        training, held, tested = (part[owner == number] for part, owner in zip(parts, owners, strict=True))
        assert len(training) > 0
        assert first < training.min()
        length = len(found.series[number])
        for part, begin, end in ((held, *found.ends[number]), (tested, found.ends[number, 1], length)):
            assert (len(part) > 0) == (end - begin >= horizon)
            assert part.size == 0 or part.max() == first + end - 1
        reach = past(found.training(context), context)[owners[0] == number]
        assert reach.min() >= first
        assert (np.diff(reach, axis=1) == 1).all() or gaps or found.ends[number, 0] < context + horizon
    assert found.observed[parts[0]].any(1).all()


@given(length=st.integers(10, 300), count=st.integers(1, 4), horizon=st.integers(1, 9), test=st.floats(0.05, 0.4))
def test_series_of_equal_times_have_parts_of_the_given_shares(
    length: int, count: int, horizon: int, test: float
) -> None:
    given_ = [series(str(number), np.random.default_rng(1).normal(size=length), 5) for number in range(count)]
    sizes = [max(horizon, round(share * length)) for share in (0.2, test)]
    if length - sum(sizes) >= horizon + 4:
        found = split_series(given_, horizon=horizon, season=1, validation=0.2, test=test)
        assert found.ends.tolist() == [[length - sum(sizes), length - sizes[1]]] * count


def test_series_that_end_early_are_used_for_training_only() -> None:
    rng = np.random.default_rng(1)
    spans = {"early": (0, 50), "late": (60, 100), "long": (0, 160)}
    given_ = [series(name, rng.normal(size=length), first) for name, (first, length) in spans.items()]
    found = split_series(given_, horizon=5, season=1, validation=0.2, test=0.2)
    assert set(found.held_out.series) == set(found.test.series) == {1, 2}
    assert 0 in found.training(8).series
    new = series("new", rng.normal(size=20), 140)  # begins after the validation part
    found = split_series([*given_, new], horizon=5, season=1, validation=0.2, test=0.2)
    assert found.left_out == {"new": "0 of its 20 values before the validation part are too few"}


def test_a_common_walk_is_no_help_across_series() -> None:
    """With a cut for each series, the training part of one shows the test dates of another."""
    spans = [(start, 200 - 10 * start) for start in range(0, 10)]
    walk = np.random.default_rng(1).normal(size=200).cumsum()
    given_ = [series(str(first), walk[first : first + length], first) for first, length in spans]
    found = split_series(given_, horizon=5, season=1, validation=0.2, test=0.2)
    positions = np.concatenate([single.first + np.arange(len(single)) for single in found.series])
    seen = set(positions[found.training(10).ahead(5)].ravel()) | set(positions[past(found.training(10), 10)].ravel())
    judged = positions[np.concatenate([found.held_out.ahead(5), found.test.ahead(5)])].ravel()
    assert not seen & set(judged)


def test_nothing_of_a_later_part_changes_what_training_uses(air: SplitSeries) -> None:
    changed = find_series(passengers()).series[0]
    training = int(air.ends[0, 0])
    other = np.concatenate([changed.values[:training], 1e6 * np.ones(len(changed.values) - training)])
    again = split_series([series("passengers", other)], horizon=6, season=12, validation=0.2, test=0.2)
    assert np.array_equal(again.standardised[:training], air.standardised[:training])
    assert (again.scales, again.centres) == (air.scales, air.centres)
    windows = again.training(24)
    assert max(past(windows, 24).max(), windows.ahead(6).max()) == training - 1


def test_scores_are_those_of_the_formulas_written_out() -> None:
    """Sums over plain numbers, as in Hyndman & Koehler (2006), the M4 guide and Koenker & Bassett (1978)."""
    rng = np.random.default_rng(2)
    forecast, truth, scales = np.sort(rng.normal(size=(5, 3, 3))), rng.normal(size=(5, 3)), rng.uniform(1, 2, 5)
    truth[2, 1], truth[0, 0], forecast[0, 0, 1] = np.nan, 0.0, 0.0
    levels = (0.1, 0.5, 0.9)
    errors, relative, losses = [], [], []
    for w in range(5):
        for h in range(3):
            y = truth[w, h]
            if math.isnan(y):
                continue
            middle = forecast[w, h, 1]
            errors.append(abs(y - middle) / scales[w])
            relative.append(0.0 if y == middle == 0 else 200 * abs(y - middle) / (abs(y) + abs(middle)))
            for k, q in enumerate(levels):
                f = forecast[w, h, k]
                losses.append((q * (y - f) if y >= f else (1 - q) * (f - y)) / scales[w])
    found = ForecastScores.of(forecast, truth, scales, levels)
    assert found.mase == pytest.approx(sum(errors) / len(errors))
    assert found.smape == pytest.approx(sum(relative) / len(relative))
    assert found.loss == found.quantile_loss == pytest.approx(sum(losses) / len(losses))
    mean = ForecastScores.of(forecast[..., 1:2], truth, scales, ())
    assert (mean.mase, mean.smape, mean.quantile_loss) == (found.mase, found.smape, pytest.approx(found.mase / 2))
    assert mean.loss == pytest.approx(sum(error**2 for error in errors) / len(errors))


def test_the_scale_is_the_naive_error_of_the_training_part(air: SplitSeries) -> None:
    numbers = find_series(passengers()).series[0].values[: air.ends[0, 0]]
    by_hand = [abs(numbers[t] - numbers[t - 12]) for t in range(12, len(numbers))]
    assert air.scales[0] == pytest.approx(sum(by_hand) / len(by_hand))
    known = np.ones(4, bool)
    known[1] = False
    assert naive_error(np.array([0.0, 9.0, 1.0, 3.0]), known, 1) == 2.0


def test_the_seasonal_naive_forecast_is_the_last_known_season(air: SplitSeries) -> None:
    far = split_series(air.series, horizon=18, season=12, validation=0.2, test=0.2)
    numbers, windows = air.series[0].values, far.test
    forecast = seasonal_naive(far, windows, (0.1, 0.5, 0.9))
    for row, start in enumerate(windows.start):
        expected = np.concatenate([numbers[start - 12 : start], numbers[start - 12 : start - 6]])
        assert np.array_equal(forecast[row, :, 1], expected)
    assert (np.diff(forecast, axis=2) > 0).all()
    assert np.array_equal(seasonal_naive(far, windows, ())[..., 0], forecast[..., 1])
    wider = forecast[:, 12:, 2] - forecast[:, 12:, 0]
    assert (wider.mean() > (forecast[:, :12, 2] - forecast[:, :12, 0]).mean()).all(), "two seasons apart differ more"


def test_its_error_in_training_is_1_by_definition() -> None:
    """MASE of the seasonal naive forecast with a horizon of a step, on the windows that gave the scale."""
    air = split_series(find_series(passengers()).series, horizon=1, season=12, validation=0.2, test=0.2)
    windows = air.training(12)
    scores = ForecastScores.of(seasonal_naive(air, windows, ()), air.truth(windows), air.scales[windows.series], ())
    assert scores.mase == pytest.approx(1.0)


def test_values_that_were_missing_are_not_scored() -> None:
    frame = passengers()
    frame.loc[140, "passengers"] = np.nan
    found = split_series(find_series(frame).series, horizon=6, season=12, validation=0.2, test=0.2)
    truth = found.truth(found.test)
    assert np.isnan(truth).any()
    assert not np.isnan(found.values).any()
    assert math.isfinite(ForecastScores.of(np.zeros((*truth.shape, 1)), truth, np.ones(len(truth)), ()).mase)


def test_windows_without_an_observed_value_to_forecast_are_left_out() -> None:
    single = series("one", np.random.default_rng(1).normal(size=100))
    single.observed[20:25] = False
    gaps = split_series([single], horizon=3, season=1, validation=0.2, test=0.2)
    assert gaps.training(10).start.tolist() == [*range(10, 20), *range(23, 58)]
    single.observed[57:60] = False  # the last horizon of the training part
    assert split_series([single], horizon=3, season=1, validation=0.2, test=0.2).training(58).start.tolist() == [56]


def test_a_fill_value_changes_neither_scale_nor_centre() -> None:
    values = np.random.default_rng(1).normal(size=60)
    observed = np.arange(60) % 7 != 3
    found = [
        split_series(
            [Series("one", 0, np.where(observed, values, fill), observed)],
            horizon=3,
            season=1,
            validation=0.2,
            test=0.2,
        )
        for fill in (0.0, 1e9)
    ]
    assert found[0].scales == found[1].scales
    assert found[0].centres == found[1].centres


def test_a_series_without_a_value_to_judge_by_is_left_out() -> None:
    single = series("one", np.random.default_rng(1).normal(size=100))
    single.observed[60:80] = False
    with pytest.raises(OptionError, match="'one' cannot be used: its validation part has no value"):
        split_series([single], horizon=3, season=1, validation=0.2, test=0.2)


def test_series_without_a_naive_error_and_short_ones_are_left_out() -> None:
    rng = np.random.default_rng(1)
    flat, short, good = (
        series("flat", np.ones(60)),
        series("short", rng.normal(size=7)),
        series("good", rng.normal(size=60)),
    )
    found = split_series([flat, short, good], horizon=4, season=2, validation=0.2, test=0.2)
    assert [one.name for one in found.series] == ["good"]
    assert set(found.left_out) == {"flat", "short"}
    assert "MASE is not defined" in found.left_out["flat"]
    for bad, words in (
        (flat, "'flat' cannot be used"),
        (short, "horizon=4: the longest series has 7 values: expected at"),
    ):
        with pytest.raises(OptionError, match=words) as caught:
            split_series([bad], horizon=4, season=2, validation=0.2, test=0.2)
        assert "\n" not in str(caught.value)


def test_theta_is_statsmodels_own(air: SplitSeries, monkeypatch: pytest.MonkeyPatch) -> None:
    need("series")
    from statsmodels.tsa.forecasting.theta import ThetaModel

    windows = air.held_out
    forecast = theta_forecast(air, windows, (0.1, 0.5, 0.975))
    months = pd.Series(
        air.values[: windows.start[3]], index=pd.date_range("1949-01", periods=windows.start[3], freq="MS")
    )
    fit = ThetaModel(months).fit()
    assert forecast[3, :, 1] == pytest.approx(fit.forecast(6).to_numpy(), rel=1e-4)
    assert forecast[3, :, 2] == pytest.approx(fit.prediction_intervals(6)["upper"].to_numpy(), rel=1e-4)
    scores = ForecastScores.of(forecast, air.truth(windows), air.scales[windows.series], (0.1, 0.5, 0.975))
    assert scores.mase < 1.0
    without(monkeypatch, "statsmodels")
    with pytest.raises(UsageError, match=r"pip install 'evo-tune\[series\]'"):
        theta_forecast(air, windows, ())
