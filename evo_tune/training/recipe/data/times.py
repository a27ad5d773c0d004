"""Times of series: reading a column, finding its frequency, and positions on a regular grid.

This module knows times, not the values at these times.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.options.declare import check_integer, check_name

if TYPE_CHECKING:
    import pandas as pd

# Nanoseconds of a day and of a second.
DAY, SECOND = 86_400_000_000_000, 1_000_000_000

# Season to default horizon, as in the M4 competition (Makridakis et al. 2020); business days: two weeks.
HORIZONS = {24: 48, 7: 14, 5: 10, 52: 13, 12: 18, 4: 8}

# Default horizon without a season (M4's for years), and the largest default horizon.
NO_SEASON, LONGEST = 6, 96

# Offset from UTC at the end of a time, and the beginning of a date without the year first.
OFFSET = re.compile(r"(:\d\d(?:\.\d+)?)\s*(Z|[+-]\d\d:?\d\d)$")
DAY_OR_MONTH = re.compile(r"\s*\d{1,2}[-/.]\d{1,2}[-/.]")

# Kind and step of the grids to which values are averaged, by name, from short to long.
DAY_PARTS = {"minute": 1440, "5min": 288, "15min": 96, "30min": 48, "hour": 24, "3h": 8, "6h": 4, "12h": 2, "day": 1}
STEPS = {name: ("fixed", DAY // parts) for name, parts in DAY_PARTS.items()}
STEPS |= {"week": ("fixed", 7 * DAY), "month": ("months", 1), "quarter": ("months", 3), "year": ("months", 12)}

# Largest step to which irregular times are averaged without being asked for, in median distances between times.
MOST_DISTANCES = 12

# Largest share of the steps of a grid without a value.
MOST_MISSING = 0.2

NAMES = {
    ("months", 1): "monthly",
    ("months", 3): "quarterly",
    ("months", 12): "yearly",
    ("business", 1): "business days",
    ("fixed", 7 * DAY): "weekly",
    ("fixed", DAY): "daily",
    ("fixed", DAY // 24): "hourly",
}


class Times(NamedTuple):
    """A column of times.

    Args:
        values: (n,), datetime64[ns] without a zone, or int64.
        utc: Whether they have a time zone, and are given in UTC.
        day_first: Whether texts have the day before the month.
    """

    values: NDArray[Any]
    utc: bool = False
    day_first: bool = False


def read_times(column: pd.Series[Any], name: str, day_first: bool | None = None) -> Times:
    """Return a column as times or as whole numbers.

    Texts are dates in any one format that pandas reads. Whole numbers of eight digits that are dates, such as 20240131,
    are dates; other whole numbers, such as years, are steps. Times with a zone become UTC; if all of them are at
    midnight of their zone, they stay dates of that zone.

    Args:
        column: The column.
        name: Its name, for messages.
        day_first: Whether 01/02/2024 is in February; None: the order that gives the more regular times.

    Raises:
        OptionError: A row has no time, a value is no time or outside of 1678 to 2261, or only some have a zone.
    """
    import pandas as pd
    from pandas.api import types

    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0]) + 1
        raise OptionError(f"time column {name!r}: row {row} has no time: fill it in, or remove the row")
    if types.is_bool_dtype(column) or types.is_timedelta64_dtype(column):
        raise OptionError(f"time column {name!r} holds {column.dtype}: expected dates, or whole numbers")
    if types.is_numeric_dtype(column):
        return Times(_read_whole_numbers(column, name))
    times, is_day_first = column, False
    if not types.is_datetime64_any_dtype(column):
        times, is_day_first = _parse(column.astype(str), name, day_first)
    if utc := getattr(times.dt, "tz", None) is not None:
        local = times.dt.tz_localize(None)
        utc = bool((local != local.dt.normalize()).any())
        times = times.dt.tz_convert("UTC").dt.tz_localize(None) if utc else local
    outside = ~times.between(pd.Timestamp.min, pd.Timestamp.max).to_numpy()
    if outside.any():
        raise OptionError(
            f"time column {name!r}: row {outside.argmax() + 1} has {str(column.iloc[outside.argmax()])!r}: expected "
            "dates from 1678 to 2261; give the years of others as whole numbers"
        )
    return Times(times.to_numpy("datetime64[ns]"), utc, is_day_first)


def _read_whole_numbers(column: pd.Series[Any], name: str) -> NDArray[Any]:
    import pandas as pd

    numbers = column.to_numpy(float)
    if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any() or np.abs(numbers).max() >= 2**53:
        raise OptionError(f"time column {name!r} holds numbers that are not whole: expected dates, or whole numbers")
    whole = column.astype("int64")
    if whole.between(10_000_101, 99_991_231).all():
        dates: pd.Series[Any] = pd.to_datetime(whole.astype(str), format="%Y%m%d", errors="coerce")
        if dates.notna().all():
            return dates.to_numpy("datetime64[ns]")
    return whole.to_numpy()


def _parse(texts: pd.Series[Any], name: str, day_first: bool | None) -> tuple[pd.Series[Any], bool]:
    """Return texts as times, all read by one format, and whether the day was read before the month."""
    import pandas as pd

    problem, readings = "", []
    ambiguous = day_first is None and DAY_OR_MONTH.match(texts.iloc[0])
    with warnings.catch_warnings():  # of a format that pandas finds with difficulty: its result is checked
        warnings.simplefilter("ignore")
        for settings in ({"dayfirst": bool(day_first)}, {"dayfirst": True}, {"format": "ISO8601"}):
            try:
                times: Any = pd.to_datetime(texts, **settings)
                if not pd.api.types.is_datetime64_any_dtype(times):
                    raise ValueError("mixed timezones")
                readings.append((times, bool(settings.get("dayfirst"))))
            except (ValueError, TypeError, OverflowError) as error:
                problem = problem or str(error).lower()
            if readings and not ambiguous:
                break
        offsets = texts.str.extract(OFFSET)[1]
        if readings and offsets.isna().nunique() < 2:  # pandas 2 reads times with and without a zone as one kind
            return min(readings, key=lambda reading: _unevenness(reading[0]))
        if offsets.notna().all() and offsets.nunique() > 1:  # those of a place with summer time
            local, order = _parse(texts.str.replace(OFFSET, r"\1", regex=True), name, day_first)
            are_dates = (local == local.dt.normalize()).all()
            return (local if are_dates else pd.to_datetime(texts, dayfirst=order, utc=True)), order
        bad = pd.to_datetime(texts, errors="coerce", format="mixed", utc=True).isna().to_numpy()
    if offsets.nunique(dropna=False) > 1 or any(word in problem for word in ("timezone", "tz-aware", "tz-naive")):
        raise OptionError(
            f"time column {name!r} has times with and without a time zone: expected one; write all in UTC, as "
            "2024-01-31T12:00Z"
        )
    content = (
        f"row {bad.argmax() + 1} has {texts.iloc[bad.argmax()]!r}" if bad.any() else "its rows have several formats"
    )
    raise OptionError(f"time column {name!r}: {content}: expected dates of one format, such as 2024-01-31 12:00")


def _unevenness(times: pd.Series[Any]) -> float:
    """Return the largest distance between times that follow each other, in median distances."""
    distances = np.diff(np.unique(times.to_numpy("datetime64[s]"))).astype(float)
    return float(distances.max() / np.median(distances)) if len(distances) else 0.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Regular times: an origin and equal steps.

    Args:
        kind: 'months' (steps of calendar months), 'business' (Monday to Friday), 'fixed' (nanoseconds) or 'whole'
            (whole numbers).
        step: Months, days, nanoseconds or numbers in a step (int ≥ 1).
        origin: Time at position 0: nanoseconds since 1970, or a whole number.
        month_end: Whether times of kind 'months' are the last days of months.
    """

    kind: str
    step: int
    origin: int
    month_end: bool = False

    def __post_init__(self) -> None:
        check_name("kind", self.kind, ("months", "business", "fixed", "whole"))
        check_integer("step", self.step, 1, {"months": 1200, "business": 1}.get(self.kind, 2**62))
        check_integer("origin", self.origin, -(2**63), 2**63 - 1)

    @classmethod
    def of(cls, times: Sequence[NDArray[Any]]) -> Grid:
        """Find the frequency of some series.

        Args:
            times: Sorted different times of each series: datetime64[ns] or int64.

        Raises:
            OptionError: No series has two times.
        """
        import pandas as pd

        # Not by pandas.infer_freq: it needs three times without a gap, and knows no months that begin on the 15th.
        numbers = [series_times.astype("int64") for series_times in times if len(series_times)]
        steps = np.concatenate([np.diff(positions) for positions in numbers]) if numbers else np.empty(0, "int64")
        if not len(steps):
            raise OptionError("no series has two times, so there is no frequency: expected a series with a past")
        origin, median = int(min(positions[0] for positions in numbers)), int(np.median(steps))
        values, counts = np.unique(steps, return_counts=True)
        most_frequent = int(values[counts.argmax()])  # the smallest of several
        if times[0].dtype.kind == "i":
            return cls(kind="whole", step=most_frequent, origin=origin)
        if median >= 28 * DAY and (steps % (7 * DAY)).any():
            month_end = all(bool(pd.DatetimeIndex(series_times).is_month_end.all()) for series_times in times)
            months = max(1, round(median / (30.4375 * DAY)))
            return cls(kind="months", step=months, origin=origin, month_end=month_end)
        weekdays = all(bool(np.is_busday(series_times.astype("datetime64[D]")).all()) for series_times in times)
        at_one_hour = not any(((positions - origin) % DAY).any() for positions in numbers)
        if median == DAY and weekdays and at_one_hour and (steps >= 3 * DAY).any():
            return cls(kind="business", step=1, origin=origin)
        return cls(kind="fixed", step=most_frequent, origin=origin)

    @classmethod
    def of_calendar(cls, name: str, first: Any) -> Grid:
        """Return the grid of a step of `STEPS` at whole minutes, hours, days, weeks (from Monday), months or years.

        Args:
            name: Name of the step.
            first: Time in the first step: datetime64[ns].
        """
        kind, step = STEPS[name]
        if kind == "months":
            months = int(first.astype("datetime64[M]").astype("int64"))
            origin = int(np.datetime64(months - months % step, "M").astype("datetime64[ns]").astype("int64"))
        else:
            monday = 4 * DAY if step == 7 * DAY else 0  # 1970-01-05
            origin = int(first.astype("int64"))
            origin -= (origin - monday) % step
        return cls(kind=kind, step=step, origin=origin)

    @property
    def name(self) -> str:
        """The frequency in words: 'monthly', 'every 15 minutes', 'whole numbers'."""
        if self.kind == "whole":
            return "whole numbers" if self.step == 1 else f"whole numbers, every {self.step}"
        if (self.kind, self.step) in NAMES:
            return NAMES[self.kind, self.step]
        if self.kind == "months":
            return f"every {self.step} months"
        for unit, size in (("day", DAY), ("hour", DAY // 24), ("minute", DAY // 1440), ("second", DAY // 86400)):
            count, remainder = divmod(self.step, size)
            if not remainder:
                return f"every {unit}" if count == 1 else f"every {count} {unit}s"
        return f"every {self.step} ns"

    @property
    def season(self) -> int:
        """Usual number of steps in a season: a year of months and weeks, a week of days, a day of hours; 1: none."""
        if self.kind == "months":
            return 12 // self.step if 12 % self.step == 0 else 1
        if self.kind == "business":
            return 5
        if self.kind == "whole":
            return 1
        if self.step in (7 * DAY, DAY):
            return 52 if self.step == 7 * DAY else 7
        steps_per_day = DAY // self.step
        return steps_per_day if DAY % self.step == 0 and steps_per_day <= 1440 else 1

    @property
    def horizon(self) -> int:
        """Default horizon in steps."""
        return HORIZONS.get(self.season, min(self.season, LONGEST) if self.season > 1 else NO_SEASON)

    def positions(self, times: NDArray[Any], name: str, averaged: str = "") -> NDArray[np.int64]:
        """Return the position of each time on the grid (int64).

        Args:
            times: datetime64[ns] or int64.
            name: Name of the column, for messages.
            averaged: 'within': times between two positions are at the earlier one; 'nearest': at the nearer one, of
                kind 'fixed'; '': they are errors.

        Raises:
            OptionError: A time is not on the grid, or of another kind.
        """
        if (times.dtype.kind == "i") != (self.kind == "whole"):
            raise OptionError(f"time column {name!r}: expected {'whole numbers' if self.kind == 'whole' else 'dates'}")
        origin: Any = self.origin if self.kind == "whole" else np.datetime64(self.origin, "ns")
        if self.kind == "months":
            months = (times.astype("datetime64[M]") - origin.astype("datetime64[M]")).astype("int64")
            positions, remainder = np.divmod(months, self.step)
        elif self.kind == "business":
            days = times.astype("datetime64[D]")
            positions = np.busday_count(origin.astype("datetime64[D]"), days)
            remainder = ~np.is_busday(days) | ((times.astype("int64") - self.origin) % DAY != 0)
        else:
            first = self.origin - (self.step // 2 if averaged == "nearest" else 0)
            positions, remainder = np.divmod(times.astype("int64") - first, self.step)
        off_grid = (remainder != 0) & (not averaged)
        if off_grid.any():
            raise OptionError(
                f"time column {name!r}: {_format(times[off_grid.argmax()])} is not one of the {self.name} times from "
                f"{self.format_time(0)}: round the times, or aggregate to regular ones"
            )
        return np.asarray(positions, "int64")

    def missing_share(self, times: Sequence[NDArray[Any]], averaged: str) -> float:
        """Return the largest share of steps without a time, over series; see `positions`."""
        positions = [np.unique(self.positions(series_times, "", averaged)) for series_times in times]
        return max(1.0 - len(steps) / (int(steps[-1] - steps[0]) + 1) for steps in positions)

    def times(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Return the times at positions, as datetime64 of seconds or nanoseconds; int64 for kind 'whole'."""
        if self.kind == "whole":
            return self.origin + self.step * positions
        unit, size = ("ns", 1) if (self.origin | self.step * (self.kind == "fixed")) % SECOND else ("s", SECOND)
        origin: Any = np.array(self.origin // size).astype(f"datetime64[{unit}]")
        if self.kind == "fixed":
            return np.asarray(origin + (self.step // size * positions).astype(f"timedelta64[{unit}]"))
        first = origin.astype("datetime64[D]")
        if self.kind == "business":
            days = np.busday_offset(first, positions)
        else:
            months = origin.astype("datetime64[M]") + (self.step * positions).astype("timedelta64[M]")
            starts, after = (month.astype("datetime64[D]") for month in (months, months + np.timedelta64(1, "M")))
            last = after - np.timedelta64(1, "D")
            days = last if self.month_end else np.minimum(starts + (first - first.astype("datetime64[M]")), last)
        return np.asarray(days + (origin - first))

    def format_time(self, position: int) -> str:
        """Return a time in words, as short as the frequency allows."""
        return _format(self.times(np.array([position]))[0])


def average_grid(times: Sequence[NDArray[Any]]) -> tuple[Grid, str] | None:
    """Return the shortest calendar grid of which at most `MOST_MISSING` is empty, and the way to average; None: none.

    Its step is at most `MOST_DISTANCES` median distances between times.

    Args:
        times: See `Grid.of`; datetime64[ns].
    """
    distances = np.concatenate([np.diff(series_times) for series_times in times])
    longest = MOST_DISTANCES * np.median(distances.astype(float))
    for name, (kind, step) in STEPS.items():
        if (30 * DAY * step if kind == "months" else step) > longest:
            break
        grid = Grid.of_calendar(name, min(series_times[0] for series_times in times))
        shares = {averaged: grid.missing_share(times, averaged) for averaged in ("within", "nearest")}
        fullest = min(shares, key=lambda averaged: shares[averaged])
        if shares[fullest] <= MOST_MISSING:
            return grid, fullest
    return None


def _format(time: Any) -> str:
    if np.issubdtype(type(time), np.integer):
        return str(time)
    return str(time.astype("datetime64[s]")).removesuffix("T00:00:00")
