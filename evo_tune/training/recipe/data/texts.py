"""Texts: reading their documents, and dividing them into training, validation and test text.

A document is a file. In a text that is one file, `<|endoftext|>` ends a document. The text is read in chunks, so it
need not fit in memory.
"""

import codecs
import glob
import hashlib
import io
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evo_tune.errors import OptionError, RecipeError
from evo_tune.text import with_plural
from evo_tune.training.recipe.data.tokens import pieces_of

# Held-out share of a text: one half is for validation, the other for the test.
HELD_OUT = 0.1

# End of a document in a text that is one file.
SEPARATOR = b"<|endoftext|>"

# Byte that ends a document where attention does not cross documents; one token of every tokenizer.
BOUNDARY = b"\0"

# A longer document than this fraction of the text is drawn in blocks of about that size.
BLOCKS = 200

_CHUNK = 1 << 20

# Files, and bytes of each, that are looked at to tell text from other data.
_LOOKED_AT, _BEGINNING = 100, 1 << 16

_BINARY = "binary data"

# Bytes of a file in which documents are counted.
MOST_READ = 1 << 26


def files_of(data: str) -> list[Path]:
    """Return a file, a folder's files or a glob's files, in order of their paths.

    Args:
        data: Path or pattern, without hidden files of a folder.

    Raises:
        RecipeError: The path does not exist or has no files.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        paths = [p for p in path.rglob("*") if not any(part[0] == "." for part in p.relative_to(path).parts)]
    else:
        paths = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in paths if file.is_file())
    if not files:
        reason = "which holds no files" if path.is_dir() else "there is no such file or folder, and no match of a glob"
        needed = f"a path to text ({reason}, from {Path.cwd()}), or nothing for the built-in text"
        raise RecipeError("data", data, needed)
    return files


def read_text(data: str) -> bytes:
    """Return the bytes of a file, or of several files with a line end between them.

    Args:
        data: See `files_of`. Empty: the text of `python_paragraphs`.

    Raises:
        RecipeError: The path does not exist or cannot be read.
    """
    return b"".join(piece for piece, _ in _read(data, mark=False))


def size_of(data: str) -> int:
    """Return the number of bytes of a text, without reading it (see `read_text`).

    Raises:
        RecipeError: See `read_text`.
    """
    if not data:
        return len(read_text(""))
    files = files_of(data)
    return sum(file.stat().st_size for file in files) + len(files) - 1


def encoding_warnings(data: str) -> list[str]:
    """Return warnings if a text is not UTF-8 or consists of tables, judged by its first files; [] for a text.

    Args:
        data: See `read_text`.

    Raises:
        RecipeError: See `read_text`.
    """
    foreign, files = [], files_of(data)[:_LOOKED_AT] if data else []
    for file in files:
        try:
            with _open(file) as opened:
                encoding = _guess_encoding(opened.read(_BEGINNING))
        except OSError as error:
            raise _unreadable(data, error) from error
        if encoding:
            foreign.append((file, encoding))
    tables = []
    if files and all(Path(file).suffix.lower() in (".csv", ".tsv", ".parquet", ".pq") for file in files):
        tables.append(
            f"{data} is no text corpus but {with_plural(len(files), 'table')}, which a model learns byte by byte; "
            f"`evo-tune auto {shlex.quote(str(files[0]))} --target COLUMN` learns to predict a column"
        )
    if not foreign:
        return tables
    file, encoding = foreign[0]
    also = f" (and {len(foreign) - 1} other files)" if len(foreign) > 1 else ""
    remedy = "convert it with iconv -t UTF-8"
    if encoding == _BINARY:
        remedy = "leave it out with a glob, -o data='DIR/**/*.txt'"
    foreign_text = f"{file} looks like {encoding}, not like UTF-8 text{also}"
    return [*tables, f"{foreign_text}: the model learns these bytes as they are; {remedy}"]


def _unreadable(data: str, error: OSError) -> RecipeError:
    return RecipeError("data", data, f"text that can be read: {error.filename}: {error.strerror}")


def describe_text(data: str) -> list[str]:
    """Return what a text has, a line each: files, documents, bytes.

    Args:
        data: See `read_text`.

    Raises:
        RecipeError: See `read_text`.
    """
    size, files = size_of(data), len(files_of(data)) if data else 1
    documents = "each file is one document"
    if files == 1:
        count, read = 0, 0
        for piece, ended in _read(data, mark=False):
            count, read = count + ended, read + len(piece)
            if read > MOST_READ:
                break
        at_least = "at least " if read > MOST_READ else ""
        documents = f"{at_least}{count} documents, divided by {SEPARATOR.decode()}" if count > 1 else "one document"
    held_out = round(size * HELD_OUT / 2)
    return [
        f"{files} file{'s' * (files != 1)} with {size} bytes; {documents}",
        f"{held_out} bytes are the validation set, and as many the test set",
    ]


def _guess_encoding(beginning: bytes) -> str:
    """Return what the beginning of a file looks like; '' for UTF-8 text."""
    if not beginning:
        return ""
    counts = np.bincount(np.frombuffer(beginning, np.uint8), minlength=256)
    zeros, steering = counts[0] / len(beginning), counts[:32].sum() - counts[[0, 9, 10, 12, 13]].sum()
    if beginning[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or (zeros > 0.1 and not steering):
        return "UTF-16"
    if steering + counts[0] > 0.02 * len(beginning):
        return _BINARY
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)  # it may end within a character
    except UnicodeDecodeError:
        return "text in another encoding, such as Latin-1"
    return ""


def python_paragraphs(first: tuple[str, ...] = ()) -> dict[str, str]:
    """Return 373 kB of English from Python's own documentation, as paragraph to topic, in order.

    Topics overlap. Each paragraph appears once, so that no held-out paragraph is also trained on. The text differs
    slightly between Python versions.

    Args:
        first: Prefixes of the topics that come first and keep the paragraphs they share with others.
    """
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (not name.startswith(first) if first else False, name)):
        for paragraph in topics[name].split("\n\n"):
            paragraphs.setdefault(paragraph.strip("\n"), name)
    return paragraphs


def _read(data: str, *, mark: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield the text in pieces, and whether a document ends after the piece.

    Args:
        data: See `read_text`.
        mark: Whether BOUNDARY takes the place of separators and of line ends between files.
    """
    if not data:
        yield "\n\n".join(python_paragraphs()).encode(), True
        return
    files = files_of(data)
    try:
        for number, file in enumerate(files):
            with _open(file) as opened:
                if len(files) == 1:
                    yield from _split_documents(opened, BOUNDARY if mark else SEPARATOR)
                else:
                    while piece := opened.read(_CHUNK):
                        yield piece, False
            last = number == len(files) - 1
            yield b"" if last else BOUNDARY if mark else b"\n", True
    except OSError as error:
        raise _unreadable(data, error) from error


