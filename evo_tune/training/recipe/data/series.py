"""Time series: reading a file, and one regular grid of times without gaps for all of its series.

A file has a time column and either one column per series (wide), or one column of values and a key that tells the
series apart (long). This module knows neither splits nor models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.options.declare import check_integer
from evo_tune.training.recipe.data.times import DAY, MOST_MISSING, Grid, average_grid, read_times

if TYPE_CHECKING:
    import pandas as pd

# Thousands of airline passengers in each month of 1949 to 1960 (Box & Jenkins 1976, series G): the default data.
PASSENGERS = """
112 118 132 129 121 135 148 148 136 119 104 118 115 126 141 135 125 149 170 170 158 133 114 140 145 150 178 163 172 178
199 199 184 162 146 166 171 180 193 181 183 218 230 242 209 191 172 194 196 196 236 235 229 243 264 272 237 211 180 201
204 188 235 227 234 264 302 293 259 229 203 229 242 233 267 269 270 315 364 347 312 274 237 278 284 277 317 313 318 374
413 405 355 306 271 306 315 301 356 348 355 422 465 467 404 347 305 336 340 318 362 348 363 435 491 505 404 359 310 337
360 342 406 396 420 472 548 559 463 407 362 405 417 391 419 461 472 535 622 606 508 461 390 432
"""

# Values of a column of texts that show whether it holds dates.
LOOKED_AT = 20


# Names of a column of whole numbers that is the time column.
TIMES = ("time", "date", "timestamp", "year", "ds", "t")


@dataclass(frozen=True)
class Series:
    """One series on the grid.

    Args:
        name: Its name.
        first: Position of its first value on the grid.
        values: (n,), float64, without gaps.
        observed: (n,), whether each value was in the file; others were filled.
        covariates: (n or more, covariates), of each value and of later steps, NaN where one is missing; None: none.
    """

    name: str
    first: int
    values: NDArray[np.float64]
    observed: NDArray[np.bool_]
    covariates: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class SeriesFormat:
    """Layout of series in a table: all that is needed to read another table of the same kind.

    Args:
        time: Name of the time column.
        key: Name of the column that tells the series apart; '': each target is a series.
        targets: Names of the columns of values; one if there is a key.
        grid: The regular times.
        season: Steps of a season (int ≥ 1).
        averaged: How the values of a step are averaged (see `Grid.positions`); '': there is one at most.
        utc: Whether the times have a time zone.
        day_first: Whether texts that are dates have the day before the month.
        past: Names of the covariates that are known up to the last value.
        known: Names of the covariates that are known ahead.
    """

    time: str
    key: str
    targets: tuple[str, ...]
    grid: Grid
    season: int
    averaged: Literal["", "within", "nearest"] = ""
    utc: bool = False
    day_first: bool = False
    past: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integer("season", self.season, 1)

    def read(self, table: Mapping[str, Any]) -> list[Series]:
        """Return the series of a table with these columns.

        Args:
            table: Column name to values, such as a DataFrame; columns of other names are ignored.

        Raises:
            OptionError: A column is missing or has unusable values, or the frequency is another one.
        """
        import pandas as pd

        for name in self.columns:
            if name not in table:
                raise OptionError(f"the table has no column {name!r}: expected the columns {', '.join(self.columns)}")
        frame = pd.DataFrame({name: table[name] for name in self.columns})
        times = read_times(frame[self.time], self.time, self.day_first).values
        parts = _parts(frame, times, self.key, self.targets, self.covariates, averaged=bool(self.averaged))[0]
        return [self.place_on_grid(*part) for part in parts]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        return (self.time, *([self.key] if self.key else []), *self.targets, *self.covariates)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates, in the order of `Series.covariates`."""
        return (*self.past, *self.known)

    def place_on_grid(self, name: str, times: NDArray[Any], values: NDArray[np.float64]) -> Series:
        """Return a series on the grid, its gaps filled (see `fill_gaps`); an empty one if there is no value.

        Args:
            name: Its name.
            times: (n,), sorted, datetime64[ns] or int64.
            values: (n, 1 + covariates), the value and its covariates; NaN where one is missing.

        Raises:
            OptionError: A time is not on the grid, two have the same position, or too many values are missing.
        """
        import pandas as pd

        present = np.flatnonzero(~np.isnan(values[:, 0]))
        if not len(present):
            return Series(name, 0, np.empty(0), np.empty(0, bool))
        end = None if self.covariates else int(present[-1]) + 1
        times, values = times[present[0] : end], values[present[0] : end]
        positions = self.grid.positions(times, self.time, self.averaged)
        last = int(positions[present[-1] - present[0]])
        if self.averaged:
            means = pd.DataFrame(values).groupby(positions).mean()  # NaN where all are missing
            positions, values = means.index.to_numpy(), means.to_numpy()
        if (same := np.flatnonzero(np.diff(positions) == 0)).size:
            raise OptionError(
                f"series {name!r}: two times are at the same one of the {self.grid.name} times, "
                f"{self.grid.format_time(positions[same[0]])}: aggregate them"
            )
        first, length = int(positions[0]), last - int(positions[0]) + 1
        missing = 1.0 - np.count_nonzero(~np.isnan(values[:, 0])) / length
        if missing > MOST_MISSING:
            raise OptionError(
                f"series {name!r}: {missing:.0%} of its {length} {self.grid.name} values are missing: expected at most "
                f"{MOST_MISSING:.0%}; aggregate to a lower frequency, or leave the series out"
            )
        near = positions <= last + np.count_nonzero(positions > last)  # a row far ahead takes no memory
        on_grid = np.full((int(positions[near][-1]) - first + 1, values.shape[1]), np.nan)
        on_grid[positions[near] - first] = values[near]
        target = on_grid[:length, 0]
        covariates = on_grid[:, 1:] if self.covariates else None
        return Series(name, first, fill_gaps(target, self.season), ~np.isnan(target), covariates)


