"""Texts with labels as they lie on disk: CSV, JSONL, or docstrings by their package. Knows nothing of tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.recipe.data.docstrings import docstrings

__all__ = ["LabelledTexts", "read_labelled_texts"]

MOST_CLASSES = 1000
"""More of them look like no classes."""


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, their class numbers (n,), and the classes' names."""

    texts: tuple[str, ...]
    classes: NDArray[Any]
    labels: tuple[str, ...]


@lru_cache(maxsize=1)  # a worker trains on the same texts again and again
def read_labelled_texts(data: str, text: str, label: str) -> LabelledTexts:
    """Return the texts of a file, or the docstrings.

    Args:
        data: CSV or JSONL file; empty: docstrings of installed packages.
        text: Name of its column of texts.
        label: Name of its column of labels.

    Raises:
        OptionError: They cannot be read, a column is missing, or the labels are not those of two classes or more.
    """
    rows = _rows(data, text, label) if data else docstrings()
    labels, classes = np.unique([name for _, name in rows], return_inverse=True)
    counts = np.bincount(classes)
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise OptionError(f"-o label={label} has {len(labels)} different values: expected 2 to {MOST_CLASSES} classes")
    if counts.min() < 3:
        raise OptionError(
            f"-o data={data}: {counts.min()} of class {labels[counts.argmin()]!s}: expected at least 3 texts of each, "
            "to train on, to judge trials by and to test with"
        )
    return LabelledTexts(tuple(string for string, _ in rows), classes, tuple(map(str, labels)))


def _rows(data: str, text: str, label: str) -> list[tuple[str, str]]:
    """Return text and label of each row of a file."""
    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(f"-o data={data} is no file (from {Path.cwd()}): give a CSV or JSONL file, or leave it out")
    try:
        rows = _jsonl(path) if path.suffix in (".jsonl", ".ndjson", ".json") else _csv(path)
    except (ValueError, OSError) as error:  # a wrong encoding, JSON or CSV is a ValueError too
        reason = " ".join(str(error).split())
        raise OptionError(f"-o data={data}: cannot read it ({reason}): give a CSV or JSONL file in UTF-8") from None
    known = list(dict.fromkeys(name for row in rows[:1000] for name in row))
    for option, name in (("text", text), ("label", label)):
        if name not in known:
            raise OptionError(f"-o {option}={name}: no such column; -o data={data} has {', '.join(known) or 'none'}")
    found = []
    for number, row in enumerate(rows, 1):
        for name in (text, label):
            if row.get(name) in (None, ""):
                raise OptionError(f"-o data={data}: row {number} has no {name!r}: fill it in, or remove the row")
        found.append((str(row[text]), str(row[label])))
    return found


def _csv(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows or [dict.fromkeys(frame.columns)]


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            rows.append(row)
    return rows
