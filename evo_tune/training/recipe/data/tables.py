"""Tables: reading, splitting and conversion to numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_number
from evo_tune.training.recipe.data.kinds import DATE_PARTS, Column, classify_column, date_numbers, describe_columns
from evo_tune.training.recipe.data.reading import read_csv, read_parquet

if TYPE_CHECKING:
    import pandas as pd


def split_stratified(classes: NDArray[np.int64], *shares: float) -> tuple[NDArray[np.int64], ...]:
    """Split samples into a training part and one further part per share, such as validation and test.

    Each part gets its share of each class, to the nearest sample, and at least one. The samples are drawn with a fixed
    seed: they depend only on the classes, their order and the shares.

    Args:
        classes: (n,), class number of each sample.
        shares: Shares of the further parts, each above 0, sum below 1.

    Returns:
        Row numbers of the training part, then of each further part, all ascending.

    Raises:
        RecipeError: There are fewer than two classes, a class has too few samples for all parts, or a share is out of
            its range.
    """
    check_number("validation", sum(shares), "(0, 1)")
    for share in shares:
        check_number("validation", share, "(0, 1)")
    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2:
        raise RecipeError("labels", f"{len(names)} class", "two classes or more")
    if counts.min() < len(shares) + 1:
        raise RecipeError("labels", f"a class of {counts.min()}", f"{len(shares) + 1} samples or more of each class")
    rng = np.random.default_rng(0)
    part = np.zeros(len(classes), int)
    for name, count in zip(names, counts, strict=True):
        rows = rng.permutation(np.flatnonzero(classes == name))
        sizes = _sizes(int(count), shares)
        part[rows[: sum(sizes)]] = np.repeat(np.arange(1, len(shares) + 1), sizes)
    return tuple(np.flatnonzero(part == number) for number in range(len(shares) + 1))


def split_rows(count: int, *shares: float) -> tuple[NDArray[np.int64], ...]:
    """Split samples without classes, as `split_stratified` splits those of one class: drawn with a fixed seed.

    Args:
        count: Number of samples.
        shares: See `split_stratified`.

    Raises:
        RecipeError: There are too few samples for all parts, or a share is out of its range.
    """
    check_number("validation", sum(shares), "(0, 1)")
    for share in shares:
        check_number("validation", share, "(0, 1)")
    if count < len(shares) + 2:
        raise RecipeError("rows", count, f"{len(shares) + 2} rows or more")
    rows = np.random.default_rng(0).permutation(count)
    ends = np.cumsum(_sizes(count, shares)[::-1])
    parts = np.split(rows, ends)
    return tuple(np.sort(part) for part in parts[::-1])


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Return the samples per part for a class of `count` samples, leaving at least one for training."""
    sizes = [max(1, round(share * count)) for share in shares]
    while sum(sizes) >= count:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def data_hash(*parts: bytes | NDArray[Any]) -> str:
    """Return the SHA-256 of data and its split, the fingerprint of a run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Input columns of a model, in the order of its inputs: numbers, the numbers of dates, categories.

    Args:
        numeric: Names of the numeric columns.
        categorical: Name of each categorical column to its categories, in order.
        dates: Name of each column of dates to their format (see `kinds.FORMATS`).
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
        texts = {name: sorted({text for text in _texts(table[name]) if text is not None}) for name in categorical}
        categories = {name: tuple(categories_of_column) for name, categories_of_column in texts.items()}
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
                places = {category: place for place, category in enumerate(self.categorical[name], 1)}
                inputs.append(
                    np.array([0 if text is None else places.get(text, 0) for text in _texts(table[name])], np.float32)
                )
            elif name in self.dates:
                inputs += list(date_numbers(table[name], self.dates[name]).T)
            else:
                inputs.append(_numbers(name, table[name]))
        return np.stack(inputs, 1)

    def to_json(self) -> dict[str, Any]:
        """Return the columns as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        """Return the columns from the data of `to_json`."""
        categorical = {name: tuple(categories) for name, categories in data["categorical"].items()}
        return cls(numeric=tuple(data["numeric"]), categorical=categorical, dates=dict(data["dates"]))


def _texts(values: Any) -> list[str | None]:
    """Return the values as texts; None for a missing value (None, NaN, pandas' NA)."""
    return [None if value is None or value != value or str(value) == "<NA>" else str(value) for value in _list(values)]


