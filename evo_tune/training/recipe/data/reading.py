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
import lzma
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pandas as pd

# Maximum factor by which a file may grow when it is unpacked, and bytes to which any file may grow. Texts shrink to a
# twentieth at most; a file made to fill the memory shrinks to a thousandth.
MOST_TIMES, ALWAYS = 100, 1 << 28

# Maximum columns of a table, and maximum rows times columns (3.2 GB as float64).
MOST_COLUMNS, MOST_CELLS = 20_000, 400_000_000

# Maximum bytes of the first line of a CSV file.
LONGEST_HEADER = 1 << 24

# Bytes after the first line in which a NUL byte is looked for: the tables of pandas hide it.
NUL_BYTES = 1 << 20

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


def read_csv(path: Path, **settings: Any) -> pd.DataFrame:
    """Return the table of a CSV file, which may be packed (see `open_packed`).

    Args:
        path: The file.
        settings: Arguments of `pandas.read_csv`.

    Raises:
        Exception: Any that pandas raises; ValueError for too many columns.
    """
    import pandas as pd

    settings = {"encoding": _check_header(path, settings.get("sep", ",")), **settings}
    try:
        with open_packed(path) as file:
            table: pd.DataFrame = pd.read_csv(file, **settings)
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise _problem(path, error) from None
    return table


def csv_parts(path: Path, rows: int, **settings: Any) -> Iterator[pd.DataFrame]:
    """Yield the table of a CSV file in parts of `rows` rows; see `read_csv`."""
    import pandas as pd

    settings = {"encoding": _check_header(path, settings.get("sep", ",")), **settings}
    try:
        with open_packed(path) as file, pd.read_csv(file, chunksize=rows, **settings) as parts:
            yield from parts
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise _problem(path, error) from None


def _check_header(path: Path, separator: str) -> str:
    """Return the encoding of a CSV file, UTF-8 unless its first bytes say otherwise.

    Raises:
        ValueError: Its first line is too long, has too many columns or another separator, or names one twice.
    """
    with open_packed(path) as file:  # pandas would take minutes to tell the number of a million columns
        first = file.readline(LONGEST_HEADER + 1)
        begins = first + file.read(NUL_BYTES)
    if len(first) > LONGEST_HEADER:
        raise ValueError(f"its first line has more than {LONGEST_HEADER} bytes")
    _check_columns(first.count(b",") + 1)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in begins:
        line = begins[: begins.index(b"\0")].count(b"\n") + 1
        raise TableProblem(f"line {line} has a NUL byte, which no text has: write the file anew, or remove these bytes")
    names = next(csv.reader([first.decode("utf-8-sig", "replace")]), [])
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if twice:
        raise TableProblem(f"two columns are named {twice[0][:80]!r}: rename one")
    for delimiter in ";\t|":
        if separator == "," and len(names) == 1 and delimiter in names[0]:
            convert = f"pandas.read_csv({path.name!r}, sep={delimiter!r}).to_csv('new.csv', index=False)"
            raise TableProblem(f"its columns are separated by {delimiter!r}, not by commas: convert it with {convert}")
    return "utf-8-sig"


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
