"""Covariates of series: as they are read, standardised from training rows only, and hidden where they are unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from evo_tune.errors import OptionError
from evo_tune.training.recipe.data.forecasts import SplitSeries, split_series
from evo_tune.training.recipe.data.series import find_series, standardise_covariates


@pytest.fixture
def sales() -> pd.DataFrame:
    """100 days with sales, and seven more without; promo and price are known ahead, visits are not."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=107), "sold": rng.normal(size=107).cumsum()})
    frame["price"], frame["promo"] = rng.normal(5.0, 2.0, 107), rng.random(107) < 0.3
    frame["visits"] = rng.normal(100.0, 10.0, 107)
    frame.loc[100:, ["sold", "visits"]] = np.nan
    return frame


def split(frame: pd.DataFrame, **settings: Any) -> SplitSeries:
    found = find_series(frame, **{"target": "sold", "known": "price,promo", "past": "visits", **settings})
    inputs = found.format.covariates
    return split_series(found.series, horizon=5, season=1, validation=0.2, test=0.2, inputs=inputs)


def test_covariates_are_read_with_the_rows_after_the_last_value(sales: pd.DataFrame) -> None:
    found = find_series(sales, target="sold", known="price,promo", past="visits")
    assert found.format.columns == ("day", "sold", "visits", "price", "promo")
    (series,) = found.series
    assert series.covariates is not None
    assert (len(series), series.covariates.shape) == (100, (107, 3))
    assert np.array_equal(series.covariates, sales[["visits", "price", "promo"]].to_numpy(float), equal_nan=True)
    assert "covariates known ahead: price, promo" in found.lines()
    assert "covariates known up to the last value: visits" in found.lines()


def test_each_series_of_a_long_table_has_its_own_covariates(sales: pd.DataFrame) -> None:
    other = sales.assign(shop="b", price=sales["price"] + 9.0).iloc[10:]
    both = pd.concat([sales.assign(shop="a"), other]).sample(frac=1.0, random_state=1)
    first, second = find_series(both, key="shop", target="sold", known="price").series
    assert first.covariates is not None
    assert second.covariates is not None
    assert (second.first, len(second.covariates)) == (10, 97)
    assert np.allclose(second.covariates, first.covariates[10:] + 9.0)
    wide = find_series(sales.assign(also=sales["sold"]), target="sold,also", known="price").series
    assert np.array_equal(wide[0].covariates, wide[1].covariates)  # type: ignore[arg-type]


def test_a_row_far_ahead_takes_no_memory(sales: pd.DataFrame) -> None:
    far = pd.DataFrame({"day": [pd.Timestamp("2250-01-01")], "price": [1.0]})
    (series,) = find_series(pd.concat([sales, far]), target="sold", known="price").series
    assert series.covariates is not None
    assert len(series.covariates) == 107


def test_covariates_are_averaged_with_their_values(sales: pd.DataFrame) -> None:
    (series,) = find_series(sales, target="sold", known="price", step="week").series
    assert series.covariates is not None
    assert np.allclose(series.covariates[:15, 0], sales["price"].to_numpy()[:105].reshape(15, 7).mean(1))


def test_scales_are_those_of_the_training_part(sales: pd.DataFrame) -> None:
    found = split(sales)
    training = int(found.ends[0, 0])
    part = sales[["visits", "price", "promo"]].to_numpy(float)[:training]
    assert np.allclose(found.covariate_scales, np.stack([part.mean(0), part.std(0)], 1))
    assert found.inputs.shape == (100, 4)
    assert np.allclose(found.inputs[:training, 1:].mean(0), 0.0, atol=1e-6)
    changed = sales.copy()
    changed.loc[training:, ["sold", "price", "visits"]] *= -50.0
    assert np.array_equal(split(changed).inputs[:training], found.inputs[:training])
    assert not np.array_equal(split(changed).inputs, found.inputs)


def test_a_missing_covariate_takes_the_value_before_or_the_mean() -> None:
    values = np.array([[np.nan, 3.0], [5.0, np.nan], [np.nan, np.nan], [7.0, 9.0]])
    scales = np.array([[1.0, 2.0], [3.0, 3.0]])
    assert standardise_covariates(values, scales).tolist() == [[0.0, 0.0], [2.0, 0.0], [2.0, 0.0], [3.0, 2.0]]


def test_covariates_that_cannot_be_used_are_refused_in_one_line(sales: pd.DataFrame) -> None:
    cases: list[tuple[pd.DataFrame, dict[str, Any], str]] = [
        (sales, {"known": "prize"}, "-o known=prize: no such column; there are day, sold, price, promo, visits"),
        (sales, {"past": "price"}, "-o known=price,promo and -o past=price name a column twice"),
        (sales, {"target": "price", "known": "price"}, "-o target=price: this column has .*, or is a covariate"),
        (sales, {"known": "day"}, "column 'day' holds datetime64.*: expected numbers"),
        (sales.astype({"day": str}), {"known": "day"}, "column 'day': row 1 has '2024-01-01': expected numbers"),
        (
            sales.assign(price=3.0),
            {},
            "covariate 'price' has one value, or too few, before the validation part: leave it",
        ),
        (sales.assign(price=sales["price"].where(sales.index % 2 > 0)), {}, "'price' has one value, or too few"),
        (sales.assign(promo="yes"), {}, "column 'promo': row 1 has 'yes': expected numbers"),
        (pd.concat([sales, sales.assign(price=0.0)]), {}, "occurs twice with different values"),
    ]
    for frame, settings, words in cases:
        with pytest.raises(OptionError, match=words) as caught:
            split(frame, **settings)
        assert "\n" not in str(caught.value)
