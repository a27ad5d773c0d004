"""Times of series: reading a column, finding its frequency, and positions on a regular grid.

This module knows times, not the values at these times.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

# Offset from UTC at the end of a text that is a time.
OFFSET = re.compile(r":\d\d(?:\.\d+)?\s*(Z|[+-]\d\d:?\d\d)$")

NAMES = {
    ("months", 1): "monthly",
    ("months", 3): "quarterly",
    ("months", 12): "yearly",
    ("business", 1): "business days",
    ("fixed", 7 * DAY): "weekly",
    ("fixed", DAY): "daily",
    ("fixed", DAY // 24): "hourly",
}


def read_times(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return a column as times without a zone (datetime64), or as whole numbers (int64).

    Texts are dates in any one format that pandas reads. Whole numbers of eight digits that are dates, such as 20240131,
    are dates; other whole numbers, such as years, are steps. Times with a zone become UTC; if all of them are at
    midnight of their zone, they stay dates of that zone.

    Args:
        column: The column.
        name: Its name, for messages.

    Raises:
        OptionError: A row has no time, a value is no time, or the zones differ.
    """
    import pandas as pd
    from pandas.api import types

    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0]) + 1
        raise OptionError(f"time column {name!r}: row {row} has no time: fill it in, or remove the row")
    if types.is_bool_dtype(column) or types.is_timedelta64_dtype(column):
        raise OptionError(f"time column {name!r} holds {column.dtype}: expected dates, or whole numbers")
    if types.is_numeric_dtype(column):
        return _read_whole_numbers(column, name)
    times = column if types.is_datetime64_any_dtype(column) else _parse(column.astype(str), name)
    if getattr(times.dt, "tz", None) is not None:
        local = times.dt.tz_localize(None)
        times = local if (local == local.dt.normalize()).all() else times.dt.tz_convert("UTC").dt.tz_localize(None)
    naive: pd.Series[Any] = pd.Series(times.to_numpy("datetime64[ns]"), index=column.index)
    return naive


def _read_whole_numbers(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    import pandas as pd

    numbers = column.to_numpy(float)
    if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any() or np.abs(numbers).max() >= 2**53:
        raise OptionError(f"time column {name!r} holds numbers that are not whole: expected dates, or whole numbers")
    whole = column.astype("int64")
    if whole.between(10_000_101, 99_991_231).all():
        dates: pd.Series[Any] = pd.to_datetime(whole.astype(str), format="%Y%m%d", errors="coerce")
        if dates.notna().all():
            return dates
    return whole


def _parse(texts: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Return texts as times, all read by one format."""
    import pandas as pd

    problem = ""
    with warnings.catch_warnings():  # of a format that pandas finds with difficulty: its result is checked
        warnings.simplefilter("ignore")
        for settings in ({}, {"dayfirst": True}, {"format": "ISO8601"}):
            try:
                times: Any = pd.to_datetime(texts, **settings)
                if not isinstance(times.dtype, np.dtype | pd.DatetimeTZDtype) or times.dtype == object:
                    raise ValueError("mixed timezones")
                return times  # type: ignore[no-any-return]
            except (ValueError, TypeError, OverflowError) as error:
                problem = problem or str(error).lower()
        bad = pd.to_datetime(texts, errors="coerce", format="mixed", utc=True).isna().to_numpy()
    offsets = {match[1] if (match := OFFSET.search(text)) else "" for text in texts}
    if len(offsets) > 1 or any(word in problem for word in ("timezone", "tz-aware", "tz-naive")):
        raise OptionError(
            f"time column {name!r} has times of several time zones: expected one; write all in UTC, as "
            "2024-01-31T12:00Z"
        )
    content = (
        f"row {bad.argmax() + 1} has {texts.iloc[bad.argmax()]!r}" if bad.any() else "its rows have several formats"
    )
    raise OptionError(f"time column {name!r}: {content}: expected dates of one format, such as 2024-01-31 12:00")


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
        check_integer("origin", self.origin, -(2**62), 2**62)

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
        whole_days = not any((positions % DAY).any() for positions in numbers)
        if median == DAY and weekdays and whole_days and (steps >= 3 * DAY).any():
            return cls(kind="business", step=1, origin=origin)
        return cls(kind="fixed", step=most_frequent, origin=origin)

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

    def positions(self, times: NDArray[Any], name: str) -> NDArray[np.int64]:
        """Return the position of each time on the grid (int64).

        Args:
            times: datetime64[ns] or int64.
            name: Name of the column, for messages.

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
            remainder = ~np.is_busday(days) | (times.astype("int64") % DAY != 0)
        else:
            positions, remainder = np.divmod(times.astype("int64") - self.origin, self.step)
        off_grid = remainder != 0
        if off_grid.any():
            raise OptionError(
                f"time column {name!r}: {_format(times[off_grid.argmax()])} is not one of the {self.name} times from "
                f"{self.format_time(0)}: round the times, or aggregate to regular ones"
            )
        return np.asarray(positions, "int64")

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
            months = origin.astype("datetime64[M]") + self.step * positions
            starts, after = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]")
            last = after - np.timedelta64(1, "D")
            days = last if self.month_end else np.minimum(starts + (first - first.astype("datetime64[M]")), last)
        return np.asarray(days + (origin - first))

    def format_time(self, position: int) -> str:
        """Return a time in words, as short as the frequency allows."""
        return _format(self.times(np.array([position]))[0])


def _format(time: Any) -> str:
    if np.issubdtype(type(time), np.integer):
        return str(time)
    return str(time.astype("datetime64[s]")).removesuffix("T00:00:00")
