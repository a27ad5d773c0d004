"""A table's columns as numbers: which of them are numeric, and which categories the others know.

What is learnt from a table (categories) is learnt from its training rows only. No torch and no file formats here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import RecipeError

__all__ = ["Columns"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a model looks at, in the order of its inputs: numeric ones first.

    Args:
        numeric: Names of the numeric columns.
        categorical: Name of each other column to its categories, in order.
    """

    numeric: tuple[str, ...]
    categorical: dict[str, tuple[str, ...]]

    @classmethod
    def learn(cls, table: Mapping[str, Any], numeric: Sequence[str], categorical: Sequence[str]) -> Columns:
        """Take note of the categories in a table of training rows.

        Args:
            table: Column name to values, a DataFrame for one.
            numeric: Names of numeric columns.
            categorical: Names of the others.
        """
        found = {name: sorted({text for text in _texts(table[name]) if text is not None}) for name in categorical}
        return cls(numeric=tuple(numeric), categorical={name: tuple(categories) for name, categories in found.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the inputs."""
        return (*self.numeric, *self.categorical)

    def encode(self, table: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return a table as numbers, (rows, columns), float32.

        A missing number is NaN. A category is its place from 1 on, and 0 if it is missing or unknown; in
        float32 places are exact up to 2²⁴.

        Args:
            table: Column name to values; others than `names` are ignored.

        Raises:
            RecipeError: A column is missing, or one that is numeric holds something else.
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
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        """Build it from what `to_json` gave."""
        categorical = {name: tuple(categories) for name, categories in data["categorical"].items()}
        return cls(numeric=tuple(data["numeric"]), categorical=categorical)


def _texts(values: Any) -> list[str | None]:
    """Return values as texts; None where one is missing (None, NaN, pandas' NA)."""
    return [None if value is None or value != value or str(value) == "<NA>" else str(value) for value in _list(values)]


def _numbers(name: str, values: Any) -> NDArray[np.float32]:
    try:
        numbers = [np.nan if value is None or str(value) == "<NA>" else float(value) for value in _list(values)]
    except (TypeError, ValueError) as error:
        raise RecipeError(name, str(error), "numbers, as in the training table") from None
    return np.array(numbers, np.float32)


def _list(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)