def _open(file: Path) -> BinaryIO:
    """Open a file; an empty one stays closed. /proc/kmsg has a size of 0 bytes, and reading it waits forever."""
    return file.open("rb") if file.stat().st_size else io.BytesIO()


def _split_documents(file: BinaryIO, ending: bytes) -> Iterator[tuple[bytes, bool]]:
    remainder = b""
    while chunk := file.read(_CHUNK):
        *documents, remainder = (remainder + chunk).split(SEPARATOR)
        for document in documents:
            yield document + ending, True
        keep = len(SEPARATOR) - 1  # the rest may end in the first bytes of a separator
        if len(remainder) > keep:
            yield remainder[:-keep], False
            remainder = remainder[-keep:]
    yield remainder, False


@dataclass(frozen=True)
class DocumentIndex:
    """A text that was read.

    Args:
        sha256: Hash of the text and of its documents' ends, hexadecimal.
        ends: End of each document in the text, (n,), int64, ascending; the last is the length of the text.
    """

    sha256: str
    ends: np.ndarray = field(repr=False)


def read_documents(data: str, *, mark: bool, into: BinaryIO | None = None) -> DocumentIndex:
    """Read a text once, and write it to a file if one is given.

    Args:
        data: See `read_text`.
        mark: See `_read`.
        into: File for the text, with its documents one after the other.

    Raises:
        RecipeError: See `read_text`.
    """
    digest, length, ends = hashlib.sha256(), 0, [0]
    for piece, ended in _read(data, mark=mark):
        digest.update(piece)
        length += len(piece)
        if into is not None:
            into.write(piece)
        if ended and length > ends[-1]:
            ends.append(length)
    ends = ends[1:] if length == ends[-1] and length else [*ends[1:], length]
    bounds = np.array(ends, np.int64)
    digest.update(bounds.tobytes())
    return DocumentIndex(digest.hexdigest(), bounds)


