"""Tables: reading and conversion to numbers, and columns that know the target.

Such a column is a copy of the target, or known only after it. A model that reads it has a score that says nothing about
rows to come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError, RecipeError, require_extra
from evo_tune.training.recipe.data.kinds import DATE_PARTS, Column, classify_column, date_numbers, describe_columns
from evo_tune.training.recipe.data.reading import (
    LINES,
    NUMBER,
    PARQUET,
    TableProblem,
    csv_settings,
    describe_csv_settings,
    json_lines,
    read_csv,
    read_parquet,
    table_of_objects,
)
from evo_tune.training.recipe.data.splitting import Division, cross_validation

if TYPE_CHECKING:
    import pandas as pd


# Beginning of the line about such columns, by which the verdict of `auto` knows it.
TELLING = "Warning: the target can be read off"

# Largest share of the error without any column that a column alone may leave to be named.
MOST_ERROR = 0.01

# Fewest judged rows, and fewest of them outside of the most frequent class: a few rows are told by chance.
FEWEST_ROWS, FEWEST_OTHERS = 30, 5

# Most intervals of a column of numbers.
INTERVALS = 200


def data_hash(*parts: bytes | NDArray[Any]) -> str:
    """Return the SHA-256 of data and its split, the fingerprint of a run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()


def check_class_sizes(origin: str, labels: Any, classes: NDArray[Any], samples: str) -> None:
    """Require three samples of each class, one for each part of the split.

    Args:
        origin: Source of the samples, for the error message.
        labels: Names of the classes.
        classes: (n,), class numbers.
        samples: Noun for samples, for the error message.

    Raises:
        OptionError: A class has fewer.
    """
    counts = np.bincount(classes)
    if counts.min() < 3:
        raise OptionError(
            f"{origin}: {counts.min()} of class {labels[counts.argmin()]!s}: expected at least 3 {samples} of each, "
            "for training, validation and test"
        )


def sklearn_data(name: str, remedy: str, **settings: Any) -> Any:
    """Return a data set that comes with scikit-learn.

    Args:
        name: Name of its loader in `sklearn.datasets`.
        remedy: Option that gives other data, for the error message.
        settings: Arguments of the loader.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    with require_extra(f"the default data (your own: {remedy})", "sklearn"):
        from sklearn import datasets
    return getattr(datasets, name)(**settings)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Input columns of a model, in the order of its inputs: numbers, the numbers of dates, categories.

    Args:
        numeric: Names of the numeric columns.
        categorical: Name of each categorical column to its categories, in order.
        dates: Name of each column of dates to their format (see `kinds.DATE_FORMATS`).
    """

    numeric: tuple[str, ...]
    categorical: dict[str, tuple[str, ...]]
    dates: dict[str, str] = field(default_factory=dict)

    @classmethod
    def learn(
        cls,
        table: Mapping[str, Any],
        numeric: Sequence[str],
        categorical: Sequence[str],
        dates: Mapping[str, str] | None = None,
    ) -> Columns:
        """Return the columns with the categories found in the training rows.

        Args:
            table: Column name to values, for example a DataFrame.
            numeric: Names of the numeric columns.
            categorical: Names of the categorical columns.
            dates: See `Columns`.
        """
        categories = {
            name: tuple(sorted({text for text in _texts(table[name]) if text is not None})) for name in categorical
        }
        return cls(numeric=tuple(numeric), categorical=categories, dates=dict(dates or {}))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in the order of the inputs."""
        return (*self.numeric, *self.dates, *self.categorical)

    @property
    def sizes(self) -> tuple[int, tuple[int, ...]]:
        """Number of numbers in a row, those of dates included, and of the categories of each categorical column."""
        return len(self.numeric) + len(DATE_PARTS) * len(self.dates), tuple(map(len, self.categorical.values()))

    def encode(self, table: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return a table as numbers, (rows, columns), float32.

        A missing number is NaN. A category is its position, counted from 1, and 0 if missing or unknown. Positions are
        exact in float32 up to 2²⁴.

        Args:
            table: Column name to values; columns not in `names` are ignored.

        Raises:
            RecipeError: A column is missing, or a numeric column has other values.
        """
        inputs = []
        for name in self.names:
            if name not in table:
                raise RecipeError("table", f"one without {name!r}", f"the columns {', '.join(self.names)}")
            if name in self.categorical:
                numbers: dict[str | None, int] = {text: number for number, text in enumerate(self.categorical[name], 1)}
                inputs.append(np.array([numbers.get(text, 0) for text in _texts(table[name])], np.float32))
            elif name in self.dates:
                inputs += list(date_numbers(table[name], self.dates[name]).T)
            else:
                values = [np.nan if _is_missing(value) else value for value in _as_list(table[name])]
                try:
                    inputs.append(np.array([float(value) for value in values], np.float32))
                except (TypeError, ValueError) as error:
                    raise RecipeError(name, str(error), "numbers, as in the training table") from None
        return np.stack(inputs, 1)


