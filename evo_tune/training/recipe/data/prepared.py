"""Texts divided and tokenised once: in memory if short, else in a file that all processes of this user map.

The file is in the user's cache folder, and its name is a hash of the text and of how it is divided. It begins with
`HEADER` bytes of JSON; the tokens of the training text, the validation text, the test text and the tokenizer follow. It
is used only if it belongs to this user and its SHA-256 is right; otherwise it is written again.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from filelock import FileLock

from evo_tune.errors import RecipeError
from evo_tune.training.recipe.data.cache import cache_folder, open_own
from evo_tune.training.recipe.data.texts import DocumentIndex, Ranges, read_documents, size_of, split_evenly, split_tail
from evo_tune.training.recipe.data.tokens import BPE, Bytes, Tokenizer, library_version, pieces_of, tokenizer_for

IN_MEMORY = {"bytes": 1 << 24, "pairs": 1 << 20}
"""Maximum number of bytes of a text that each process reads and tokenises by itself."""

HEADER = 4096
"""Bytes before the tokens: one page, so that the tokens are aligned."""

VERSION = 1
"""Version of the file; another version is another file."""

SECTIONS = ("training", "validation", "test", "tokenizer")

LEARNED_FROM = 1 << 25
"""Bytes that byte pairs are learned from, about: evenly spaced pieces of a longer training text."""

EVERY = 10.0
"""Seconds between two lines about the progress of a tokenisation."""


@dataclass(frozen=True)
class Preparation:
    """Which text is divided and tokenised, and how.

    Args:
        data: See `read_text`.
        vocab: Number of tokens; 256: bytes.
        split: See `Texts`.
        documents: See `Texts`.
    """

    data: str
    vocab: int
    split: Literal["auto", "tail", "even"] = "auto"
    documents: Literal["join", "mask"] = "join"

    def gather(self, into: BinaryIO | None = None) -> DocumentIndex:
        """Read the text (see `texts.gather`)."""
        return read_documents(self.data, mark=self.documents == "mask", into=into)

    def divide(self, text: bytes | memoryview, ends: np.ndarray) -> tuple[Ranges, Ranges, Ranges]:
        """Return the training text, the validation text and the test text."""
        even = len(ends) > 1 if self.split == "auto" else self.split == "even"
        return split_evenly(text, ends) if even else split_tail(len(text))

    def key(self, gathered: DocumentIndex) -> str:
        """Return the SHA-256 of all that the file of a text depends on."""
        library = "" if self.vocab == 256 else library_version()
        parts = [VERSION, gathered.sha256, self.vocab, self.split, self.documents, library]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class PreparedText:
    """A text divided and tokenised.

    Args:
        training: Tokens of the training text, (n,), uint8 for bytes and uint16 for byte pairs. They are shared by all
            processes that map them.
        validation: The validation text.
        test: The test text.
        tokenizer: Tokenizer learned from the training text only.
        fingerprint: SHA-256 of the three texts, and of the learned byte pairs.
        path: File that is mapped; None: the text is in memory.
        checked_state: State of the file when its content was checked.
    """

    training: np.ndarray
    validation: memoryview
    test: memoryview
    tokenizer: Tokenizer
    fingerprint: str
    path: Path | None = None
    checked_state: tuple[int, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether the file has not changed since its content was checked; a removed file stays readable."""
        if self.path is None:
            return True
        try:
            return _state(os.stat(self.path, follow_symlinks=False)) == self.checked_state
        except FileNotFoundError:
            return True


def prepare(preparation: Preparation) -> PreparedText:
    """Return a text divided and tokenised; a long text only once for all processes.

    Raises:
        RecipeError: The text cannot be read, or the cache cannot be written.
    """
    if size_of(preparation.data) <= IN_MEMORY["bytes" if preparation.vocab == 256 else "pairs"]:
        return _in_memory(preparation)
    key = preparation.key(preparation.gather())
    folder = cache_folder() / "texts"
    path = folder / f"{key[:32]}.tokens"
    prepared = _open(path, preparation, key)
    try:
        if prepared is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(f"{path}.lock"):  # other processes wait for the one that writes
                prepared = _open(path, preparation, key)
                if prepared is None:
                    _write(path, preparation)
                    prepared = _open(path, preparation, key)
    except OSError as error:
        raise RecipeError(
            "data",
            preparation.data,
            f"room for its tokens in {folder} ({error.strerror}); XDG_CACHE_HOME moves that folder",
        ) from error
    if prepared is None:
        raise RecipeError("data", preparation.data, "a text that does not change while it is read")
    return prepared


def _in_memory(preparation: Preparation) -> PreparedText:
    file, out = io.BytesIO(), io.BytesIO()
    text = preparation.gather(file)
    header = _divide(preparation, memoryview(file.getvalue()), text, out)
    return _as_prepared_text(
        memoryview(bytearray(out.getvalue())), header, preparation
    )  # a bytearray, for torch: it is writable


