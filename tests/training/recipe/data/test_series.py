"""Series as they are read of files: both layouts, gaps, and refusals in one line."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from evo_tune.errors import OptionError
from evo_tune.training.recipe.data.series import SeriesData, SeriesFormat, find_series, passengers

DAYS = pd.date_range("2024-01-01", periods=40)

# pandas 2 cannot read this date at all, so that no column holds times.
NO_DATE = "'day': row 1 has '1500-01-01': expected dates from 1678 to 2261"
if pd.__version__ < "3":
    NO_DATE = "no column holds times"


@pytest.fixture
def wide() -> pd.DataFrame:
    return pd.DataFrame({"day": DAYS.astype(str), "north": np.arange(40.0), "south": np.arange(40.0) ** 2})


def read(frame: pd.DataFrame, **given: Any) -> SeriesData:
    return find_series(frame, **given)


def test_wide_and_long_tables_hold_the_same_series(wide: pd.DataFrame) -> None:
    long = wide.melt("day", var_name="shop", value_name="sold").sample(frac=1.0, random_state=1)
    one, two = read(wide), read(long, key="shop", target="sold")
    for mine, other in zip(one.series, two.series, strict=True):
        assert mine.name == other.name
        assert np.array_equal(mine.values, other.values)
    again = msgspec.convert(json.loads(json.dumps(asdict(two.format))), SeriesFormat)
    assert again == two.format
    assert [len(series.values) for series in again.read(long)] == [40, 40]


def test_a_gap_takes_the_value_of_a_season_before_and_is_not_known(wide: pd.DataFrame) -> None:
    wide.loc[[3, 20], "north"] = np.nan  # the fourth day has no week before it
    frame = wide.drop(index=[12])
    found = read(frame, season=7)
    (north, south), lost = found.series, np.flatnonzero(~found.series[0].observed).tolist()
    assert lost == [3, 12, 20]
    assert [north.values[at] for at in lost] == [2.0, 5.0, 13.0]
    assert south.values[12] == 25.0
    assert "4 of 80 values are missing, in 2 series; each takes the value of a season before" in found.lines()


def test_series_begin_and_end_where_their_values_do(wide: pd.DataFrame) -> None:
    wide.loc[:9, "north"] = np.nan
    wide.loc[35:, "south"] = np.nan
    north, south = read(wide).series
    assert (north.first, len(north.values), south.first, len(south.values)) == (10, 30, 0, 35)
    assert north.observed.all()


def test_rows_that_repeat_are_left_out_and_said(wide: pd.DataFrame) -> None:
    found = read(pd.concat([wide, wide.tail(2)]))
    assert (found.merged, len(found.series[0].values)) == (2, 40)
    assert "2 rows repeat another one and are left out" in found.lines()


def test_the_default_data_is_box_and_jenkins_series_g() -> None:
    found = read(passengers())
    assert found.lines() == [
        "1 series of 144 values, monthly, 1949-01-01 to 1960-12-01; season 12; times in column 'month'",
        "no value is missing",
    ]
    by_year = found.series[0].values.reshape(12, 12).mean(1)  # as in R's documentation of AirPassengers
    assert by_year.round(1).tolist() == [
        126.7, 139.7, 170.2, 197.0, 225.0, 238.9, 284.0, 328.2, 368.4, 381.0, 428.3, 476.2,
    ]  # fmt: skip


def broken(wide: pd.DataFrame, column: str, row: int, value: Any) -> pd.DataFrame:
    frame = wide.astype({column: object})
    frame.loc[row, column] = value
    return frame


def test_tables_that_cannot_be_used_are_refused_in_one_line(wide: pd.DataFrame) -> None:
    shops = wide.assign(shop=["a", "b"] * 20)
    cases: list[tuple[pd.DataFrame, dict[str, Any], str]] = [
        (wide[["north", "south"]], {}, "no column holds times, of north, south: name it with -o time=COLUMN"),
        (wide.assign(also=wide["day"]), {}, r"2 columns hold times \(day, also\)"),
        (wide.assign(day="1500-01-01"), {}, NO_DATE),
        (
            wide.assign(day=["2024-01-01T00:00Z", "2024-01-02T00:00"] * 20),
            {},
            "'day' has times with and without a time",
        ),
        (wide, {"time": "date"}, "time=date: no such column; there are day, north, south"),
        (wide, {"target": "west"}, "target=west: no such column"),
        (wide, {"target": "day"}, "target=day: this column has the times or the key"),
        (wide[["day"]], {}, "no column of values beside the time"),
        (shops, {}, "column 'shop' holds text: if it tells the series apart, give -o key=shop"),
        (shops, {"key": "shop"}, "needs one column of values, of north, south: give -o target=COLUMN"),
        (broken(shops, "shop", 3, None), {"key": "shop", "target": "north"}, "-o key=shop: 1 rows have none"),
        (broken(wide, "north", 4, "n.a."), {}, "column 'north': row 5 has 'n.a.': expected numbers"),
        (broken(wide, "north", 4, np.inf), {}, "column 'north': row 5 is infinite"),
        (
            broken(wide, "day", 4, "2024-01-04"),
            {},
            "2024-01-04 occurs twice with different values: if",
        ),
        (wide.drop(index=range(5, 30)), {}, "'north': 62% of its 40 daily values are missing: expected at most 20%"),
        (wide.head(1), {}, "no series has two times"),
        (wide.assign(north=np.nan, south=np.nan), {}, "column 'north' holds no number"),
    ]
    for frame, given, words in cases:
        with pytest.raises(OptionError, match=words) as caught:
            read(frame, **given)
        assert "\n" not in str(caught.value)


def test_a_table_of_another_frequency_or_without_a_column_is_refused(wide: pd.DataFrame) -> None:
    form = read(wide).format
    with pytest.raises(OptionError, match="the table has no column 'south': expected the columns day, north, south"):
        form.read(wide.drop(columns="south"))
    hours = wide.assign(day=pd.date_range("2024-01-01", periods=40, freq="h"))
    with pytest.raises(OptionError, match="2024-01-01T01:00:00 is not one of the daily times"):
        form.read(hours)


def test_irregular_times_are_averaged_and_the_line_says_so() -> None:
    moved = np.random.default_rng(0).integers(-200, 201, 300).astype("m8[s]")
    hours = pd.date_range("2024-01-01", periods=300, freq="h").to_numpy("datetime64[ns]")
    frame = pd.DataFrame({"time": (hours + moved).astype(str), "load": np.arange(300.0)}).drop(index=[7])
    found = read(pd.concat([frame, pd.DataFrame({"time": ["2024-01-01T10:20"], "load": [20.0]})]))
    assert (found.format.grid.name, found.format.averaged, len(found.series[0])) == ("hourly", "nearest", 300)
    assert found.series[0].values[[0, 9, 10, 299]].tolist() == [0.0, 9.0, 15.0, 299.0]
    assert "300 values are averaged to 299 at regular times: hourly" in found.lines()
    assert "1 of 300 values are missing, in 1 series; each takes the value of a season before" in found.lines()
    again = msgspec.convert(json.loads(json.dumps(asdict(found.format))), SeriesFormat)
    later = frame.tail(48).assign(load=7.0)
    assert again.read(later)[0].first == 252
    assert again.read(pd.concat([later, later.assign(load=9.0)]))[0].values[-1] == 8.0


def test_a_step_averages_repeated_times_too(wide: pd.DataFrame) -> None:
    twice = pd.concat([wide, wide.assign(north=wide["north"] + 4.0)])
    with pytest.raises(OptionError, match=r"occurs twice .*; -o step=day, for example, gives the mean of each day"):
        read(twice)
    north = read(twice, step="day").series[0]
    assert north.values.tolist() == (np.arange(40.0) + 2.0).tolist()
    weekly = read(wide, step="week")
    assert weekly.format.grid.name == "weekly"
    assert weekly.series[0].values.tolist() == [3.0, 10.0, 17.0, 24.0, 31.0, 37.0]
    assert weekly.series[0].observed.all()
    with pytest.raises(OptionError, match="-o step=day: the times are whole numbers: expected dates, or no step"):
        read(wide.assign(day=range(40)), time="day", step="day")


def test_regular_times_are_never_averaged_unasked(wide: pd.DataFrame) -> None:
    assert read(wide).format.averaged == ""
    with pytest.raises(OptionError, match=r"are missing: expected at most 20%.*; -o step=week, for example"):
        read(wide.drop(index=range(5, 30)))
