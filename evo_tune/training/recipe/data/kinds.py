"""The kind of each column of a table, how it was decided, and the numbers that a date becomes."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["number", "category", "date", "text", "identifier", "constant"]

# Kinds of columns from which nothing is learned.
UNUSED_KINDS = ("text", "identifier", "constant")

# Maximum number of categories of a column; more count as free text.
MAX_CATEGORIES = 1000

# Minimum number of rows for a column without repeated values to be an identifier.
MIN_IDENTIFIER_ROWS = 20

# Beginning of a text that may be a date.
DATE_START = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")

# Formats of dates. A column is a date if one of them reads all its values.
DATE_FORMATS = ("ISO8601", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y")

# Numbers that a date becomes.
DATE_PARTS = ("year", "month", "day", "day of week", "day of year", "second of day", "days since 1970")


class Column(NamedTuple):
    """A column of a table.

    Args:
        name: Its name.
        kind: Kind of the column.
        reason: Reason for the kind, in words.
        missing_count: Number of its cells without a value.
        date_format: Format of its dates.
    """

    name: str
    kind: Kind
    reason: str
    missing_count: int
    date_format: str = ""


def classify_column(values: "pd.Series[Any]", as_category: bool) -> Column:
    """Return a column with its kind.

    Args:
        values: Its cells.
        as_category: Whether the user calls it a category.

    Raises:
        OptionError: It has infinite numbers, or values of a type that cannot be used.
    """
    from pandas.api import types

    name, missing_count = str(values.name), int(values.isna().sum())
    try:
        distinct_count = int(values.nunique())
    except TypeError:  # lists and other values that cannot be counted
        raise OptionError(
            f"column {name!r} holds no plain values: expected numbers or texts; -o ignore={name}"
        ) from None
    if types.is_timedelta64_dtype(values) or types.is_complex_dtype(values):
        raise OptionError(f"column {name!r} is of type {values.dtype}: expected numbers or texts; -o ignore={name}")
    if not distinct_count:
        return Column(name, "constant", "no value in any row", missing_count)
    if distinct_count == 1 and not missing_count:  # else, having a value is itself information
        return Column(name, "constant", "the same in every row", missing_count)
    may_be_identifier = distinct_count == len(values) and len(values) >= MIN_IDENTIFIER_ROWS
    if as_category:
        return Column(name, "category", f"{distinct_count} values, by -o categorical", missing_count)
    if types.is_datetime64_any_dtype(values):
        # The format of dates in later predictions.
        return Column(name, "date", f"{distinct_count} dates", missing_count, "ISO8601")
    if types.is_bool_dtype(values):
        return Column(name, "number", "true and false", missing_count)
    if types.is_numeric_dtype(values):
        return _classify_numbers(values.to_numpy(float, na_value=np.nan), name, missing_count, may_be_identifier)
    if formats := _date_formats(values):
        alternative = f" (but they may be {formats[1]})" if len(formats) > 1 else ""
        return Column(name, "date", f"{distinct_count} dates as {formats[0]}{alternative}", missing_count, formats[0])
    if may_be_identifier:
        return Column(name, "identifier", "a different text in every row", missing_count)
    if distinct_count > MAX_CATEGORIES:
        return Column(name, "text", f"{distinct_count} different texts, more than {MAX_CATEGORIES}", missing_count)
    other_types = ", ".join(sorted({type(value).__name__ for value in values.dropna()} - {"str"}))
    reason = f"{distinct_count} values of mixed types: {other_types}" if other_types else f"{distinct_count} texts"
    return Column(name, "category", reason, missing_count)


def _classify_numbers(numbers: NDArray[np.float64], name: str, missing_count: int, may_be_identifier: bool) -> Column:
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
        if np.isinf(numbers.astype(np.float32)).any():
            raise OptionError(
                f"column {name!r} holds infinite numbers, or some too large for float32: expected finite ones; "
                f"-o ignore={name}"
            )
    are_whole = bool((numbers == np.round(numbers)).all())
    if may_be_identifier and are_whole and np.ptp(numbers) == len(numbers) - 1:  # consecutive numbers, in any order
        return Column(name, "identifier", "counts the rows", missing_count)
    return Column(name, "number", f"{np.nanmin(numbers):.6g} to {np.nanmax(numbers):.6g}", missing_count)


def _date_formats(values: "pd.Series[Any]") -> list[str]:
    """Return those of `DATE_FORMATS` that read all values as dates."""
    import pandas as pd

    texts = values.dropna()
    # A cheap test of the first cells only; the formats below are tested with all of them.
    if not all(isinstance(text, str) and DATE_START.match(text) for text in texts[:100]):
        return []
    texts = texts.astype(str)

    def reads_all(date_format: str) -> bool:
        return bool(pd.to_datetime(texts, format=date_format, errors="coerce", utc=True).notna().all())

    return [date_format for date_format in DATE_FORMATS if reads_all(date_format)]


def date_numbers(values: Any, date_format: str) -> NDArray[np.float32]:
    """Return dates as numbers, (rows, `DATE_PARTS`); NaN for a missing or an unreadable one. A time zone becomes UTC.

    Args:
        values: Dates, as texts or as pandas' own.
        date_format: One of `DATE_FORMATS`.
    """
    import pandas as pd

    series = pd.Series(list(values), dtype=object)  # one type for lists, arrays and columns of any dtype
    dates = pd.to_datetime(series, format=date_format, errors="coerce", utc=True)
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
    """Return lines on the columns: how many are used, missing cells, each unused column, each used column.

    Args:
        columns: The columns by name.
        rows: Number of rows.
    """
    unused = [column for column in columns.values() if column.kind in UNUSED_KINDS]
    used = [column for column in columns.values() if column.kind not in UNUSED_KINDS]
    counts = {kind: sum(column.kind == kind for column in used) for kind in ("number", "category", "date")}
    kinds_text = ", ".join(f"{count} of kind {kind}" for kind, count in counts.items() if count)
    lines = [f"{len(used)} columns to learn from: {kinds_text}"]
    if missing_count := sum(column.missing_count for column in used):
        lines.append(f"{missing_count} of {rows * len(used)} cells are missing")
    lines += [f"left out: {column.name} ({column.kind}: {column.reason})" for column in unused]
    for column in used:
        gaps = f", {column.missing_count} missing" if column.missing_count else ""
        lines.append(f"{column.name}: {column.kind}, {column.reason}{gaps}")
    return lines
