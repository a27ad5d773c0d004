"""Labelled texts: reading and conversion to token numbers."""

import hashlib
import importlib.util
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import OptionError
from evo_tune.training.recipe.data.reading import LINES, json_lines, read_csv
from evo_tune.training.recipe.data.splitting import Division
from evo_tune.training.recipe.data.tables import check_class_sizes, data_hash, describe_classes
from evo_tune.training.recipe.models.encoder_config import TextConfig

# Packages whose docstrings are the default data, each with the folders to read if they exist.
SOURCES = {
    "networkx": ("algorithms", "generators", "classes"),
    "numpy": ("lib", "linalg", "polynomial", "ma", "_core", "core"),
    "pandas": ("core", "io", "plotting", "tseries"),
    "sympy": ("core", "functions", "geometry", "matrices", "physics", "solvers", "stats"),
    "torch": ("nn", "optim", "distributions", "utils", "fx", "ao"),
}

# Maximum number of docstrings per package, and minimum length of a docstring in characters.
PER_SOURCE, SHORTEST = 800, 40

# First paragraph of the docstring of a function or class. A parser would take many times as long.
DOCSTRING = re.compile(
    r'^[ \t]*(?:def|class)\s[^\n]*(?:\n[^\n]*){0,20}?:\n\s*[rR]?"""(.+?)(?:"""|\n\s*\n)', re.M | re.S
)


def read_docstrings() -> list[tuple[str, str]]:
    """Return pairs of a docstring's first paragraph and its package, with the packages' names masked.

    Raises:
        OptionError: One of the packages is not installed.
    """
    names = re.compile("|".join(SOURCES) + r"|\bnp\b|\bnx\b|\bpd\b", re.I)
    rows = []
    for package, folders in SOURCES.items():
        spec = importlib.util.find_spec(package)  # imports nothing
        if spec is None or spec.origin is None:
            raise OptionError(
                f"the default data is made of docstrings, and {package} is not installed: give -o data=FILE"
            )
        root, paragraphs = Path(spec.origin).parent, set()
        files = (file for folder in folders for file in (root / folder).rglob("*.py"))
        for file in sorted(file for file in files if "tests" not in file.parts):
            for paragraph in DOCSTRING.findall(file.read_text(encoding="utf-8", errors="replace")):
                paragraphs.add(" ".join(names.sub("_", paragraph).split()))
        usable = [paragraph for paragraph in sorted(paragraphs) if len(paragraph) >= SHORTEST]
        # Order by hash: a sample from the whole alphabet, the same in each process.
        usable.sort(key=lambda paragraph: hashlib.sha256(paragraph.encode("utf-8", "replace")).digest())
        rows += [(paragraph, package) for paragraph in usable[:PER_SOURCE]]
    return rows


