"""Texts for an exported classifier: a column of a table or of JSON lines, files, lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evo_tune.errors import UsageError
from evo_tune.text import one_line
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.model import PART, Part, Reader, is_missing
from evo_tune.training.prediction.tables import join_names, table_parts
from evo_tune.training.recipe import TextConfig, encode_texts

LONGEST_LINE, LARGEST_TEXT = 1 << 24, 1 << 26
"""Maximum bytes of a line of JSON, and of a file that is one text."""


def text_files(path: Path) -> list[Path]:
    """Return the files of a folder, in order, or the file itself.

    Raises:
        UsageError: There are none.
    """
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
    if not found:
        what = "is empty" if path.is_dir() else "is no file or folder"
        raise UsageError(f"INPUT {path} {what}: expected a file, or a folder with one text in each file")
    return found


def read_text_file(path: Path) -> bytes:
    """Return the content of a file that is one text.

    Raises:
        UsageError: It cannot be read, or is too large.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_TEXT:
            raise UsageError(f"INPUT {path} has more than {LARGEST_TEXT} bytes: split it")
        return path.read_bytes() if size else b""  # /proc/kmsg has a size of 0, and reading it waits forever
    except OSError as error:
        raise UsageError(f"INPUT {path}: cannot read it ({error.strerror})") from None


def _as_text(path: Path) -> str:
    try:
        return read_text_file(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"INPUT {path} is not UTF-8 text: convert it with iconv -t UTF-8") from None


class Texts(Reader):
    """Texts.

    Args:
        about: See `Reader`.
        config: Shape of the model, which says how a text becomes tokens.
    """

    kind = "text"

    def __init__(self, about: TrainingFacts, config: TextConfig) -> None:
        super().__init__(about)
        self.config = config
        self.text, self.label = (str(about.options.get(name) or name) for name in ("text", "label"))

    def encode(self, data: Any) -> Tensor:
        if isinstance(data, str):
            raise UsageError("predict: one text: expected a list of texts")
        texts = list(data[self.text] if hasattr(data, "columns") and self.text in data else data)
        for place, text in enumerate(texts):
            if not isinstance(text, str) and not is_missing(text):
                raise UsageError(f"text {place} is {type(text).__name__}: expected texts")
        missing = sum(is_missing(text) or not text.strip() for text in texts)
        if missing:
            self.remarks["texts"] = "some texts are missing or empty: they are predicted as an empty text"
        return torch.from_numpy(encode_texts(["" if is_missing(text) else text for text in texts], self.config))

    def truth(self, data: Any) -> Sequence[Any] | None:
        return list(data[self.label]) if hasattr(data, "columns") and self.label in data else None

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        if path.suffix in (".csv", ".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".gz", ".bz2", ".xz"):
            yield from self._rows(path, keep)
            return
        files = iter(text_files(path))
        while found := list(islice(files, PART)):
            texts = [_as_text(file) for file in found]
            yield Part(texts, len(texts), {"file": [str(file) for file in found]})

    def _rows(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        import pandas as pd

        lines = path.suffix in (".jsonl", ".ndjson", ".json")
        given = {"dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
        for frame in map(pd.DataFrame, json_parts(path)) if lines else table_parts(path, **given):
            for flag, name in (("-o text", self.text), *(("--keep", name) for name in keep)):
                if name not in frame.columns:
                    raise UsageError(f"INPUT has no column {name!r} ({flag}): it has {join_names(list(frame.columns))}")
            keys = {name: frame[name].tolist() for name in keep}
            yield Part(frame[self.text].tolist(), len(frame), keys, self.truth(frame))


def json_parts(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the objects of a file with one object a line, `PART` at once.

    Raises:
        UsageError: The file cannot be read, or a line is no object.
    """
    found: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if line.strip():
                    found.append(_object(line, path, number))
                if len(found) == PART:
                    yield found
                    found = []
    except OSError as error:
        raise UsageError(f"INPUT {path}: cannot read it ({error.strerror})") from None
    if found:
        yield found


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        if len(line) > LONGEST_LINE:
            raise ValueError(f"more than {LONGEST_LINE} bytes")
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError("no object")
        return row
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error), 120)
        raise UsageError(f"INPUT {path}: line {number} is no JSON object in UTF-8 ({reason}): correct it") from None