# Starts and ends of parts of a text, ascending, without gaps of nothing between two of them.
Ranges = list[tuple[int, int]]


def check_length(size: int, longest: int, data: str) -> None:
    """Raise an error if a text is too short.

    Args:
        size: Bytes of the text.
        longest: Tokens in the longest window, counted as bytes.
        data: Source of the text, for the error message.

    Raises:
        OptionError: The text is empty, or too short for such windows.
    """
    needed = math.ceil(2 * (longest + 2) / HELD_OUT)
    if size < needed:
        amount = "is empty" if not size else f"holds {size} bytes"
        raise OptionError(
            f"-o data={data} {amount}: expected at least {needed} for windows of "
            f"{longest}; give more text, or a smaller -o context"
        )


def split_tail(size: int) -> tuple[Ranges, Ranges, Ranges]:
    """Return the training text, the validation text and the test text of a text whose last tenth is held out."""
    cut = round(size * (1 - HELD_OUT))
    half = (cut + size) // 2
    return [(0, cut)], [(cut, half)], [(half, size)]


def split_text(text: bytes, longest: int, data: str) -> tuple[bytes, bytes, bytes]:
    """Return the training text, the validation text and the test text, from the end of a text.

    Args:
        text: Full text.
        longest: See `check_length`.
        data: See `check_length`.

    Raises:
        OptionError: See `check_length`.
    """
    check_length(len(text), longest, data)
    training, validation, test = (text[start:end] for ((start, end),) in split_tail(len(text)))
    return training, validation, test


def split_evenly(text: bytes | memoryview, ends: np.ndarray) -> tuple[Ranges, Ranges, Ranges]:
    """Return the training text, the validation text and the test text of a text whose documents are drawn by a hash.

    Documents are taken in the order of the SHA-256 of their bytes: for validation until it has a twentieth of the text,
    then for the test. Equal documents are in the same part. A document longer than 1/`BLOCKS` of the text is cut at
    line ends into blocks that are drawn separately, so each part exceeds a twentieth by at most 1 % of the text.

    Args:
        text: Full text.
        ends: See `DocumentIndex`.
    """
    size = max(1, len(text) // BLOCKS)
    units = [
        (start + first, start + last)
        for start, end in pairwise([0, *ends.tolist()])
        for first, last in (pieces_of(text[start:end], size) if end - start > size else [(0, end - start)])
    ]
    bounds = np.array(units, np.int64)
    keys = np.empty(len(units), np.uint64)
    for number, (start, end) in enumerate(units):
        document = bytes(text[start:end]).removesuffix(BOUNDARY).removesuffix(b"\n").removesuffix(SEPARATOR)
        keys[number] = int.from_bytes(hashlib.sha256(document).digest()[:8], "little")
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    before = np.concatenate(([0], np.cumsum((bounds[:, 1] - bounds[:, 0])[order])))
    group = before[np.searchsorted(sorted_keys, sorted_keys)]  # bytes before the first of the equal documents
    quota = len(text) * HELD_OUT / 2
    after_validation = group >= quota
    first = group[after_validation][0] if after_validation.any() else len(text)
    part = np.empty(len(units), np.int8)
    part[order] = np.where(~after_validation, 1, np.where(group < first + quota, 2, 0))
    training, validation, test = (_join_neighbours(bounds[part == number]) for number in range(3))
    return training, validation, test


def _join_neighbours(bounds: np.ndarray) -> Ranges:
    """Return ranges, (n, 2), with those joined that follow each other without a gap."""
    if not len(bounds):
        return []
    breaks = np.flatnonzero(bounds[1:, 0] != bounds[:-1, 1])
    starts = bounds[np.concatenate(([0], breaks + 1)), 0]
    ends = bounds[np.concatenate((breaks, [len(bounds) - 1])), 1]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