def _texts(values: Any) -> list[str | None]:
    """Return the values as texts; None for a missing value."""
    return [None if _is_missing(value) or value != value else str(value) for value in _as_list(values)]


def _is_missing(value: Any) -> bool:
    return value is None or str(value) == "<NA>"  # pandas' NA


def _as_list(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


# Maximum number of classes; more suggest a regression target, or an identifier.
MOST_CLASSES = 100

# Most different whole numbers of a target that are taken for classes.
MOST_WHOLE_NUMBERS = 20

# Largest number of a target: a sum of squares must be finite.
MOST_NUMBER = 1e100


@dataclass(frozen=True)
class TableSource:
    """A table to read, and how; plain data that identifies the result of `read_table`.

    Args:
        data: CSV or Parquet file; empty: scikit-learn's breast cancer data, 569 rows of 30 numbers.
        target: Name of the column to predict.
        categorical: Comma-separated names of numeric columns to treat as categories.
        ignore: Comma-separated names of columns to leave out.
        validation: Share of the rows in the validation set; of classes, of each class.
        test: The same of the test set.
        task: 'classification', 'regression' or 'auto' (see `_target`).
        drop_unlabelled: Whether to leave out rows without a target.
        split_by: Name of the column by which rows are divided into parts (see `Division.by_column`); '': they are
            drawn, equal ones together.
        header: 'first', or 'none' for a CSV file without names of columns (see `csv_settings`).
    """

    data: str
    target: str
    categorical: str = ""
    ignore: str = ""
    validation: float = 0.2
    test: float = 0.2
    task: str = "auto"
    drop_unlabelled: bool = False
    split_by: str = ""
    header: str = "first"


@dataclass(frozen=True)
class Target:
    """The column to predict.

    Args:
        name: Its name.
        values: (rows,), class numbers (int64), or real numbers (float64).
        labels: Names of the classes; empty for real numbers.
        reason: Reason for the task, in words.
    """

    name: str
    values: NDArray[Any]
    labels: tuple[str, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as numbers (n, columns; see `Columns`), the target, and row numbers of the split."""

    inputs: NDArray[Any]
    target: Target
    training: NDArray[Any]
    held_out: NDArray[Any]
    test: NDArray[Any]
    columns: Columns
    # The kind of each column, by name.
    kinds: dict[str, Column]
    # Number of rows that were left out because they have no target.
    dropped: int
    # How the rows are divided.
    division: Division
    # What differs from the usual format of a CSV file, in words.
    format: str = ""

    @property
    def regression(self) -> bool:
        """Whether the target is a real number."""
        return not self.target.labels

    @property
    def telling_columns(self) -> list[str]:
        """Names of the columns that alone predict the target of the validation part almost perfectly.

        A column of numbers is divided into intervals around values of its training rows. The prediction is the most
        frequent class of the training rows in the interval; for real numbers it is their mean, or a straight line.
        """
        target, training, judged = self.target.values, self.training, self.held_out
        if min(len(judged), len(training)) < FEWEST_ROWS:
            return []
        if not self.regression and (target[judged] != np.bincount(target[training]).argmax()).sum() < FEWEST_OTHERS:
            return []
        dates = [None] * (len(DATE_PARTS) * len(self.columns.dates))  # their numbers have no name
        names = [*self.columns.numeric, *dates, *self.columns.categorical]
        return [name for place, name in enumerate(names) if name is not None and self._error_left(place) <= MOST_ERROR]

    def _error_left(self, place: int) -> float:
        """Return the error of a prediction for the validation part from one input, as a share of that from none."""
        values, target = self.inputs[:, place].astype(float), self.target.values
        training, judged, known = self.training, self.held_out, ~np.isnan(values)
        if not known[training].any():
            return 1.0
        lowest, highest = values[training][known[training]].min(), values[training][known[training]].max()
        values = np.where(known, values, 2.0 * lowest - highest - 1.0)  # missing values have an interval of their own
        points = np.unique(values[training])
        if len(points) > INTERVALS:
            points = np.unique(np.quantile(points, np.linspace(0.0, 1.0, INTERVALS), method="nearest"))
        cells = np.searchsorted((points[1:] + points[:-1]) / 2.0, values, side="right")
        if not self.regression:
            counts = np.zeros((len(points), len(self.target.labels)))
            np.add.at(counts, (cells[training], target[training]), 1.0)
            usual = int(counts.sum(axis=0).argmax())
            told = np.where(counts.sum(axis=1) > 0.0, counts.argmax(axis=1), usual)
            return float((told[cells[judged]] != target[judged]).sum() / (target[judged] != usual).sum())
        mean = target[training].mean()
        numbers = np.bincount(cells[training], minlength=len(points))
        sums = np.bincount(cells[training], weights=target[training], minlength=len(points))
        forecasts = [np.where(numbers > 0, sums / np.maximum(numbers, 1), mean)[cells[judged]]]
        if known.all():
            centred = values - values[training].mean()
            slope = (centred[training] @ (target[training] - mean)) / max(float((centred[training] ** 2).sum()), 1e-300)
            forecasts.append(mean + slope * centred[judged])
        total = _square_sum(target[judged] - mean)
        return min(_square_sum(target[judged] - forecast) for forecast in forecasts) / (total or 1.0)

    def can_cross_validate(self, count: int) -> bool:
        """Return whether `folds` can divide the rows so often."""
        training, of_classes = self.training, not self.regression
        groups = training if self.division.groups is None else self.division.groups[training]
        rows_of_classes = np.bincount(self.target.values[training]) if of_classes else np.array([len(training)])
        return (
            self.division.times is None
            and len(np.unique(groups)) > count
            and int(rows_of_classes[rows_of_classes > 0].min()) >= count
        )

    def folds(self, count: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return `count` pairs of rows to learn from and rows to judge by; see `cross_validation`."""
        classes = None if self.regression else self.target.values
        return cross_validation(self.division, classes, self.training, self.held_out, count)

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training rows' real target; a deviation of 0 counts as 1."""
        values = self.target.values[self.training]
        return float(values.mean()), float(values.std()) or 1.0


@lru_cache(maxsize=1)  # a worker trains on the same table repeatedly
def read_table(source: TableSource) -> Table:
    """Return a file's table, or the breast cancer data, as numbers, with the split of its rows.

    Raises:
        OptionError: The file cannot be read, or a column is missing or unusable.
    """
    if source.data:
        frame, target_name = read_file(source.data, source.header == "first"), source.target
    else:
        loaded = sklearn_data("load_breast_cancer", "-o data=FILE -o target=COLUMN", as_frame=True)
        frame, target_name = loaded.data.assign(diagnosis=loaded.target_names[loaded.target]), "diagnosis"
    available = f"-o data={source.data} has the columns {_shorten(frame.columns)}"
    categorical, ignored = ([name for name in text.split(",") if name] for text in (source.categorical, source.ignore))
    named = {"target": [target_name], "categorical": categorical, "ignore": ignored}
    named["split_by"] = [source.split_by] if source.split_by else []
    for option, names in named.items():
        for name in names:
            if name not in frame.columns:
                several = option == "target" and {*name.split(",")} <= {*frame.columns}
                problem = "a table has one target: repeat the command for each" if several else "no such column"
                raise OptionError(f"-o {option}={name}: {problem}; {available}{_header_remark(source, frame)}")
    if source.split_by == target_name:
        raise OptionError(f"-o split_by={target_name} is the target: expected another column")
    labelled = _drop_unlabelled(frame, target_name, source.drop_unlabelled)
    division = Division.by_column(labelled[source.split_by]) if source.split_by else None
    if division is not None and division.times is None:  # a group of its own says nothing about another
        ignored.append(source.split_by)
    inputs = frame.drop(columns=[target_name, *ignored], errors="ignore")
    kinds = {name: classify_column(inputs[name], name in categorical) for name in inputs.columns}
    target = _target(labelled[target_name], source.task)
    numeric, categorical, dates = (
        [name for name, column in kinds.items() if column.kind == kind] for kind in ("number", "category", "date")
    )
    if not (numeric or categorical or dates):
        unused = "; ".join(f"{name}: {column.kind}, {column.reason}" for name, column in list(kinds.items())[:5])
        raise OptionError(
            f"{available}: expected one to learn from beside target and ignore ({unused or 'there is none'})"
        )
    shares = source.validation, source.test
    if division is None:
        equal = labelled.groupby([*numeric, *categorical, *dates], sort=False, dropna=False).ngroup()
        division = Division.of_equal(equal.tolist(), "rows")
    training, held_out, test = division.parts(target.values if target.labels else None, len(labelled), *shares)
    formats = {name: kinds[name].date_format for name in dates}
    columns = Columns.learn(labelled.iloc[training], numeric, categorical, formats)
    encoded = columns.encode({name: labelled[name] for name in columns.names})
    dropped, words = len(frame) - len(labelled), _describe_format(source)
    return Table(encoded, target, training, held_out, test, columns, kinds, dropped, division, words)


def _describe_format(source: TableSource) -> str:
    """Return what differs from the usual format of a CSV file, in words; '' for another file."""
    path = Path(source.data).expanduser()
    if not source.data or path.suffix in (*PARQUET, *LINES):
        return ""
    return describe_csv_settings(csv_settings(path, source.header == "first"))


def _header_remark(source: TableSource, frame: pd.DataFrame) -> str:
    """Return what to do if the first line of a CSV file is probably a row; '' otherwise."""
    numbers = sum(NUMBER.fullmatch(name) is not None for name in frame.columns)
    if source.header == "none" or 3 * numbers < len(frame.columns):
        return ""
    return "; if its first line is a row of data, give -o header=none: the columns are then column1, column2, …"


def describe_table(table: Table) -> list[str]:
    """Return what was read of a table, a line each: rows, target, and the kind of each column."""
    rows, target = len(table.inputs), table.target
    split = f"{len(table.training)} for training, {len(table.held_out)} for validation, {len(table.test)} for the test"
    dropped = f"; {table.dropped} more without a target are left out" if table.dropped else ""
    division = f"; {table.division.line}" if table.division.line else ""
    lines = [f"{rows} rows: {split}{dropped}{division}", f"target {target.name}: {target.reason}"]
    if table.format:
        lines.insert(0, f"format of the file: {table.format}")
    if table.regression:
        values = target.values
        lines.append(f"its range: {values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}")
    else:
        lines.append(describe_classes(target.labels, target.values))
    return lines + telling_lines(table.telling_columns) + describe_columns(table.kinds, rows + table.dropped)


def describe_classes(labels: Sequence[str], classes: NDArray[Any]) -> str:
    """Return the number of samples of each class in one line, the largest class first.

    Args:
        labels: Names of the classes.
        classes: (n,), class numbers.
    """
    counts = np.bincount(classes, minlength=len(labels)).tolist()
    pairs = sorted(zip(labels, counts, strict=True), key=lambda pair: -pair[1])
    return f"{len(labels)} classes: {_shorten([f'{name} {count}' for name, count in pairs], 8)}"


def _shorten(names: Any, most: int = 30) -> str:
    """Return names in one line, with the number of those that do not fit."""
    shown, hidden = list(map(str, names))[:most], len(names) - most
    return ", ".join(shown) + (f" and {hidden} more" if hidden > 0 else "")


def read_file(data: str, header: bool = True) -> pd.DataFrame:
    """Return the table in a CSV or Parquet file or in JSON lines, with texts as names of its columns.

    Args:
        data: Path of the file.
        header: Whether the first line of a CSV file has the names of its columns.

    Raises:
        OptionError: There is no such file, it cannot be read, or two columns have the same name.
    """
    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(
            f"-o data={data} is no file (from {Path.cwd()}): give a CSV, Parquet or JSONL file, or leave it out"
        )
    try:
        if path.suffix in PARQUET:
            frame = read_parquet(path)
        elif path.suffix in LINES:
            frame = table_of_objects(path, list(json_lines(path)))
        else:
            frame = read_csv(path, header)
    except Exception as error:  # pandas and pyarrow raise many types
        reason = " ".join(str(error).split())
        remedy = "" if isinstance(error, TableProblem) else ": give a CSV, Parquet or JSONL file"
        raise OptionError(f"-o data={data}: cannot read it as a table ({reason}){remedy}") from None
    frame.columns = frame.columns.map(str)
    if not frame.columns.is_unique:
        raise OptionError(f"-o data={data}: two columns have the same name: rename one")
    return frame


def _drop_unlabelled(frame: pd.DataFrame, target: str, allowed: bool) -> pd.DataFrame:
    """Return the rows that have a target.

    Raises:
        OptionError: None has, or some have none and are not to be left out.
    """
    missing = frame[target].isna()
    count = int(missing.sum())
    if count == len(frame):
        raise OptionError(f"-o target={target}: none of the {len(frame)} rows has a value: choose another column")
    if count and not allowed:
        raise OptionError(
            f"-o target={target}: {count} of {len(frame)} rows have none: remove them, or leave them out with "
            "-o drop_unlabelled=true"
        )
    return frame[~missing].reset_index(drop=True) if count else frame


def _target(column: pd.Series[Any], task: str) -> Target:
    """Return the target of a column without missing values, as classes or as real numbers.

    With the task 'auto', numbers are regression if they have fractions, or more than `MOST_WHOLE_NUMBERS`
    different values. Texts that are all numbers count as numbers. Other texts, and true and false, are classes.

    Raises:
        OptionError: The task does not fit the column.
    """
    import pandas as pd
    from pandas.api import types

    name = str(column.name)
    numbers = None if types.is_bool_dtype(column) else pd.to_numeric(column, errors="coerce")
    if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column) or types.is_complex_dtype(column):
        raise OptionError(f"-o target={name} is of type {column.dtype}: expected numbers or classes")
    if numbers is None or numbers.isna().any():
        if task == "regression":
            wrong = next(iter(column if numbers is None else column[numbers.isna()]))
            raise OptionError(
                f"-o task=regression: -o target={name} has the value {str(wrong)[:80]!r}, which is no number: expected "
                "numbers only, or -o task=classification"
            )
        return _classes(column, name, "classification, since its values are not numbers")
    values = np.array(numbers, np.float64)  # a copy, for torch: it is writable
    count, whole = len(np.unique(values)), bool((values == np.round(values)).all())
    content = f"{count} different {'whole numbers' if whole else 'numbers'}"
    reason = f"{task}, by -o task; it has {content}"
    if task == "auto":
        is_classification = whole and count <= MOST_WHOLE_NUMBERS
        task, alternative = ("classification", "regression") if is_classification else ("regression", "classification")
        reason = f"{task}, since it has {content} (-o task={alternative} otherwise)"
    if task == "classification":
        return _classes(column, name, reason)
    problem = ""
    if len(values) < 4:
        problem = f": {len(values)} rows: expected 4 at least, for training, validation and test"
    elif not np.isfinite(values).all():
        infinite = int((~np.isfinite(values)).sum())
        problem = f": {infinite} of {len(values)} rows have infinity: expected finite numbers"
    elif np.abs(values).max() > MOST_NUMBER:
        problem = f": {np.abs(values).max():g} is above {MOST_NUMBER:g}: use another unit"
    elif values.min() == values.max():
        problem = f" is {values[0]:g} in every row: expected different values"
    if problem:
        raise OptionError(f"-o target={name}{problem}")
    return Target(name, values, (), reason)


def _classes(column: pd.Series[Any], name: str, reason: str) -> Target:
    values = column.to_numpy()
    try:
        labels, classes = np.unique(values, return_inverse=True)
    except TypeError:  # a column of several types
        labels, classes = np.unique(np.array([str(value) for value in values]), return_inverse=True)
    if len(labels) == 1:
        raise OptionError(f"-o target={name} is {labels[0]!s} in every row: expected two or more classes")
    if len(labels) > MOST_CLASSES:
        raise OptionError(
            f"-o target={name} has {len(labels)} different values: expected 2 to {MOST_CLASSES} classes; -o "
            "task=regression predicts numbers"
        )
    check_class_sizes(f"-o target={name}", labels, classes, "rows")
    return Target(name, classes, tuple(map(str, labels)), reason)


def telling_lines(names: Sequence[str]) -> list[str]:
    """Return the line about the columns that know the target; none if there is no such column."""
    if not names:
        return []
    shown = _shorten(list(map(repr, names)), 5)
    remedy = f"if it is not known beforehand, leave it out by -o ignore={','.join(names[:5])}"
    return [f"{TELLING} {shown} alone: {remedy}"]


def _square_sum(errors: NDArray[np.float64]) -> float:
    return float((errors**2).sum())