# Maximum number of classes; more suggest that the column is not a label.
MOST_CLASSES = 1000


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, class numbers (n,), and names of the classes."""

    texts: tuple[str, ...]
    classes: NDArray[Any]
    labels: tuple[str, ...]
    division: Division = field(default_factory=Division, compare=False)
    # Results of `token_statistics`, which is called for each genome.
    _statistics: dict[Any, tuple[int, float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def fingerprint(self, *shares: float) -> str:
        """Return the SHA-256 of the texts, their labels and of how they are split into these shares."""
        content = json.dumps([self.labels, self.texts]).encode()
        return data_hash(content, self.classes.astype(np.int64), *self.parts(*shares))

    def parts(self, *shares: float) -> tuple[NDArray[Any], ...]:
        """Return the row numbers of the training part and of each further part (see `Division.parts`)."""
        return self.division.parts(self.classes, len(self.classes), *shares)

    def lines(self) -> list[str]:
        """Return what was read, a line each: texts, their words, and the classes."""
        words = np.array([len(text.split()) for text in self.texts])
        size = sum(len(text.encode("utf-8", "replace")) for text in self.texts)
        lengths = f"{np.median(words):.0f} words at the median, {np.percentile(words, 90):.0f} at the 90th percentile"
        lines = [f"{len(words)} texts of {size} bytes: {lengths}", describe_classes(self.labels, self.classes)]
        lines += [self.division.line] if self.division.line else []
        letters = {"".join(filter(str.isalnum, text.lower())) for text in self.texts}
        if similar := len(set(self.texts)) - len(letters):
            lines.append(f"{similar} texts differ from another in case, spaces or punctuation only: check for copies")
        return lines

    def count_characters(self, shares: tuple[float, float], length: int) -> int:
        """Return the number of characters of the training texts, at most `length` of each."""
        return sum(min(length, len(self.texts[row])) for row in self.parts(*shares)[0])

    def token_statistics(self, shares: tuple[float, float], config: TextConfig) -> tuple[int, float]:
        """Return the number of training texts, and the mean number of their tokens that are read.

        Args:
            shares: Shares of the samples for validation and for the test.
            config: Shape of the model; its length is the most tokens of a text that are read.
        """
        key = (shares, config)
        if key not in self._statistics:
            training, *_ = self.parts(*shares)
            sizes = [len(tokens_of(self.texts[row], config)) for row in training]
            self._statistics[key] = len(sizes), sum(sizes) / len(sizes)
        return self._statistics[key]


@lru_cache(maxsize=1)  # a worker trains on the same texts repeatedly
def read_labelled_texts(data: str, text: str, label: str, split_by: str = "") -> LabelledTexts:
    """Return the labelled texts of a file, or the docstrings.

    Args:
        data: CSV or JSONL file; empty: docstrings of installed packages.
        text: Name of the column of texts.
        label: Name of the column of labels.
        split_by: Name of the column by which texts are divided into parts (see `Division.by_column`); '': they are
            drawn, equal ones together.

    Raises:
        OptionError: The file cannot be read, a column is missing, or the labels are not two or more classes.
    """
    if split_by and split_by == label:
        raise OptionError(f"-o split_by={label} has the labels: expected another column")
    names = (text, label, split_by) if split_by else (text, label)
    rows = _rows(data, names) if data else read_docstrings()
    texts = tuple(row[0] for row in rows)
    labels, classes = np.unique([row[1] for row in rows], return_inverse=True)
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise OptionError(f"-o label={label} has {len(labels)} different values: expected 2 to {MOST_CLASSES} classes")
    check_class_sizes(f"-o data={data}", labels, classes, "texts")
    if split_by:
        import pandas as pd

        division = Division.by_column(pd.Series([row[2] for row in rows], name=split_by))
    else:
        division = Division.of_equal(texts, "texts")
    return LabelledTexts(texts, classes, tuple(map(str, labels)), division)


def _rows(data: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of each row of a file in the columns of the text, the label and, if named, of the split."""
    path = Path(data).expanduser()
    if not path.is_file():
        raise OptionError(f"-o data={data} is no file (from {Path.cwd()}): give a CSV or JSONL file, or leave it out")
    try:
        rows = list(json_lines(path)) if path.suffix in LINES else _read_rows_of_csv(path)
    except Exception as error:  # pandas and the modules that unpack raise many types
        reason = " ".join(str(error).split())
        raise OptionError(f"-o data={data}: cannot read it ({reason}): give a CSV or JSONL file in UTF-8") from None
    columns = list(dict.fromkeys(name for row in rows[:1000] for name in row))
    for option, name in zip(("text", "label", "split_by"), names, strict=False):
        if name not in columns:
            raise OptionError(f"-o {option}={name}: no such column; -o data={data} has {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, 1):
        for name in names:
            if row.get(name) in (None, ""):
                raise OptionError(f"-o data={data}: row {number} has no {name!r}: fill it in, or remove the row")
    return [tuple(str(row[name]) for name in names) for row in rows]


def _read_rows_of_csv(path: Path) -> list[dict[str, Any]]:
    texts: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
    frame = read_csv(path, nrows=MOST_ROWS + 1, **texts)
    if len(frame) > MOST_ROWS:
        raise ValueError(f"it has more than {MOST_ROWS} rows: take a sample of them")
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows or [dict.fromkeys(frame.columns)]


# Maximum number of texts of a CSV file, which may be packed: short rows take fifty times their size in memory.
MOST_ROWS = 5_000_000

# Token that pads a short text.
PADDING = 0

WORD = re.compile(r"\w+|[^\w\s]")


def tokens_of(text: str, config: TextConfig) -> list[int]:
    """Return the first tokens of a text, numbered from 1: its UTF-8 bytes, or hashes of its lower-case words.

    A text without tokens is replaced by a newline, so that no sample is empty.
    """
    if config.unit == "bytes":
        return [byte + 1 for byte in (text.encode("utf-8", "replace") or b"\n")[: config.length]]
    words = [match[0] for match, _ in zip(WORD.finditer(text.lower()), range(config.length), strict=False)]
    return [zlib.crc32(word.encode("utf-8", "replace")) % config.buckets + 1 for word in words or ["\n"]]


def encode_texts(texts: Sequence[str], config: TextConfig) -> NDArray[np.int32]:
    """Return the first tokens of each text, padded with PADDING: (texts, length), int32."""
    tokens = np.full((len(texts), config.length), PADDING, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        numbers = tokens_of(text, config)
        row[: len(numbers)] = numbers
    return tokens


# Number of a space in `encode_pieces`.
SPACE = 33


def encode_pieces(texts: Sequence[str], length: int) -> NDArray[np.int32]:
    """Return the lower-case words and characters of each text, (texts, pieces), padded with PADDING.

    Words are negative hashes, followed by the characters as code points + 1, with one space before and after what is
    between spaces. A text without words has a newline.

    Args:
        texts: The texts.
        length: Most characters of a text that are read.
    """
    rows = []
    for text in texts:
        text = text[:length].lower()[:length]
        words = [zlib.crc32(word.encode("utf-8", "replace")) for word in WORD.findall(text) or ["\n"]]
        spaced = f" {' '.join(text.split())} ".encode("utf-32-le", "replace")
        hashes = -1 - (np.array(words, np.int64) & 0x7FFFFFFF)
        rows.append(np.concatenate([hashes.astype(np.int32), np.frombuffer(spaced, "<i4") + 1]))
    pieces = np.full((len(rows), max(map(len, rows), default=1)), PADDING, np.int32)
    for row, values in zip(pieces, rows, strict=True):
        row[: len(values)] = values
    return pieces