def _numbers(name: str, values: Any) -> NDArray[np.float32]:
    try:
        numbers = [np.nan if value is None or str(value) == "<NA>" else float(value) for value in _list(values)]
    except (TypeError, ValueError) as error:
        raise RecipeError(name, str(error), "numbers, as in the training table") from None
    return np.array(numbers, np.float32)


def _list(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


MOST_CLASSES = 100
"""Maximum number of classes; more suggest a regression target, or an identifier."""

MOST_WHOLE_NUMBERS = 20
"""Most different whole numbers of a target that are taken for classes."""


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
    """

    data: str
    target: str
    categorical: str = ""
    ignore: str = ""
    validation: float = 0.2
    test: float = 0.2
    task: str = "auto"
    drop_unlabelled: bool = False


@dataclass(frozen=True)
class Target:
    """The column to predict.

    Args:
        name: Its name.
        values: (rows,), class numbers (int64), or real numbers (float64).
        labels: Names of the classes; empty for real numbers.
        decided: Reason for the task, in words.
    """

    name: str
    values: NDArray[Any]
    labels: tuple[str, ...]
    decided: str


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as numbers (n, columns; see `Columns`), the target, and row numbers of the split."""

    inputs: NDArray[Any]
    target: Target
    training: NDArray[Any]
    held_out: NDArray[Any]
    test: NDArray[Any]
    columns: Columns
    kinds: dict[str, Column]
    """The kind of each column, by name."""
    dropped: int
    """Number of rows that were left out because they have no target."""

    @property
    def regression(self) -> bool:
        """Whether the target is a real number."""
        return not self.target.labels

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training rows' real target; a deviation of 0 counts as 1."""
        values = self.target.values[self.training]
        return float(values.mean()), float(values.std()) or 1.0


@lru_cache(maxsize=1)  # a worker trains on the same table repeatedly
def read_table(where: TableSource) -> Table:
    """Return a file's table, or the breast cancer data, as numbers, with the split of its rows.

    Raises:
        OptionError: The file cannot be read, or a column is missing or unusable.
    """
    frame, target = (read_file(where.data), where.target) if where.data else (_breast_cancer(), "diagnosis")
    available = f"-o data={where.data} has the columns {_listed(frame.columns)}"
    names = {
        option: [name for name in text.split(",") if name]
        for option, text in (("categorical", where.categorical), ("ignore", where.ignore))
    }
    for option, chosen in (("target", [target]), *names.items()):
        for name in chosen:
            if name not in frame.columns:
                raise OptionError(f"-o {option}={name}: no such column; {available}")
    every = len(frame)
    chosen = frame.drop(columns=[target, *names["ignore"]], errors="ignore")
    kinds_by_name = {name: classify_column(chosen[name], name in names["categorical"]) for name in chosen.columns}
    frame = _labelled(frame, target, where.drop_unlabelled)
    aim = _target(frame[target], where.task)
    kinds: dict[str, list[str]] = {"number": [], "category": [], "date": []}
    for column in kinds_by_name.values():
        kinds.setdefault(column.kind, []).append(column.name)
    if not any(kinds[kind] for kind in ("number", "category", "date")):
        out = "; ".join(f"{column.name}: {column.kind}, {column.reason}" for column in list(kinds_by_name.values())[:5])
        raise OptionError(
            f"{available}: expected one to learn from beside target and ignore ({out or 'there is none'})"
        )
    shares = where.validation, where.test
    training, validation_rows, test_rows = (
        split_stratified(aim.values, *shares) if aim.labels else split_rows(len(frame), *shares)
    )
    dates = {name: kinds_by_name[name].format for name in kinds["date"]}
    columns = Columns.learn(frame.iloc[training], kinds["number"], kinds["category"], dates)
    return Table(
        columns.encode({name: frame[name] for name in columns.names}),
        aim,
        training,
        validation_rows,
        test_rows,
        columns,
        kinds_by_name,
        every - len(frame),
    )


def describe_table(table: Table) -> list[str]:
    """Return what was read of a table, a line each: rows, target, and the kind of each column."""
    rows, target = len(table.inputs), table.target
    split = f"{len(table.training)} for training, {len(table.held_out)} for validation, {len(table.test)} for the test"
    dropped = f"; {table.dropped} more without a target are left out" if table.dropped else ""
    lines = [f"{rows} rows: {split}{dropped}", f"target {target.name}: {target.decided}"]
    if table.regression:
        values = target.values
        lines.append(f"its range: {values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}")
    else:
        lines.append(describe_classes(target.labels, target.values))
    return lines + describe_columns(table.kinds, rows + table.dropped)


def describe_classes(labels: Sequence[str], classes: NDArray[Any]) -> str:
    """Return the number of samples of each class in one line, the largest class first.

    Args:
        labels: Names of the classes.
        classes: (n,), class numbers.
    """
    counts = np.bincount(classes, minlength=len(labels)).tolist()
    pairs = sorted(zip(labels, counts, strict=True), key=lambda pair: -pair[1])
    return f"{len(labels)} classes: {_listed([f'{name} {count}' for name, count in pairs], 8)}"


def _listed(names: Any, most: int = 30) -> str:
    """Return names in one line, with the number of those that do not fit."""
    shown, hidden = list(map(str, names))[:most], len(names) - most
    return ", ".join(shown) + (f" and {hidden} more" if hidden > 0 else "")


def read_file(data: str) -> pd.DataFrame:
    """Return the table in a CSV or Parquet file, with texts as names of its columns.

    Raises:
        OptionError: There is no such file, it cannot be read, or two columns have the same name.
    """
    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(f"-o data={data} is no file (from {Path.cwd()}): give a CSV or Parquet file, or leave it out")
    try:
        frame = read_parquet(path) if path.suffix in (".parquet", ".pq") else read_csv(path)
    except Exception as error:  # pandas and pyarrow raise many types
        reason = " ".join(str(error).split())
        raise OptionError(f"-o data={data}: cannot read it as a table ({reason}): give a CSV or Parquet file") from None
    frame.columns = frame.columns.map(str)
    if not frame.columns.is_unique:
        raise OptionError(f"-o data={data}: two columns have the same name: rename one")
    return frame


def _breast_cancer() -> pd.DataFrame:
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise OptionError(
            "the default data comes with scikit-learn, which is not installed: pip install 'evo-tune[sklearn]', or "
            "give your own with -o data=FILE -o target=COLUMN"
        ) from None
    loaded = load_breast_cancer(as_frame=True)
    frame: pd.DataFrame = loaded.data.assign(diagnosis=loaded.target_names[loaded.target])
    return frame


def _labelled(frame: pd.DataFrame, target: str, drop: bool) -> pd.DataFrame:
    """Return the rows that have a target.

    Raises:
        OptionError: None has, or some have none and are not to be left out.
    """
    missing = frame[target].isna()
    count = int(missing.sum())
    if count == len(frame):
        raise OptionError(f"-o target={target}: none of the {len(frame)} rows has a value: choose another column")
    if count and not drop:
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

    name, auto = str(column.name), task == "auto"
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
    kind = f"{count} different {'whole numbers' if whole else 'numbers'}"
    if auto:
        task = "classification" if whole and count <= MOST_WHOLE_NUMBERS else "regression"
        alternative = "regression" if task == "classification" else "classification"
        decided = f"{task}, since it has {kind} (-o task={alternative} otherwise)"
    else:
        decided = f"{task}, by -o task; it has {kind}"
    return _classes(column, name, decided) if task == "classification" else _numeric(values, name, decided)


def _numeric(values: NDArray[np.float64], name: str, decided: str) -> Target:
    if len(values) < 4:
        raise OptionError(
            f"-o target={name}: {len(values)} rows: expected 4 at least, for training, validation and test"
        )
    if not np.isfinite(values).all():
        raise OptionError(
            f"-o target={name}: {int((~np.isfinite(values)).sum())} of {len(values)} rows have infinity: expected "
            "finite numbers"
        )
    if np.abs(values).max() > MOST_NUMBER:
        raise OptionError(f"-o target={name}: {np.abs(values).max():g} is above {MOST_NUMBER:g}: use another unit")
    if values.min() == values.max():
        raise OptionError(f"-o target={name} is {values[0]:g} in every row: expected different values")
    return Target(name, values, (), decided)


MOST_NUMBER = 1e100
"""Largest number of a target: a sum of squares must be finite."""


def _classes(column: pd.Series[Any], name: str, decided: str) -> Target:
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
    rarest = int(np.bincount(classes).argmin())
    if (count := np.bincount(classes)[rarest]) < 3:
        raise OptionError(
            f"-o target={name}: {count} of class {labels[rarest]!s}: expected at least 3 rows of each, "
            "for training, validation and test"
        )
    return Target(name, classes, tuple(map(str, labels)), decided)
