"""Tables: reading, splitting and conversion to numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_number
from evo_tune.recipe.data.reading import read_csv, read_parquet

if TYPE_CHECKING:
    import pandas as pd


def stratified(classes: NDArray[np.int64], *shares: float) -> tuple[NDArray[np.int64], ...]:
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
    check_number("held_out", sum(shares), "(0, 1)")
    for share in shares:
        check_number("held_out", share, "(0, 1)")
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


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Return the samples per part for a class of `count` samples, leaving at least one for training."""
    sizes = [max(1, round(share * count)) for share in shares]
    while sum(sizes) >= count:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def hash_of(*parts: bytes | NDArray[Any]) -> str:
    """Return the SHA-256 of data and its split, the fingerprint of a run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Input columns of a model, in the order of its inputs: numeric columns first.

    Args:
        numeric: Names of the numeric columns.
        categorical: Name of each categorical column to its categories, in order.
    """

    numeric: tuple[str, ...]
    categorical: dict[str, tuple[str, ...]]

    @classmethod
    def learn(cls, table: Mapping[str, Any], numeric: Sequence[str], categorical: Sequence[str]) -> Columns:
        """Return the columns with the categories found in the training rows.

        Args:
            table: Column name to values, for example a DataFrame.
            numeric: Names of the numeric columns.
            categorical: Names of the categorical columns.
        """
        found = {name: sorted({text for text in _texts(table[name]) if text is not None}) for name in categorical}
        return cls(numeric=tuple(numeric), categorical={name: tuple(categories) for name, categories in found.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in the order of the inputs."""
        return (*self.numeric, *self.categorical)

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
        return cls(numeric=tuple(data["numeric"]), categorical=categorical)


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


MOST_CLASSES, MOST_CATEGORIES = 100, 1000
"""Maximum number of classes, and of categories; more suggest a regression target, or an identifier."""


@dataclass(frozen=True)
class Table:
    """Rows as numbers (n, columns; see `Columns`), class numbers (n,), row numbers of the split, and names."""

    inputs: NDArray[Any]
    classes: NDArray[Any]
    training: NDArray[Any]
    held_out: NDArray[Any]
    test: NDArray[Any]
    columns: Columns
    labels: tuple[str, ...]


@lru_cache(maxsize=1)  # a worker trains on the same table repeatedly
def read_table(data: str, target: str, categorical: str, ignore: str, held_out: float, test: float) -> Table:
    """Return a file's table, or the breast cancer data, as numbers, with the split of its rows.

    Args:
        data: CSV or Parquet file; empty: scikit-learn's breast cancer data, 569 rows of 30 numbers.
        target: Name of the column to predict.
        categorical: Comma-separated names of numeric columns to treat as categories.
        ignore: Comma-separated names of columns to leave out.
        held_out: Share of each class in the validation set.
        test: Share of each class in the test set.

    Raises:
        OptionError: The file cannot be read, or a column is missing or unusable.
    """
    frame, target = (_read(data), target) if data else (_breast_cancer(), "diagnosis")
    known = f"-o data={data} has the columns {', '.join(map(str, frame.columns))}"
    names = {
        option: [name for name in text.split(",") if name]
        for option, text in (("categorical", categorical), ("ignore", ignore))
    }
    for option, given in (("target", [target]), *names.items()):
        for name in given:
            if name not in frame.columns:
                raise OptionError(f"-o {option}={name}: no such column; {known}")
    labels, classes = _classes(frame[target], target)
    frame = frame.drop(columns=[target, *names["ignore"]], errors="ignore")
    if not len(frame.columns):
        raise OptionError(f"{known}: expected one at least beside target and ignore")
    training, held, tested = stratified(classes, held_out, test)
    columns = Columns.learn(frame.iloc[training], *_kinds(frame, names["categorical"]))
    for name, categories in columns.categorical.items():
        if len(categories) > MOST_CATEGORIES:
            raise OptionError(
                f"column {name!r} holds {len(categories)} different texts: expected at most {MOST_CATEGORIES}; "
                f"leave it out with -o ignore={name}"
            )
    return Table(columns.encode(frame), classes, training, held, tested, columns, labels)


def _read(data: str) -> pd.DataFrame:
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


def _classes(column: pd.Series[Any], target: str) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Return the names of the classes and each row's class number."""
    if column.isna().any():
        missing = int(column.isna().sum())
        raise OptionError(f"-o target={target}: {missing} of {len(column)} rows have none: remove them")
    labels, classes = np.unique(column.to_numpy(), return_inverse=True)
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise OptionError(
            f"-o target={target} has {len(labels)} different values: expected 2 to {MOST_CLASSES} classes"
        )
    rarest = int(np.bincount(classes).argmin())
    if (count := np.bincount(classes)[rarest]) < 3:
        raise OptionError(
            f"-o target={target}: {count} of class {labels[rarest]!s}: expected at least 3 rows of each, "
            "to train on, to judge trials by and to test with"
        )
    return tuple(map(str, labels)), classes


def _kinds(frame: pd.DataFrame, categorical: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the numeric columns and of the categorical ones."""
    from pandas.api import types

    numeric, others = [], []
    for name in frame.columns:
        column = frame[name]
        if (
            types.is_datetime64_any_dtype(column)
            or types.is_timedelta64_dtype(column)
            or types.is_complex_dtype(column)
        ):
            raise OptionError(f"column {name!r} is of type {column.dtype}: expected numbers or texts; -o ignore={name}")
        if name in categorical or not types.is_numeric_dtype(column):
            others.append(name)
        elif np.isinf(column.to_numpy(float, na_value=np.nan)).any():
            raise OptionError(f"column {name!r} holds infinite numbers: expected finite ones; -o ignore={name}")
        else:
            numeric.append(name)
    return numeric, others
