"""Files: the user's cache, files of the user, and tables read within bounds.

No small file may fill the memory when it is unpacked. The bounds are far above any table that a search of
hyperparameters needs. This module knows files, not their meaning.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    import pandas as pd

# Maximum factor by which a file may grow when it is unpacked, and bytes to which any file may grow. Texts shrink to a
# twentieth at most; a file made to fill the memory shrinks to a thousandth.
MOST_TIMES, ALWAYS = 100, 1 << 28

# Maximum columns of a table, and maximum rows times columns (3.2 GB as float64).
MOST_COLUMNS, MOST_CELLS = 20_000, 400_000_000

# Maximum bytes of the first line of a CSV file.
LONGEST_HEADER = 1 << 24

# Bytes after the first line that tell the format of a CSV file. A NUL byte among them is an error: pandas hides it.
SAMPLE_BYTES = 1 << 20

# A number with a decimal comma, perhaps with points between thousands; one with a decimal point; and one of thousands.
DECIMAL_COMMA = re.compile(r"^([+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)),(\d+)$")
DECIMAL_POINT, THOUSANDS = re.compile(r"[+-]?\d+\.\d+"), re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?")

# A number as pandas names a column by it; a repeated one ends with another number.
NUMBER = re.compile(r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?(?:\.\d+)?", re.IGNORECASE)

# Maximum bytes of a line of JSON.
LONGEST_LINE = 1 << 24
# Suffixes of JSON lines, and of Parquet files.
LINES, PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")

PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_own(path: Path) -> BinaryIO | None:
    """Open a regular file of this user for reading; None if it is missing, a link, or another user's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return os.fdopen(handle, "rb")
    os.close(handle)
    return None


class _BoundedStream(io.RawIOBase):
    """A stream that ends with an error after a number of bytes."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most, self._read = stream, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._read += len(data)
        check_unpacked(self._read, self._most)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class TableProblem(ValueError):
    """A file is no table that can be read; the message says what to do."""


def check_unpacked(size: int, most: int) -> None:
    """Raise a ValueError if an unpacked size in bytes is above a limit."""
    if size > most:
        raise ValueError(f"it unpacks to more than {most} bytes, which is out of proportion: unpack it first")


def max_unpacked_size(size: int) -> int:
    """Return the maximum bytes to which a file of `size` bytes may be unpacked."""
    return max(ALWAYS, MOST_TIMES * size)


def open_packed(path: Path) -> BinaryIO:
    """Open a file for reading, and unpack it if its name ends with .gz, .bz2 or .xz.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is empty. While reading: it unpacks to too much.
    """
    if not path.stat().st_size:
        raise ValueError("it is empty")  # /proc/kmsg has a size of 0, and reading it waits forever
    unpack = PACKED.get(path.suffix)
    if unpack is None:
        return path.open("rb")
    return io.BufferedReader(_BoundedStream(unpack(path), max_unpacked_size(path.stat().st_size)), 1 << 20)


def csv_settings(path: Path, header: bool = True) -> dict[str, Any]:
    """Return the arguments of `pandas.read_csv` for a CSV file, as its first line and the next bytes show them.

    Args:
        path: The file, which may be packed.
        header: Whether the first line has the names of the columns; otherwise they are column1, column2 and so on.

    Raises:
        ValueError: Its first line is too long, has too many columns, or names one twice; or there is a NUL byte.
    """
    with open_packed(path) as file:  # pandas would take minutes to tell the number of a million columns
        first = file.readline(LONGEST_HEADER + 1)
        rest = file.read(SAMPLE_BYTES)
    if len(first) > LONGEST_HEADER:
        raise ValueError(f"its first line has more than {LONGEST_HEADER} bytes")
    _check_columns(max(map(first.count, (b",", b";", b"\t", b"|"))) + 1)
    settings: dict[str, Any] = {} if header else {"header": None}
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return {**settings, "encoding": "utf-16"}
    if b"\0" in first + rest:
        line = (first + rest).partition(b"\0")[0].count(b"\n") + 1
        remedy = "write the file anew, or remove these bytes"
        raise TableProblem(f"line {line} has a NUL byte, which no text has: {remedy}")
    text = first.decode("utf-8-sig", "replace")
    names = next(csv.reader([text]), [])
    separators = [mark for mark in ";\t|" if len(names) == 1 and mark in names[0]]
    if separators:
        names = next(csv.reader([text], delimiter=separators[0]), [])
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if header and twice:
        raise TableProblem(f"two columns are named {twice[0][:80]!r}: rename one")
    separator = separators[0] if separators else ","
    cells = [] if separator == "," else re.split(f"[{re.escape(separator)}\r\n]", rest.decode("utf-8", "replace"))
    thousands = any("," in cell and "." in cell and THOUSANDS.fullmatch(cell) for cell in cells)
    points = [cell for cell in cells if DECIMAL_POINT.fullmatch(cell) and not (thousands and THOUSANDS.fullmatch(cell))]
    spaces = len(names) > 1 and all(name.startswith(" ") for name in names[1:])
    settings |= {"encoding": "utf-8-sig", "sep": separator, "skipinitialspace": spaces}
    if not points and any(map(DECIMAL_COMMA.fullmatch, cells)):
        settings |= {"decimal": ",", "thousands": "." if thousands else None}
    return settings


def describe_csv_settings(settings: Mapping[str, Any]) -> str:
    """Return in words what `csv_settings` says that differs from the usual format; '' for nothing."""
    separator = settings.get("sep", ",")
    shown = "tabs" if separator == "\t" else repr(separator)
    words = ["" if separator == "," else f"{shown} between cells"]
    words.append("decimal commas" if "decimal" in settings else "")
    words.append("points between thousands" if settings.get("thousands") else "")
    words.append("no line of names" if "header" in settings else "")
    return ", ".join(filter(None, words))


def read_csv(path: Path, header: bool = True, **settings: Any) -> pd.DataFrame:
    """Return the table of a CSV file, which may be packed (see `open_packed`).

    Args:
        path: The file.
        header: See `csv_settings`.
        settings: Arguments of `pandas.read_csv`.

    Raises:
        Exception: Any that pandas raises; ValueError for too many columns.
    """
    import pandas as pd

    settings = csv_settings(path, header) | settings
    try:
        with open_packed(path) as file:
            table: pd.DataFrame = pd.read_csv(file, **settings)
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise _problem(path, error) from None
    return table if header else number_columns(table)


def csv_parts(path: Path, rows: int, header: bool = True, **settings: Any) -> Iterator[pd.DataFrame]:
    """Yield the table of a CSV file in parts of `rows` rows; see `read_csv`."""
    import pandas as pd

    settings = csv_settings(path, header) | settings
    dtypes = settings.get("dtype", {}) if "decimal" in settings else {}
    texts = [name for name, kind in dtypes.items() if kind is str]
    try:
        with open_packed(path) as file, pd.read_csv(file, chunksize=rows, **settings) as parts:
            for part in parts:
                frame = part if header else number_columns(part)
                for name in frame.columns.intersection(texts):  # numbers that are read as texts
                    frame[name] = frame[name].str.replace(DECIMAL_COMMA, _with_decimal_point, regex=True)
                yield frame
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise _problem(path, error) from None


def _with_decimal_point(number: re.Match[str]) -> str:
    """Return a number that was matched by `DECIMAL_COMMA` with a decimal point."""
    return f"{number[1].replace('.', '')}.{number[2]}"


def number_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns are named column1, column2 and so on."""
    return cast("pd.DataFrame", table.set_axis([f"column{place}" for place in range(1, table.shape[1] + 1)], axis=1))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one of them a line.

    Raises:
        ValueError: A line is no object.
    """
    with open_packed(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            try:
                if len(line) > LONGEST_LINE:
                    raise ValueError(f"more than {LONGEST_LINE} bytes")
                row = json.loads(line.decode("utf-8-sig")) if line.strip() else None
                if b"\\u" in line:
                    json.dumps(row, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
                if not isinstance(row, dict | None):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is no JSON object in UTF-8 ({str(error)[:120]})") from None
            if row is not None:
                yield row


def table_of_objects(path: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return objects as a table, whose columns are all keys in the order in which they first appear.

    Raises:
        ValueError: The table would be out of proportion to the file, or a value is a list or an object.
    """
    import pandas as pd

    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_columns(len(names))
    check_unpacked(8 * len(rows) * len(names), max_unpacked_size(path.stat().st_size))
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if isinstance(value, list | dict):
                raise TableProblem(f"object {number}: {name[:80]!r} is a {type(value).__name__}, expected one value")
    return cast("pd.DataFrame", pd.DataFrame(rows, columns=names))


