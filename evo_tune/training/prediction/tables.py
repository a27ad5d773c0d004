"""Tables for an exported model: CSV and Parquet files in parts, DataFrames, mappings and arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evo_tune.errors import RecipeError, UsageError
from evo_tune.text import one_line
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.model import PART, CategoryIndex, Part, Reader, is_missing
from evo_tune.training.recipe import Columns
from evo_tune.training.recipe.data.reading import csv_parts, parquet_parts

DEFAULT_TARGET = "diagnosis"
"""Target of the default data."""


def join_names(names: Sequence[str], most: int = 10) -> str:
    """Return names in one line that is safe to print, with the number of those that do not fit."""
    more = len(names) - most
    return one_line(", ".join(names[:most])) + (f" and {more} more" if more > 0 else "")


def table_parts(path: Path, **settings: Any) -> Iterator[Any]:
    """Yield the rows of a CSV or Parquet file as DataFrames of `PART` rows.

    Args:
        path: The file.
        settings: Arguments of `pandas.read_csv`.

    Raises:
        UsageError: It is no such file, or two columns have one name.
    """
    packed = path.suffix in (".parquet", ".pq")
    if not path.is_file():
        raise UsageError(f"INPUT {path} is no file: expected a CSV or Parquet file")
    parts = parquet_parts(path, PART) if packed else csv_parts(path, PART, **settings)
    try:
        for frame in parts:
            frame.columns = frame.columns.map(str)
            yield frame
    except UsageError:
        raise
    except UnicodeDecodeError:
        remedy = "convert it, for example with iconv -f latin1 -t utf-8"
        raise UsageError(f"INPUT {path} is not UTF-8 text: {remedy}") from None
    except Exception as error:  # pandas and pyarrow raise many types
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise UsageError(f"INPUT {path}: cannot read it as a table ({reason}): give a CSV or Parquet file") from None


class Tables(Reader):
    """Rows of a table.

    Args:
        about: See `Reader`.
        columns: Columns of the training table.
    """

    kind = "tabular"

    def __init__(self, about: TrainingFacts, columns: Columns) -> None:
        super().__init__(about)
        self.columns = columns
        self.target = str(about.options.get("target") or DEFAULT_TARGET)
        self._places = {name: CategoryIndex(found, first=1) for name, found in columns.categorical.items()}

    def encode(self, data: Any) -> Tensor:
        table = self._table(data)
        self._check(list(table))
        self._note(list(table))
        known = {name: table[name] for name in self.columns.names}
        for name in self.columns.categorical:
            known[name] = self._categories(name, table[name])
        try:
            with np.errstate(over="ignore"):  # it is told of below
                encoded = self.columns.encode(known)
        except RecipeError as error:
            raise UsageError(f"column {one_line(str(error.field), 80)!r}: {one_line(str(error.value), 120)}") from None
        if np.isinf(encoded).any():
            raise UsageError("INPUT has infinite numbers, or some too large for float32: expected finite ones")
        return torch.from_numpy(encoded)

    def _table(self, data: Any) -> Mapping[str, Any]:
        if hasattr(data, "columns") or isinstance(data, Mapping):
            return {str(name): data[name] for name in data}
        rows, names = np.asarray(data), self.columns.names
        if rows.ndim != 2 or rows.shape[1] != len(names):
            raise UsageError(
                f"an array of shape {rows.shape}: expected (rows, {len(names)}), with the columns {join_names(names)}"
            )
        return {name: rows[:, place] for place, name in enumerate(names)}

    def _check(self, names: Sequence[str]) -> None:
        missing = [name for name in self.columns.names if name not in names]
        if missing:
            raise UsageError(
                f"INPUT has no column {join_names(missing)}: expected the columns of the training table, "
                f"{join_names(self.columns.names)}"
            )

    def _note(self, names: Sequence[str]) -> None:
        ignored = {text for text in str(self.about.options.get("ignore") or "").split(",") if text}
        unknown = [name for name in names if name not in {*self.columns.names, *ignored, self.target}]
        if unknown:
            self.remarks["columns"] = f"columns that the model does not know are ignored: {join_names(unknown)}"

    def _categories(self, name: str, values: Any) -> list[str | None]:
        """Return values as the training table writes them; an unknown one is missing, and a note names it."""
        given = list(values.tolist() if hasattr(values, "tolist") else values)
        places, known = self._places[name].of(given), self.columns.categorical[name]
        unseen = {str(value) for value, place in zip(given, places, strict=True) if np.isnan(place)} - {"nan", "None"}
        unseen = {text for text in unseen if not is_missing(text)}
        if unseen:
            shown = one_line(", ".join(sorted(unseen)[:3]), 80)
            self.remarks[f"categories {name}"] = (
                f"column {one_line(name, 60)!r}: categories that no training row has count as missing: {shown}"
                + (" and others" if len(unseen) > 3 else "")
            )
        return [None if np.isnan(place) else known[int(place) - 1] for place in places]

    def truth(self, data: Any) -> Sequence[Any] | None:
        found = data[self.target] if self.target in list(data) else None
        return None if found is None else list(found)

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        texts = [*self.columns.categorical, self.target]
        for frame in table_parts(path, dtype=dict.fromkeys(texts, str)):
            for name in keep:
                if name not in frame.columns:
                    raise UsageError(f"--keep {name}: no such column; INPUT has {join_names(list(frame.columns))}")
            keys = {name: frame[name].tolist() for name in keep}
            yield Part(frame, len(frame), keys, self.truth(frame))