def standardise_covariates(covariates: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return standardised covariates of a series; a missing one takes the value before it, or else the mean.

    Args:
        covariates: (n, covariates).
        scales: (covariates, 2), means and standard deviations of the training part.
    """
    scaled = (covariates - scales[:, 0]) / scales[:, 1]
    rows = np.where(np.isnan(scaled), 0, np.arange(len(scaled))[:, None])
    filled = np.take_along_axis(scaled, np.maximum.accumulate(rows, axis=0), axis=0)
    return np.nan_to_num(filled).astype(np.float32)


def fill_gaps(values: NDArray[np.float64], season: int) -> NDArray[np.float64]:
    """Return values with each missing one replaced by that of a season before, or by the one before it.

    Only earlier values are used, so that nothing from the validation part gets into training.

    Args:
        values: (n,), the first one not NaN.
        season: Steps of a season.
    """
    complete: NDArray[np.float64] = values.copy()
    for place in np.flatnonzero(np.isnan(complete)):
        complete[place] = complete[place - season] if place >= season else complete[place - 1]
    return complete


@dataclass(frozen=True)
class SeriesData:
    """Series read from a file.

    Args:
        format: Layout of the series in the file.
        series: The series, in order of their names' first appearance or, with a key, of the key.
        merged: Number of rows that repeated another one and were left out.
        values: Number of values in the file.
    """

    format: SeriesFormat
    series: tuple[Series, ...]
    merged: int
    values: int

    def lines(self) -> list[str]:
        """Return what was read, as text: number and length of the series, frequency, times, season and gaps."""
        grid, lengths = self.format.grid, [len(series) for series in self.series]
        length = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
        first = grid.format_time(min(series.first for series in self.series))
        last = grid.format_time(max(series.first + len(series) for series in self.series) - 1)
        lines = [
            f"{len(lengths)} series of {length} values, {grid.name}, {first} to {last}; season {self.format.season}; "
            f"times in column {self.format.time!r}"
        ]
        missing = [int((~series.observed).sum()) for series in self.series]
        if self.format.averaged:
            steps = sum(lengths) - sum(missing)
            lines.append(f"{self.values} values are averaged to {steps} at regular times: {grid.name}")
        if self.format.utc:
            lines.append("times with a time zone are in UTC")
        if any(missing):
            count = f"{sum(missing)} of {sum(lengths)} values are missing, in {np.count_nonzero(missing)} series"
            lines.append(f"{count}; each takes the value of a season before")
        else:
            lines.append("no value is missing")
        if self.merged:
            lines.append(f"{self.merged} rows repeat another one and are left out")
        for kind, covariates in (("known ahead", self.format.known), ("known up to the last value", self.format.past)):
            lines += [f"covariates {kind}: {', '.join(covariates)}"] if covariates else []
        return lines


def find_series(
    frame: pd.DataFrame,
    *,
    time: str = "",
    key: str = "",
    target: str = "",
    ignore: str = "",
    season: int | None = None,
    step: str = "auto",
    past: str = "",
    known: str = "",
) -> SeriesData:
    """Find the series in a table.

    Args:
        frame: The table.
        time: Name of the time column; '': the only one with times.
        key: Name of the column that tells the series apart; '': each target is a series.
        target: Comma-separated names of the columns of values; '': all others.
        ignore: Comma-separated names of columns to leave out.
        season: Steps of a season; None: by the frequency (see `Grid.season`).
        step: Step of `times.STEPS` to which values are averaged; 'auto': that of the file, or if its times are
            irregular the shortest that leaves few steps empty.
        past: Comma-separated names of the covariates that are known up to the last value.
        known: Comma-separated names of the covariates that are known ahead.

    Raises:
        OptionError: A column is missing or has unusable values, or the times have no frequency.
    """
    frame = frame.drop(columns=_names(frame, "ignore", ignore))
    time = _names(frame, "time", time)[0] if time else _time_column(frame)
    covariates = {"past": tuple(_names(frame, "past", past)), "known": tuple(_names(frame, "known", known))}
    inputs = [*covariates["past"], *covariates["known"]]
    if len(inputs) > len({*inputs}):
        raise OptionError(f"-o known={known} and -o past={past} name a column twice: expected it in one of them")
    value_columns = frame.drop(columns=[time, *_names(frame, "key", key), *inputs], errors="ignore")
    targets = _targets(value_columns, _names(frame, "target", target), key)
    times = read_times(frame[time], time)
    parts, merged = _parts(frame, times.values, key, targets, inputs, averaged=step != "auto")
    observed = sum(int(np.count_nonzero(~np.isnan(values[:, 0]))) for _, _, values in parts)
    if not observed:
        raise OptionError(f"column {targets[0]!r} holds no number: expected a value at each time")
    layout = {
        "time": time,
        "key": key,
        "targets": targets,
        "utc": times.utc,
        "day_first": times.day_first,
        **covariates,
    }
    placed = _place_all(parts, layout, season, step)
    return SeriesData(*placed, merged, observed)


def _place_all(
    parts: Sequence[Part], layout: Mapping[str, Any], season: int | None, step: str
) -> tuple[SeriesFormat, tuple[Series, ...]]:
    """Return series on the grid of their times, or on a calendar grid of means; see `find_series`."""
    times = [part_times for _, part_times, _ in parts]
    is_dated = times[0].dtype.kind != "i"

    def place(grid: Grid, averaged: Any = "") -> tuple[SeriesFormat, tuple[Series, ...]]:
        format = SeriesFormat(**layout, grid=grid, season=season or grid.season, averaged=averaged)
        return format, tuple(single for single in (format.place_on_grid(*part) for part in parts) if len(single))

    if step != "auto":
        if not is_dated:
            raise OptionError(f"-o step={step}: the times are whole numbers: expected dates, or no step")
        return place(Grid.of_calendar(step, min(part_times[0] for part_times in times)), "within")
    grid = Grid.of(times)
    try:
        return place(grid)
    except OptionError as error:
        if not is_dated:
            raise
        if (regular := average_grid(times)) is None:
            longer = "day" if grid.kind == "fixed" and grid.step < DAY else "week"
            raise OptionError(f"{error}; -o step={longer}, for example, gives the mean of each {longer}") from None
        return place(*regular)


def passengers() -> pd.DataFrame:
    """Return the default data: columns month and passengers, 144 rows."""
    import pandas as pd

    values = [int(number) for number in PASSENGERS.split()]
    months = pd.date_range("1949-01-01", periods=len(values), freq="MS")
    return cast("pd.DataFrame", pd.DataFrame({"month": months, "passengers": values}))


def _names(frame: pd.DataFrame, option: str, text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in frame.columns:
            raise OptionError(f"-o {option}={name}: no such column; there are {', '.join(map(str, frame.columns))}")
    return names


def _time_column(frame: pd.DataFrame) -> str:
    """Return the name of the only column of times."""
    from pandas.api import types

    columns = list(map(str, frame.columns))
    dates = [name for name in columns if types.is_datetime64_any_dtype(frame[name]) or _has_dates(frame[name])]
    candidates = dates or [name for name in columns if name.lower() in TIMES]
    if len(candidates) == 1:
        return candidates[0]
    problem = f"no column holds times, of {', '.join(columns)}"
    if candidates:
        problem = f"{len(candidates)} columns hold times ({', '.join(candidates)})"
    raise OptionError(f"{problem}: name it with -o time=COLUMN")


def _has_dates(column: pd.Series[Any]) -> bool:
    """Return whether a column holds texts that are dates."""
    from pandas.api import types

    if types.is_numeric_dtype(column) or types.is_timedelta64_dtype(column):
        return False
    sample = column.dropna().head(LOOKED_AT)
    try:
        return len(sample) > 0 and len(read_times(sample, "").values) > 0
    except OptionError as error:
        return "time zone" in str(error) or "from 1678" in str(error)


def _targets(frame: pd.DataFrame, chosen: list[str], key: str) -> tuple[str, ...]:
    """Return the names of the columns of values, of a table without its time and key."""
    import pandas as pd
    from pandas.api import types

    if unusable := [name for name in chosen if name not in frame.columns]:
        problem = "this column has the times or the key, or is a covariate"
        raise OptionError(f"-o target={unusable[0]}: {problem}: expected one of values")
    names = chosen or [str(name) for name in frame.columns]
    if not names:
        raise OptionError("there is no column of values beside the time: expected a number at each time")
    for name in [] if chosen else names:
        if types.is_numeric_dtype(frame[name]):
            continue
        if pd.to_numeric(frame[name].dropna(), errors="coerce").isna().mean() > 0.5:
            raise OptionError(
                f"column {name!r} holds text: if it tells the series apart, give -o key={name}; leave it out with "
                f"-o ignore={name}"
            )
    if key and len(names) > 1:
        raise OptionError(f"-o key={key} needs one column of values, of {', '.join(names)}: give -o target=COLUMN")
    return tuple(names)


# Name, sorted times (datetime64 or int64, all different unless values are averaged), and values with their covariates
# (float64) of a series as it is in a table.
Part = tuple[str, NDArray[Any], NDArray[np.float64]]


def _parts(
    frame: pd.DataFrame, times: NDArray[Any], key: str, targets: Sequence[str], inputs: Sequence[str], averaged: bool
) -> tuple[list[Part], int]:
    """Return the parts of a table that are series, and how many of its rows were left out.

    Rows that repeat a time with the same value are left out, unless values are averaged.

    Raises:
        OptionError: A time occurs twice with different values, and values are not averaged; or a row has no key.
    """
    covariates = [_numbers(frame[name], name) for name in inputs]
    columns = {name: np.stack([_numbers(frame[name], name), *covariates], 1) for name in targets}
    groups = [(name, np.arange(len(frame)), values) for name, values in columns.items()]
    if key:
        if frame[key].isna().any():
            missing = int(frame[key].isna().sum())
            raise OptionError(f"-o key={key}: {missing} rows have none: fill it in, or remove them")
        (values,) = columns.values()
        indices = frame.groupby(key, sort=True).indices
        groups = [(str(name), np.sort(np.asarray(rows)), values) for name, rows in indices.items()]
    parts, merged = [], [0]
    for name, rows, values in groups:
        order = np.argsort(times[rows], kind="stable")
        series_times, series_values = times[rows[order]], values[rows[order]]
        if averaged:
            parts.append((name, series_times, series_values))
            continue
        repeated = np.flatnonzero(series_times[1:] == series_times[:-1]) + 1
        before, after = series_values[repeated - 1], series_values[repeated]
        differ = repeated[((before != after) & ~(np.isnan(before) & np.isnan(after))).any(1)]
        if len(differ):
            hint = "remove one" if key else "if the file has several series, give -o key=COLUMN"
            hint += "; -o step=day, for example, gives the mean of each day"
            also = f", as do {len(differ) - 1} other times" if len(differ) > 1 else ""
            first = str(series_times[differ[0]]).removesuffix("T00:00:00.000000000")
            raise OptionError(f"series {name!r}: {first} occurs twice with different values{also}: {hint}")
        parts.append((name, np.delete(series_times, repeated), np.delete(series_values, repeated, axis=0)))
        merged.append(len(repeated))
    return parts, sum(merged) if key else max(merged)


def _numbers(column: pd.Series[Any], name: str) -> NDArray[np.float64]:
    """Return a column as numbers (float64), NaN where one is missing.

    Raises:
        OptionError: A value is no number, or infinite.
    """
    import pandas as pd

    if column.dtype.kind in "mM":
        raise OptionError(f"column {name!r} holds {column.dtype}: expected numbers")
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
    wrong = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
    if len(wrong):
        text = str(column.iloc[wrong[0]])
        raise OptionError(
            f"column {name!r}: row {wrong[0] + 1} has {text!r}: expected numbers, or nothing where one is missing"
        )
    if (infinite := np.flatnonzero(np.isinf(numbers))).size:
        raise OptionError(
            f"column {name!r}: row {infinite[0] + 1} is infinite: expected finite numbers, or an empty cell"
        )
    return numbers
