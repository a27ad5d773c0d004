"""The kind of each column of a table, how it was decided, and the numbers that a date becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "category", "date", "text", "identifier", "constant"]

UNUSED_KINDS = ("text", "identifier", "constant")
"""Kinds of columns from which nothing is learned."""

MOST_CATEGORIES = 1000
"""Maximum number of categories of a column; more count as free text."""

FEWEST_ROWS_OF_IDENTIFIER = 20
"""Rows from which on a column without repeated values counts as an identifier."""

DATE_START = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
"""Beginning of a text that may be a date."""

DATE_FORMATS = ("ISO8601", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y")
"""Formats of dates. A column is a date if one of them reads all its values."""

DATE_PARTS = ("year", "month", "day", "day of week", "day of year", "second of day", "days since 1970")
"""Numbers that a date becomes."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Its name.
        kind: Kind of the column.
        reason: Reason for the kind, in words.
        missing: Number of its cells without a value.
        format: Format of its dates.
    """

    name: str
    kind: Kind
    reason: str
    missing: int
    format: str = ""


def classify_column(values: pd.Series[Any], as_category: bool) -> Column:
    """Return the kind of a column.

    Args:
        values: Its cells.
        as_category: Whether the user calls it a category.

    Raises:
        OptionError: It has infinite numbers, or values of a type that cannot be used.
    """
    from pandas.api import types

    name, missing = str(values.name), int(values.isna().sum())
    try:
        distinct = int(values.nunique())
    except TypeError:  # lists and other values that cannot be counted
        raise OptionError(
            f"column {name!r} holds no plain values: expected numbers or texts; -o ignore={name}"
        ) from None
    if types.is_timedelta64_dtype(values) or types.is_complex_dtype(values):
        raise OptionError(f"column {name!r} is of type {values.dtype}: expected numbers or texts; -o ignore={name}")
    if not distinct or (distinct == 1 and not missing):
        return Column(name, "constant", "the same in every row" if distinct else "no value in any row", missing)
    all_distinct = distinct == len(values) >= FEWEST_ROWS_OF_IDENTIFIER
    if as_category:
        return Column(name, "category", f"{distinct} values, by -o categorical", missing)
    if types.is_datetime64_any_dtype(values):
        return Column(name, "date", f"{distinct} dates", missing, "ISO8601")
    if types.is_bool_dtype(values):
        return Column(name, "number", "true and false", missing)
    if types.is_numeric_dtype(values):
        return _number(values, name, distinct, missing, all_distinct)
    if date_format := _date_format(values):
        return Column(name, "date", f"{distinct} dates as {date_format}", missing, date_format.partition(" ")[0])
    if all_distinct:
        return Column(name, "identifier", "a different text in every row", missing)
    if distinct > MOST_CATEGORIES:
        return Column(name, "text", f"{distinct} different texts, more than {MOST_CATEGORIES}", missing)
    other_types = {type(value).__name__ for value in values.dropna()} - {"str"}
    how = (
        f"{distinct} texts"
        if not other_types
        else f"{distinct} values of mixed types: {', '.join(sorted(other_types))}"
    )
    return Column(name, "category", how, missing)


def _number(values: pd.Series[Any], name: str, count: int, missing: int, all_distinct: bool) -> Column:
    numbers = values.to_numpy(float, na_value=np.nan)
    with np.errstate(over="ignore"):
        infinite = np.isinf(numbers.astype(np.float32)).any()
    if infinite:
        raise OptionError(
            f"column {name!r} holds infinite numbers, or some too large for float32: expected finite ones; "
            f"-o ignore={name}"
        )
    if all_distinct and np.ptp(numbers) == len(numbers) - 1 and (numbers == np.round(numbers)).all():
        return Column(name, "identifier", "counts the rows", missing)
    return Column(name, "number", f"{np.nanmin(numbers):.6g} to {np.nanmax(numbers):.6g}", missing)


def _date_format(values: pd.Series[Any]) -> str:
    """Return the format that reads all values as dates, with others that do as well; '' if there is none."""
    import pandas as pd

    texts = values.dropna()
    if not all(isinstance(text, str) and DATE_START.match(text) for text in texts[:100]):
        return ""
    texts = texts.astype(str)
    fitting = [
        one for one in DATE_FORMATS if not pd.to_datetime(texts, format=one, errors="coerce", utc=True).isna().any()
    ]
    return " (but they may be ".join(fitting[:2]) + ")" * (len(fitting) > 1) if fitting else ""


def date_numbers(values: Any, format: str) -> NDArray[np.float32]:
    """Return dates as numbers, (rows, `DATE_PARTS`); NaN for a missing or an unreadable one. A time zone becomes UTC.

    Args:
        values: Dates, as texts or as pandas' own.
        format: One of `DATE_FORMATS`.
    """
    import pandas as pd

    series = pd.Series(list(values), dtype=object)
    dates = pd.to_datetime(series, format=format, errors="coerce", utc=True)
    parts = (
        dates.dt.year,
        dates.dt.month,
        dates.dt.day,
        dates.dt.day_of_week,
        dates.dt.day_of_year,
        dates.dt.hour * 3600 + dates.dt.minute * 60 + dates.dt.second,
        (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1),
    )
    return np.stack([part.to_numpy(np.float32, na_value=np.nan) for part in parts], 1)


def describe_columns(columns: Mapping[str, Column], rows: int) -> list[str]:
    """Return what the columns are taken for: those left out first, then numbers in one line, then each other column.

    Args:
        columns: The columns by name.
        rows: Number of rows.
    """
    out = [one for one in columns.values() if one.kind in UNUSED_KINDS]
    used = [one for one in columns.values() if one.kind not in UNUSED_KINDS]
    counts = {kind: sum(one.kind == kind for one in used) for kind in ("number", "category", "date")}
    kinds = ", ".join(f"{count} of kind {kind}" for kind, count in counts.items() if count)
    found = [f"{len(used)} columns to learn from: {kinds}"]
    if gaps := sum(one.missing for one in used):
        found.append(f"{gaps} of {rows * len(used)} cells are missing")
    found += [f"left out: {one.name} ({one.kind}: {one.reason})" for one in out]
    return found + [f"{one.name}: {one.kind}, {one.reason}{_gaps(one)}" for one in used]


def _gaps(column: Column) -> str:
    return f", {column.missing} missing" if column.missing else ""