def _problem(path: Path, error: ValueError) -> ValueError:
    """Return the error of a file that is not UTF-8 or whose rows differ in length: where, and what to do."""
    if not isinstance(error, UnicodeDecodeError):
        lengths = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if lengths is None:
            return error
        expected, line, cells = lengths.groups()
        remedy = "correct that line, or put texts with commas into double quotes"
        return TableProblem(f"line {line} has {cells} cells, expected {expected}: {remedy}")
    byte = error.object[error.start]
    guess = "Windows-1252" if byte in range(0x80, 0xA0) else "ISO-8859-1 or Windows-1252"
    return TableProblem(
        f"it is not UTF-8 (byte 0x{byte:02x}), but likely {guess}: convert it with iconv -f WINDOWS-1252 -t UTF-8 "
        f"{path.name} > new.csv"
    )


def read_parquet(path: Path) -> pd.DataFrame:
    """Return the table of a Parquet file.

    Raises:
        Exception: Any that pyarrow raises; ValueError for too many rows or columns, judged by the file's footer.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    _check_footer(path, about)
    if about.num_rows * about.num_columns > MOST_CELLS:
        raise ValueError(
            f"it has {about.num_rows} rows of {about.num_columns} columns: expected at most {MOST_CELLS} cells; "
            "take a sample of the rows"
        )
    return pd.read_parquet(path)


def parquet_parts(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """Yield the table of a Parquet file in parts of `rows` rows; see `read_parquet`. It may have any number of rows."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_footer(path, file.metadata)
        for batch in file.iter_batches(rows):
            yield batch.to_pandas()


def _check_footer(path: Path, about: Any) -> None:
    _check_columns(about.num_columns)
    sizes = (about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    check_unpacked(sum(sizes), max_unpacked_size(path.stat().st_size))


def _check_columns(count: int) -> None:
    if count > MOST_COLUMNS:
        raise ValueError(f"it has {count} columns: expected at most {MOST_COLUMNS}; leave some out")
