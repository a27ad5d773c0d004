"""Frequencies and grids of times: against pandas, which made the times."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.training.recipe.data.times import Grid, average_grid, read_times

FREQUENCIES = {
    "MS": ("monthly", 12, 18),
    "ME": ("monthly", 12, 18),
    "QS": ("quarterly", 4, 8),
    "QE": ("quarterly", 4, 8),
    "YS": ("yearly", 1, 6),
    "2MS": ("every 2 months", 6, 6),
    "W-SUN": ("weekly", 52, 13),
    "4W": ("every 28 days", 1, 6),
    "D": ("daily", 7, 14),
    "B": ("business days", 5, 10),
    "h": ("hourly", 24, 48),
    "30min": ("every 30 minutes", 48, 48),
    "15min": ("every 15 minutes", 96, 96),
    "min": ("every minute", 1440, 96),
    "10s": ("every 10 seconds", 1, 6),
    "2D": ("every 2 days", 1, 6),
}


@pytest.mark.parametrize("code", FREQUENCIES)
def test_a_frequency_is_found_and_its_times_are_made_again(code: str) -> None:
    times = pd.date_range("2019-03-01", periods=60, freq=code).to_numpy("datetime64[ns]")
    grid = Grid.of([times])
    assert (grid.name, grid.season, grid.horizon) == FREQUENCIES[code]
    assert grid.positions(times, "t").tolist() == list(range(60))
    assert np.array_equal(grid.times(np.arange(60)), times)
    assert msgspec.convert(asdict(grid), Grid) == grid


def test_times_far_ahead_and_at_any_hour_and_day_of_a_month() -> None:
    grid = Grid.of([pd.date_range("2024-01-30T06:30", periods=2, freq=pd.DateOffset(months=1)).to_numpy("M8[ns]")])
    assert [str(one) for one in grid.times(np.array([0, 1, 2, 13]))] == [
        "2024-01-30T06:30:00",
        "2024-02-29T06:30:00",
        "2024-03-30T06:30:00",
        "2025-02-28T06:30:00",
    ]
    years = Grid.of([pd.date_range("2000-01-01", periods=9, freq="YS").to_numpy("datetime64[ns]")])
    assert str(years.times(np.array([1000]))[0]).startswith("3000-01-01")


@given(st.sets(st.integers(0, 199), min_size=150), st.sampled_from(["MS", "ME", "D", "h", "W-MON", "B"]))
def test_gaps_do_not_change_the_frequency(there: set[int], code: str) -> None:
    times = pd.date_range("2001-01-31", periods=200, freq=code).to_numpy("datetime64[ns]")[sorted(there)]
    grid = Grid.of([times])
    assert grid.season == FREQUENCIES[code.replace("MON", "SUN")][1]
    found = grid.positions(times, "t")
    assert (found - found[0]).tolist() == [one - min(there) for one in sorted(there)]


def test_whole_numbers_are_steps_and_dates_of_eight_digits_are_dates() -> None:
    years = Grid.of([np.arange(1700, 2009)])
    assert (years.name, years.season, years.times(np.array([309]))[0]) == ("whole numbers", 1, 2009)
    assert Grid.of([np.arange(0, 100, 5)]).name == "whole numbers, every 5"
    dates = read_times(pd.Series([20240131, 20240201]), "t").values
    assert dates.tolist() == np.array(["2024-01-31", "2024-02-01"], "datetime64[ns]").tolist()


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["31.12.2020", "01.01.2021"], "2020-12-31"),
        (["Jan-1-1995", "Feb-1-1995"], "1995-01-01"),
        (["2020-06-01T00:00+02:00", "2020-06-02T00:00+02:00"], "2020-06-01"),  # midnight there: a date
        (["2020-06-01T01:00+02:00", "2020-06-01T02:00+02:00"], "2020-05-31T23:00"),
        (["1800-01-01", "1800-02-01"], "1800-01-01"),
        (["1678-01-01", "2261-12-31"], "1678-01-01"),
        (["2020-03-29T01:00+01:00", "2020-03-29T03:00+02:00"], "2020-03-29T00:00"),  # summer time begins
        (["2020-03-29 00:00 +0100", "2020-03-30 00:00 +0200"], "2020-03-29"),
        (["2020-03-29T01:00:00.000+01:00", "2020-03-29T02:00:00.000Z"], "2020-03-29T00:00"),
        (["01/02/2024", "01/03/2024", "01/04/2024", "01/05/2024"], "2024-01-02"),  # days, if the months came first
        (["01/12/2023", "01/01/2024", "01/02/2024", "01/03/2024"], "2023-12-01"),  # uneven if the months came first
        (["12.01.2024", "13.01.2024"], "2024-01-12"),
    ],
)
def test_texts_are_times(texts: list[str], first: str) -> None:
    assert read_times(pd.Series(texts), "t").values[0] == np.datetime64(first)


def test_a_file_that_is_read_later_has_its_days_and_months_in_the_order_of_the_first() -> None:
    first = read_times(pd.Series(["12.01.2024", "13.01.2024"]), "t")
    later = pd.Series(["01.02.2024", "02.02.2024"])
    assert first.day_first
    assert read_times(later, "t", first.day_first).values[0] == np.datetime64("2024-02-01")
    assert read_times(later, "t", False).values[0] == np.datetime64("2024-01-02")


def test_times_with_a_zone_are_marked_unless_they_are_dates() -> None:
    assert read_times(pd.Series(["2020-06-01T01:00Z", "2020-06-01T02:00Z"]), "t").utc
    assert not read_times(pd.Series(["2020-06-01T00:00+02:00", "2020-06-02T00:00+02:00"]), "t").utc
    zoned = pd.Series(pd.date_range("2020-03-28", periods=48, freq="h", tz="Europe/Berlin"))
    assert read_times(zoned, "t").utc
    assert np.array_equal(read_times(zoned, "t").values, zoned.dt.tz_convert(None).to_numpy("datetime64[ns]"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["2020-01-01", None], "row 2 has no time"),
        (["2020-01-01", "soon"], "row 2 has 'soon': expected dates of one format"),
        (
            ["2020-01-01T00:00+01:00", "2020-07-01T00:00"],
            "with and without a time zone: expected one; write all in UTC",
        ),
        (["2020-01-01T00:00Z", "2020-07-01T00:00", "soon"], "with and without a time zone"),
        (["2020-01-01", "03.01.2020", "2020-01-05"], "its rows have several formats: expected dates of one format"),
        (["1500-01-01", "1500-02-01"], "row 1 has '1500-01-01': expected dates"),
        (["2020-01-01", "9999-12-31"], "row 2 has '9999-12-31': expected dates"),
        ([1.5, 2.5], "numbers that are not whole"),
        ([True, False], "holds bool"),
    ],
)
def test_what_is_no_time_is_refused_in_one_line(values: list[Any], words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        read_times(pd.Series(values), "t")
    assert "\n" not in str(caught.value)


def test_a_time_off_the_grid_is_refused() -> None:
    times = pd.date_range("2020-01-01", periods=10, freq="h").to_numpy("datetime64[ns]")
    with pytest.raises(OptionError, match="2020-01-01T09:20:00 is not one of the hourly times from 2020-01-01: round"):
        Grid.of([times]).positions(np.append(times[:9], times[9] + np.timedelta64(20, "m")), "t")
    with pytest.raises(OptionError, match="expected dates"):
        Grid.of([times]).positions(np.arange(3), "t")


def jittered(step: str, most: int, count: int = 300) -> NDArray[Any]:
    """Return times at regular steps, each moved by at most some seconds."""
    moved = np.random.default_rng(0).integers(-most, most + 1, count)
    return pd.date_range("2024-01-01", periods=count, freq=step).to_numpy("datetime64[ns]") + moved.astype("m8[s]")


def test_irregular_times_get_the_shortest_calendar_step_that_is_nearly_full() -> None:
    rng = np.random.default_rng(1)
    events = np.unique(np.datetime64("2024-01-01", "ns") + np.cumsum(rng.exponential(2.0, 900) * 3600).astype("m8[s]"))
    days = np.datetime64("2000-01-03", "ns") + np.cumsum(rng.integers(1, 6, 400)).astype("m8[D]")
    cases = [
        (jittered("h", 200), "hourly", "nearest"),
        (jittered("h", 200) + np.timedelta64(30, "m"), "hourly", "within"),
        (jittered("D", 7200), "daily", "nearest"),
        (events, "every 6 hours", "within"),
        (days, "weekly", "within"),
    ]
    for times, name, averaged in cases:
        grid, way = average_grid([times])  # type: ignore[misc]
        assert (grid.name, way) == (name, averaged)
        positions = grid.positions(times, "t", way)
        assert (positions >= 0).all()
        assert len(np.unique(positions)) >= 0.8 * (np.ptp(positions) + 1)
        distance = times - grid.times(positions)
        middle = np.timedelta64(grid.step // 2 * (way == "nearest"), "ns")
        assert (np.abs(distance + middle) < np.timedelta64(grid.step, "ns")).all()
    gap = np.delete(pd.date_range("2024-01-01", periods=40).to_numpy("datetime64[ns]"), np.arange(5, 30))
    assert average_grid([gap]) is None


@pytest.mark.parametrize(
    ("step", "first"),
    [("hour", "2024-05-15T10:00"), ("day", "2024-05-15"), ("week", "2024-05-13"), ("quarter", "2024-04-01")],
)
def test_calendar_steps_begin_at_whole_hours_days_weeks_and_quarters(step: str, first: str) -> None:
    time = np.datetime64("2024-05-15T10:17", "ns")
    grid = Grid.of_calendar(step, time)
    assert grid.times(np.array([0]))[0] == np.datetime64(first)
    assert grid.positions(np.array([time]), "t", "within").tolist() == [0]
    assert Grid.of_calendar("month", np.datetime64("1850-03-09", "ns")).format_time(0) == "1850-03-01"


def test_business_days_at_one_hour_are_business_days() -> None:
    times = pd.date_range("2024-01-01T09:30", periods=60, freq="B").to_numpy("datetime64[ns]")
    grid = Grid.of([times])
    assert grid.name == "business days"
    assert grid.positions(times, "t").tolist() == list(range(60))
    assert np.array_equal(grid.times(np.arange(60)), times)
