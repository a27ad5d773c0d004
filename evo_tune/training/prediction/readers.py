"""Data for an exported model, from files and from memory: tables, texts, images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.errors import RecipeError, UsageError
from evo_tune.text import one_line
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.memory import InputSize
from evo_tune.training.prediction.model import CategoryIndex, Part, Reader, is_missing
from evo_tune.training.recipe import LinearTextConfig, TextConfig, encode_pieces, encode_texts
from evo_tune.training.recipe.data import reading
from evo_tune.training.recipe.data.images import read_image, read_npz

if TYPE_CHECKING:
    import pandas as pd

# Target of the default data.
DEFAULT_TARGET = "diagnosis"


def join_names(names: Sequence[str], most: int = 10) -> str:
    """Return names in one line that is safe to print, with the number of those that do not fit."""
    omitted = len(names) - most
    return one_line(", ".join(names[:most])) + (f" and {omitted} more" if omitted > 0 else "")


def table_parts(path: Path, rows: int, header: bool = True, **settings: Any) -> Iterator[Any]:
    """Yield the rows of a CSV or Parquet file as DataFrames.

    Args:
        path: The file.
        rows: Most rows of a DataFrame.
        header: Whether the first line of a CSV file has the names of its columns.
        settings: Arguments of `pandas.read_csv`.

    Raises:
        UsageError: It is no such file, or two columns have one name.
    """
    if not path.is_file():
        raise UsageError(f"INPUT {path} is no file: expected a CSV or Parquet file")
    is_parquet = path.suffix in reading.PARQUET
    parts = reading.parquet_parts(path, rows) if is_parquet else reading.csv_parts(path, rows, header, **settings)
    try:
        for frame in parts:
            frame.columns = frame.columns.map(str)
            yield frame
    except reading.TableProblem as error:
        raise UsageError(f"INPUT {path}: cannot read it as a table ({error})") from None
    except Exception as error:  # pandas and pyarrow raise many types
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise UsageError(
            f"INPUT {path}: cannot read it as a table ({reason}): give a CSV, Parquet or JSONL file"
        ) from None


class Tables(Reader):
    """Rows of a table.

    Args:
        about: See `Reader`.
        network: The model, with the columns of the training table.
    """

    kind = "tabular"

    def __init__(self, about: TrainingFacts, network: Any) -> None:
        super().__init__(about)
        if network.columns is None:
            raise RecipeError("columns", None, "the names of the columns, as export writes them")
        self.columns = columns = network.columns
        self.target = str(about.options.get("target") or DEFAULT_TARGET)
        self._places = {name: CategoryIndex(categories, first=1) for name, categories in columns.categorical.items()}

    def size(self, data: Any) -> InputSize:
        rows = next(iter(data.values()), ()) if isinstance(data, Mapping) else data
        return InputSize(len(rows), len(self.columns.names))

    def encode(self, data: Any) -> Tensor:
        names = self.columns.names
        if hasattr(data, "columns") or isinstance(data, Mapping):
            table = {str(name): data[name] for name in data}
        else:
            rows = np.asarray(data)
            if rows.ndim != 2 or rows.shape[1] != len(names):
                expected = f"(rows, {len(names)}), with the columns {join_names(names)}"
                raise UsageError(f"an array of shape {rows.shape}: expected {expected}")
            table = {name: rows[:, place] for place, name in enumerate(names)}
        if missing := [name for name in names if name not in table]:
            expected = f"expected the columns of the training table, {join_names(names)}"
            raise UsageError(f"INPUT has no column {join_names(missing)}: {expected}")
        ignored = filter(None, str(self.about.options.get("ignore") or "").split(","))
        expected_names = {*names, *ignored, self.target}
        if unknown := [name for name in table if name not in expected_names]:
            self.remarks["columns"] = f"columns that the model does not know are ignored: {join_names(unknown)}"
        cells = {name: table[name] for name in names}
        for name in self.columns.categorical:
            cells[name] = self._categories(name, table[name])
        try:
            with np.errstate(over="ignore"):  # it is told of below
                encoded = self.columns.encode(cells)
        except RecipeError as error:
            raise UsageError(f"column {one_line(str(error.field), 80)!r}: {one_line(str(error.value), 120)}") from None
        if np.isinf(encoded).any():
            raise UsageError("INPUT has infinite numbers, or some too large for float32: expected finite ones")
        return torch.from_numpy(encoded)

    def _categories(self, name: str, values: Any) -> list[str | None]:
        """Return values as the training table writes them; an unknown one is missing, and a note names it."""
        raw_values = list(values.tolist() if hasattr(values, "tolist") else values)
        places, categories = self._places[name].of(raw_values), self.columns.categorical[name]
        unseen = {str(value) for value, place in zip(raw_values, places, strict=True) if np.isnan(place)}
        unseen = {text for text in unseen - {"nan", "None"} if not is_missing(text)}
        if unseen:
            shown = one_line(", ".join(sorted(unseen)[:3]), 80) + (" and others" if len(unseen) > 3 else "")
            remark = f"column {one_line(name, 60)!r}: categories that no training row has count as missing: {shown}"
            self.remarks[f"categories {name}"] = remark
        return [None if np.isnan(place) else categories[int(place) - 1] for place in places]

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        texts = [*self.columns.categorical, self.target]
        names, header = {*self.columns.names, self.target, *keep}, self.about.options.get("header") != "none"
        for columns, frame in _frames(path, self.part, names, header=header, dtype=dict.fromkeys(texts, str)):
            for name in keep:
                if name not in frame.columns:
                    raise UsageError(f"--keep {name}: no such column; INPUT has {join_names(columns)}")
            keys = {name: frame[name].tolist() for name in keep}
            yield Part(frame, len(frame), keys, self.truth(frame))


# Maximum bytes of a file that is one text.
LARGEST_TEXT = 1 << 26


def list_files(path: Path, expected: str = "a file, or a folder with one text in each file") -> list[Path]:
    """Return the files of a folder, in order, or the file itself.

    Raises:
        UsageError: There are none.
    """
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
    if not files:
        problem = "is empty" if path.is_dir() else "is no file or folder"
        raise UsageError(f"INPUT {path} {problem}: expected {expected}")
    return files


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


class Texts(Reader):
    """Texts.

    Args:
        about: See `Reader`.
        network: The model, whose shape says how a text becomes tokens.
    """

    kind = "text"

    def __init__(self, about: TrainingFacts, network: Any) -> None:
        super().__init__(about)
        self.config = network.config
        self.text, self.target = (str(about.options.get(name) or name) for name in ("text", "label"))

    def _texts(self, data: Any) -> list[Any]:
        return list(data[self.text] if hasattr(data, "columns") and self.text in data else data)

    def size(self, data: Any) -> InputSize:
        texts = [text for text in self._texts(data) if isinstance(text, str)]
        bytes_per_character = 4 if isinstance(self.config, TextConfig) and self.config.unit == "bytes" else 1
        longest = max(map(len, texts), default=1) * bytes_per_character
        return InputSize(len(data), max(1, min(self.config.length, longest)))

    def encode(self, data: Any) -> Tensor:
        if isinstance(data, str):
            raise UsageError("predict: one text: expected a list of texts")
        texts = self._texts(data)
        for place, text in enumerate(texts):
            if not isinstance(text, str) and not is_missing(text):
                raise UsageError(f"text {place} is {type(text).__name__}: expected texts")
        missing = sum(is_missing(text) or not text.strip() for text in texts)
        if missing:
            self.remarks["texts"] = "some texts are missing or empty: they are predicted as an empty text"
        texts = ["" if is_missing(text) else text for text in texts]
        if isinstance(self.config, LinearTextConfig):
            return torch.from_numpy(encode_pieces(texts, self.config.length))
        # Padding to the model's length could fill the memory.
        shape = replace(self.config, length=self.size(data).values)
        return torch.from_numpy(encode_texts(texts, shape))

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        if path.suffix not in (".csv", ".tsv", *reading.LINES, *reading.PARQUET, *reading.PACKED):
            files = iter(list_files(path))
            while paths := list(islice(files, self.part)):
                texts = []
                for file in paths:
                    try:
                        texts.append(read_text_file(file).decode("utf-8-sig"))
                    except UnicodeDecodeError:
                        raise UsageError(f"INPUT {file} is not UTF-8 text: convert it with iconv -t UTF-8") from None
                yield Part(texts, len(texts), {"file": [str(file) for file in paths]})
            return
        settings: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
        for columns, frame in _frames(path, self.part, {self.text, self.target, *keep}, **settings):
            for flag, name in (("-o text", self.text), *(("--keep", name) for name in keep)):
                if name not in frame.columns:
                    raise UsageError(f"INPUT has no column {name!r} ({flag}): it has {join_names(columns)}")
            keys = {name: frame[name].tolist() for name in keep}
            yield Part(frame[self.text].tolist(), len(frame), keys, self.truth(frame))


def _frames(path: Path, most: int, names: set[str], **settings: Any) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Yield a table in parts, each with the names of its columns; of JSON lines, those of the part's first line.

    Args:
        path: The file.
        most: Most rows of a part.
        names: Columns to take from JSON lines. Each line may have other keys: a table of all would fill the memory.
        settings: Further arguments of `table_parts`.
    """
    import pandas as pd

    if path.suffix not in reading.LINES:
        for frame in table_parts(path, most, **settings):
            yield list(frame.columns), frame
        return
    objects = reading.json_lines(path)
    try:
        while rows := list(islice(objects, most)):
            yield list(rows[0]), pd.DataFrame([{name: row[name] for name in names & row.keys()} for row in rows])
    except (OSError, ValueError) as error:
        raise UsageError(f"INPUT {path}: cannot read it ({one_line(str(error), 200)}): correct it") from None


