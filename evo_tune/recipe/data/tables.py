"""A table as it lies on disk: CSV or Parquet, or scikit-learn's breast cancer; which of its columns are numbers.

Turned into numbers by `columns`, and split. No torch here; pandas is imported inside functions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.recipe.data.columns import Columns
from evo_tune.recipe.data.splits import stratified

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "read_table"]

MOST_CLASSES, MOST_CATEGORIES = 100, 1000
"""More of them look like a target to be regressed, or like an identifier."""


@dataclass(frozen=True)
class Table:
    """Rows as numbers (n, columns; see `Columns`), their class numbers (n,), the split into rows, and the names."""

    inputs: NDArray[Any]
    classes: NDArray[Any]
    training: NDArray[Any]
    held_out: NDArray[Any]
    test: NDArray[Any]
    columns: Columns
    labels: tuple[str, ...]


@lru_cache(maxsize=1)  # a worker trains on the same table again and again
def read_table(data: str, target: str, categorical: str, ignore: str, held_out: float, test: float) -> Table:
    """Return a file's table, or the breast cancer data, as numbers, and how its rows are split.

    Args:
        data: CSV or Parquet file; empty: scikit-learn's breast cancer, 569 rows of 30 numbers.
        target: The column to be told from the others.
        categorical: Columns of numbers that are categories, with commas between them.
        ignore: Columns to leave out, with commas between them.
        held_out: Share of each class by which trials are judged.
        test: Share of each class that is tested with.

    Raises:
        OptionError: It cannot be read, or there is no such column or one that cannot be used.
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
    import pandas as pd

    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(f"-o data={data} is no file (from {Path.cwd()}): give a CSV or Parquet file, or leave it out")
    try:
        frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
    except Exception as error:  # pandas and pyarrow raise half a dozen kinds
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
    """Return the names of the numeric columns and of the others."""
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
