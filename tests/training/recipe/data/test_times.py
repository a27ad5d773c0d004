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

from evo_tune.errors import OptionError
from evo_tune.training.recipe.data.times import Grid, read_times

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
    assert read_times(pd.Series([20240131, 20240201]), "t").tolist() == [
        pd.Timestamp(2024, 1, 31),
        pd.Timestamp(2024, 2, 1),
    ]


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["31.12.2020", "01.01.2021"], "2020-12-31"),
        (["Jan-1-1995", "Feb-1-1995"], "1995-01-01"),
        (["2020-06-01T00:00+02:00", "2020-06-02T00:00+02:00"], "2020-06-01"),  # midnight there: a date
        (["2020-06-01T01:00+02:00", "2020-06-01T02:00+02:00"], "2020-05-31T23:00"),
    ],
)
def test_texts_are_times(texts: list[str], first: str) -> None:
    assert read_times(pd.Series(texts), "t").iloc[0] == pd.Timestamp(first)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["2020-01-01", None], "row 2 has no time"),
        (["2020-01-01", "soon"], "row 2 has 'soon': expected dates of one format"),
        (
            ["2020-01-01T00:00+01:00", "2020-07-01T00:00+02:00"],
            "several time zones: expected one; write all in UTC",
        ),
        (["2020-01-01T00:00+01:00", "2020-07-01T00:00"], "several time zones"),
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