def _divide(preparation: Preparation, text: memoryview, about: DocumentIndex, out: BinaryIO) -> dict[str, Any]:
    """Write the four sections of a text one after the other, and return their sizes and the fingerprint."""
    training, validation, test = preparation.divide(text, about.ends)
    sizes = [sum(end - start for start, end in part) for part in (training, validation, test)]
    fingerprint = hashlib.sha256("+".join(map(str, sizes)).encode() + b":")
    every = -(-sizes[0] // LEARNED_FROM)
    sample = b"".join(islice(_pieces(text, training), 0, None, every)) if preparation.vocab != 256 else b""
    tokenizer = tokenizer_for(sample, preparation.vocab)
    progress, written = _Progress(preparation.data, sizes[0]), 0
    for piece in _pieces(text, training):
        fingerprint.update(piece)
        written += out.write(tokenizer.encode(piece).tobytes())
        progress(len(piece))
    for part in (validation, test):
        for start, end in part:
            fingerprint.update(text[start:end])
            out.write(text[start:end])
    about_tokens = tokenizer.to_json().encode() if isinstance(tokenizer, BPE) else b""
    fingerprint.update(about_tokens)
    out.write(about_tokens)
    lengths = dict(zip(SECTIONS, (written, *sizes[1:], len(about_tokens)), strict=True))
    return {**lengths, "fingerprint": fingerprint.hexdigest()}


def _pieces(text: memoryview, ranges: Ranges) -> Iterator[memoryview]:
    for start, end in ranges:
        for first, last in pieces_of(text[start:end]):
            yield text[start + first : start + last]


def _as_prepared_text(
    content: memoryview, header: Mapping[str, Any], preparation: Preparation, **place: Any
) -> PreparedText:
    """Return what the four sections hold."""
    sections, start = {}, 0
    for name in SECTIONS:
        sections[name] = content[start : start + header[name]]
        start += header[name]
    kind = np.uint8 if preparation.vocab == 256 else np.uint16
    return PreparedText(
        np.frombuffer(sections["training"], kind),
        sections["validation"],
        sections["test"],
        Bytes() if preparation.vocab == 256 else BPE(str(sections["tokenizer"], "utf-8"), preparation.vocab),
        header["fingerprint"],
        **place,
    )


def _write(path: Path, preparation: Preparation) -> None:
    """Tokenise a text into a file, under a temporary name until it is complete."""
    for name in (path, *path.parent.glob(f"{path.stem}.*.partial")):  # left by a killed process
        name.unlink(missing_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as plain:
        about = preparation.gather(plain)
        plain.flush()
        handle, partial = tempfile.mkstemp(".partial", f"{path.stem}.", path.parent)
        try:
            with os.fdopen(handle, "w+b") as out:
                out.write(bytes(HEADER))
                text = memoryview(mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ))
                header = {**_divide(preparation, text, about, out), "key": preparation.key(about)}
                out.flush()
                header["sha256"] = _digest(header, out)
                out.seek(0)
                out.write(json.dumps(header).encode().ljust(HEADER))
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


def _open(path: Path, preparation: Preparation, key: str) -> PreparedText | None:
    """Map the file of a text; None if it is missing, damaged, or not this user's."""
    file = open_own(path)
    if file is None:
        return None
    with file:
        status = os.fstat(file.fileno())
        header = None if status.st_mode & 0o022 else _header(file)
        if header is None or header["key"] != key:
            return None
        if status.st_size != HEADER + sum(header[name] for name in SECTIONS):
            return None
        if _digest(header, file) != header["sha256"]:
            return None
        # A private mapping: its pages are shared, but torch, which has no read-only tensors, cannot change the file.
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))[HEADER:]
    return _as_prepared_text(content, header, preparation, path=path, seen=_state(status))


def _header(file: BinaryIO) -> dict[str, Any] | None:
    try:
        header = json.loads(file.read(HEADER))
    except (ValueError, RecursionError):
        return None
    complete = isinstance(header, dict) and all(
        isinstance(header.get(name), int) and header[name] >= 0 for name in SECTIONS
    )
    complete = complete and all(isinstance(header.get(name), str) for name in ("key", "sha256", "fingerprint"))
    return header if complete else None


def _digest(header: Mapping[str, Any], file: BinaryIO) -> str:
    """Return the SHA-256 of a file's content after its header, and of the header's other entries."""
    plain = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    file.seek(HEADER)
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Progress:
    """Prints a line about a tokenisation from time to time, on standard error: a worker's log, or the terminal."""

    def __init__(self, data: str, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._data, self._size, self._clock = data, size, clock
        self._done, self._next = 0, clock() + EVERY

    def __call__(self, size: int) -> None:
        self._done += size
        if self._clock() >= self._next:
            self._next = self._clock() + EVERY
            progress = f"{self._done / self._size:.0%} of {self._size / 1e6:,.0f} MB"
            print(f"tokenising {self._data}: {progress}", file=sys.stderr, flush=True)