# Smallest largest pixel of training images whose values are those of image files, 0 to 255.
FILES = 100.0


class Pictures(Reader):
    """Images.

    Args:
        about: See `Reader`.
        network: The model, with the shape of an image; subfolders with the names of its classes are targets.
    """

    kind = "image"

    def __init__(self, about: TrainingFacts, network: Any) -> None:
        super().__init__(about)
        config, self.labels = network.config, network.labels
        self.shape = (config.channels, config.image_height, config.image_width)

    def size(self, data: Any) -> InputSize:
        return InputSize(len(data), math.prod(self.shape))

    def encode(self, data: Any) -> Tensor:
        if isinstance(data, torch.Tensor) or (isinstance(data, np.ndarray) and data.dtype.kind not in "OU"):
            return torch.from_numpy(self._array(np.asarray(data)))
        if isinstance(data, str | Path):
            raise UsageError("predict: one path: expected a list of paths, or an array of images")
        self._check_files()
        pixels = [read_image(Path(path), self.shape) for path in data]
        return torch.from_numpy(np.stack(pixels) if pixels else np.empty((0, *self.shape), np.uint8))

    def _check_files(self) -> None:
        inputs = self.about.inputs
        if inputs is None or inputs.dtype != "uint8" or inputs.high < FILES or self.shape[0] not in (1, 3):
            values = "" if inputs is None else f", with values from {inputs.low:g} to {inputs.high:g}"
            raise UsageError(
                f"the model was trained on arrays{values}: give images of that kind, as an array or as an .npz file "
                "with `images`"
            )

    def _array(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images as (n, channels, height, width)."""
        channels, height, width = self.shape
        if images.ndim == 3 and channels == 1:
            images = images[:, None]
        elif images.ndim == 4 and images.shape[1:] != self.shape:
            images = images.transpose(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1:] != self.shape or images.dtype.kind not in "uif":
            shape = f"(n, {height}, {width}{f', {channels}' if channels > 1 else ''})"
            size = f"{height} by {width} pixels with {channels} channel{'s' if channels > 1 else ''}"
            raise UsageError(
                f"images are {images.dtype} of shape {images.shape}: expected numbers, {shape}, for {size}"
            )
        if not np.isfinite(images).all():
            raise UsageError("images have values that are not finite: expected finite ones")
        inputs = self.about.inputs
        if inputs is not None and len(images) and images.max() > max(4 * inputs.high, inputs.high + 1):
            shown = f"{images.max():g}, where the training images have at most {inputs.high:g}"
            self.remarks["values"] = f"images have values up to {shown}: scale them as the training images were"
        return np.ascontiguousarray(images if images.dtype == np.uint8 else images.astype(np.float32))

    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        if keep:
            raise UsageError(f"--keep {keep[0]}: images have no columns: leave it out")
        expected = "an image, a folder of images or an .npz file"
        if path.suffix == ".npz":
            if not path.is_file():
                raise UsageError(f"INPUT {path} is no file: expected {expected}")
            arrays = read_npz(path, f"INPUT {path}")
            if "images" not in arrays:
                raise UsageError(f"INPUT {path} has the arrays {', '.join(arrays) or 'none'}: expected images")
            names = None
            images: Any = arrays["images"]
            truth: Any = arrays.get("labels")  # may be longer than the images: only parts of it become a list
        else:
            self._check_files()
            images = list_files(path, expected)
            names = [str(file) for file in images]
            # A file's label is the subfolder that it is in.
            subfolders = [(*file.relative_to(path).parts[:-1], "")[0] for file in images]
            truth = subfolders if path.is_dir() and all(name in self.labels for name in subfolders) else None
        for first in range(0, len(images), self.batch):
            rows = slice(first, first + self.batch)
            keys = {} if names is None else {"file": names[rows]}
            labels = None if truth is None else np.asarray(truth[rows]).tolist()
            yield Part(images[rows], len(images[rows]), keys, labels)
