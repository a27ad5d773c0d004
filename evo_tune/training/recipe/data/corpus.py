"""The text of a language model: its options, its held-out parts, and its tokens.

The held-out bytes are the same for every model: the validation text, which ranks trials, and the test text. The
tokenizer is learned from the remaining text only.

A short text is divided and tokenised in memory. A longer one is so once, in a file that all processes of this user map.
The file is in the user's cache folder, and its name is a hash of the text and of how it is divided. It begins with
`HEADER` bytes of JSON; the tokens of the training text, the validation text, the test text and the tokenizer follow. It
is used only if it belongs to this user and its SHA-256 is right; otherwise it is written again.
"""

import hashlib
import io
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from filelock import FileLock

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.declare import Options, fixed_option
from evo_tune.training.recipe.data.reading import open_own
from evo_tune.training.recipe.data.texts import (
    BOUNDARY,
    HELD_OUT,
    DocumentIndex,
    Ranges,
    check_length,
    read_documents,
    size_of,
    split_evenly,
    split_tail,
)
from evo_tune.training.recipe.data.tokens import BPE, Bytes, Tokenizer, library_version, pieces_of, tokenizer_for
from evo_tune.trust.safe_files import cache_folder

# Bytes of a held-out block per token of the longest window; more than a byte-pair token usually has.
BLOCK_BYTES_PER_TOKEN = 4

# Maximum number of bytes of a text that each process reads and tokenises by itself.
IN_MEMORY = {"bytes": 1 << 24, "pairs": 1 << 20}

# Bytes before the tokens: one page, so that the tokens are aligned.
HEADER = 4096

# Version of the file; another version is another file.
VERSION = 1

SECTIONS = ("training", "validation", "test", "tokenizer")

# Bytes that byte pairs are learned from, about: evenly spaced pieces of a longer training text.
LEARNED_FROM = 1 << 25

# Seconds between two lines about the progress of a tokenisation.
EVERY = 10.0


@dataclass(frozen=True, kw_only=True)
class TextOptions(Options):
    """Text."""

    data: str = fixed_option("", help="Text: file, folder (recursive) or glob; empty: Python's own documentation")
    split: Literal["auto", "tail", "even"] = fixed_option(
        "auto", help="Held-out tenth: tail (end of the text), even (documents by a hash), auto (tail for one document)"
    )
    documents: Literal["join", "mask"] = fixed_option(
        "join", help="Documents in a window: join, as one text; mask, a token attends only to its own document"
    )
    vocab: int = fixed_option(
        256, bounds="[256, 65536]", unit="tokens", help="Vocabulary size; 256: bytes; more: learned byte pairs"
    )
    context: int | None = fixed_option(
        None, bounds="[2, inf)", unit="tokens", help="Tokens per window; none: a gene; fine-tuning: up to 512"
    )
    eval_tokens: int | None = fixed_option(
        None, bounds="[1, inf)", unit="bytes", help="Held-out bytes scored at the end; none: about 1% of training FLOPs"
    )

    @property
    def boundary(self) -> int | None:
        """Token that ends a document; None where documents are joined."""
        return BOUNDARY[0] if self.documents == "mask" else None


def bytes_to_train_on(data: str) -> int:
    """Return the approximate number of training bytes of a text, without reading it."""
    return round(size_of(data) * (1 - HELD_OUT))


def validation_bytes(data: str) -> int:
    """Return the approximate number of bytes of the validation text, without reading it."""
    return round(size_of(data) * HELD_OUT / 2)


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
    def is_current(self) -> bool:
        """Whether the file has not changed since its content was checked; a removed file stays readable."""
        if self.path is None:
            return True
        try:
            return _state(os.stat(self.path, follow_symlinks=False)) == self.checked_state
        except FileNotFoundError:
            return True


@dataclass(frozen=True)
class Corpus:
    """Divided text with its tokenizer and tokens.

    Args:
        data: Path or pattern (see `read_text`).
        vocab: Number of tokens; 256: bytes.
        longest: Longest window of any genome, in tokens. Texts that differ in it alone are equal.
        split: See `TextOptions`.
        documents: See `TextOptions`.

    Raises:
        OptionError: The text is empty, or too short for such windows.
        RecipeError: The text is missing or unreadable.
    """

    data: str
    vocab: int
    longest: int = field(compare=False)
    split: Literal["auto", "tail", "even"] = "auto"
    documents: Literal["join", "mask"] = "join"

    @classmethod
    def of(cls, options: TextOptions, longest: int) -> "Corpus":
        """Return the text of options.

        Args:
            options: Options of the text.
            longest: See `Corpus`.
        """
        return cls(options.data, options.vocab, longest, options.split, options.documents)

    def __post_init__(self) -> None:
        check_length(size_of(self.data), self.longest, self.data)

    @property
    def prepared(self) -> PreparedText:
        """The text, divided and tokenised; the same in each training of this process.

        Raises:
            OptionError: A part of the text is too short for the longest window.
            RecipeError: See `prepare`.
        """
        if not _prepare(self).is_current:
            _prepare.cache_clear()
        return _prepare(self)

    def read(self, into: BinaryIO | None = None) -> DocumentIndex:
        """Read the text (see `read_documents`)."""
        return read_documents(self.data, mark=self.documents == "mask", into=into)

    def divide(self, text: bytes | memoryview, ends: np.ndarray) -> tuple[Ranges, Ranges, Ranges]:
        """Return the training text, the validation text and the test text."""
        even = len(ends) > 1 if self.split == "auto" else self.split == "even"
        return split_evenly(text, ends) if even else split_tail(len(text))

    def key(self, documents: DocumentIndex) -> str:
        """Return the SHA-256 of all that the file of a text depends on."""
        library = "" if self.vocab == 256 else library_version()
        parts = [VERSION, documents.sha256, self.vocab, self.split, self.documents, library]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def block(self) -> int:
        """Bytes per held-out block."""
        return BLOCK_BYTES_PER_TOKEN * self.longest

    def fingerprint(self) -> str:
        """Return the SHA-256 of the divided text and its learned byte pairs.

        Raises:
            OptionError: A part of the text is too short for the longest window.
        """
        prepared = self.prepared
        for name, part in (("validation", prepared.validation), ("test", prepared.test)):
            if len(part) <= self.longest:
                raise OptionError(
                    f"-o split={self.split}: the {name} text has {len(part)} bytes: expected more than "
                    f"{self.longest}, the longest window; give more text that differs, or -o split=tail"
                )
        if len(prepared.training) <= self.longest:
            raise OptionError(
                f"-o vocab={self.vocab}: the text to train on has {len(prepared.training)} tokens: expected more than "
                f"{self.longest}, the longest window; give more text, or a smaller -o context"
            )
        return prepared.fingerprint


def prepare(corpus: Corpus) -> PreparedText:
    """Return a text divided and tokenised; a long text only once for all processes.

    Raises:
        RecipeError: The text cannot be read, or the cache cannot be written.
    """
    if size_of(corpus.data) <= IN_MEMORY["bytes" if corpus.vocab == 256 else "pairs"]:
        text, sections = io.BytesIO(), io.BytesIO()
        documents = corpus.read(text)
        header = _write_sections(corpus, memoryview(text.getvalue()), documents, sections)
        content = memoryview(bytearray(sections.getvalue()))  # a bytearray, for torch: it is writable
        return _read_sections(content, header, corpus)
    key = corpus.key(corpus.read())
    folder = cache_folder() / "texts"
    path = folder / f"{key[:32]}.tokens"
    prepared = _open(path, corpus, key)
    try:
        if prepared is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(f"{path}.lock"):  # other processes wait for the one that writes
                prepared = _open(path, corpus, key)
                if prepared is None:
                    _write(path, corpus)
                    prepared = _open(path, corpus, key)
    except OSError as error:
        needed = f"room for its tokens in {folder} ({error.strerror}); XDG_CACHE_HOME moves that folder"
        raise RecipeError("data", corpus.data, needed) from error
    if prepared is None:
        raise RecipeError("data", corpus.data, "a text that does not change while it is read")
    return prepared


_prepare = lru_cache(maxsize=1)(prepare)  # a worker trains on the same text repeatedly


def _write_sections(corpus: Corpus, text: memoryview, documents: DocumentIndex, file: BinaryIO) -> dict[str, Any]:
    """Write the four sections of a text one after the other, and return their sizes and the fingerprint."""
    training, validation, test = corpus.divide(text, documents.ends)
    sizes = [sum(end - start for start, end in part) for part in (training, validation, test)]
    fingerprint = hashlib.sha256("+".join(map(str, sizes)).encode() + b":")
    every = -(-sizes[0] // LEARNED_FROM)
    sample = b"".join(islice(_pieces(text, training), 0, None, every)) if corpus.vocab != 256 else b""
    tokenizer = tokenizer_for(sample, corpus.vocab)
    token_bytes = 0
    for piece in _report_progress(_pieces(text, training), corpus.data, sizes[0]):
        fingerprint.update(piece)
        token_bytes += file.write(tokenizer.encode(piece).tobytes())
    for start, end in (*validation, *test):
        fingerprint.update(text[start:end])
        file.write(text[start:end])
    tokenizer_json = tokenizer.to_json().encode() if isinstance(tokenizer, BPE) else b""
    fingerprint.update(tokenizer_json)
    file.write(tokenizer_json)
    lengths = dict(zip(SECTIONS, (token_bytes, *sizes[1:], len(tokenizer_json)), strict=True))
    return {**lengths, "fingerprint": fingerprint.hexdigest()}


def _pieces(text: memoryview, ranges: Ranges) -> Iterator[memoryview]:
    for start, end in ranges:
        for first, last in pieces_of(text[start:end]):
            yield text[start + first : start + last]


def _report_progress(pieces: Iterable[memoryview], data: str, size: int) -> Iterator[memoryview]:
    """Yield the pieces of a text; from time to time, print a line on standard error: a worker's log, or the terminal.

    Args:
        pieces: The pieces, which are tokenised as they are taken.
        data: Name of the text.
        size: Bytes of all pieces.
    """
    done, next_time = 0, time.monotonic() + EVERY
    for piece in pieces:
        yield piece
        done += len(piece)
        if time.monotonic() >= next_time:
            next_time = time.monotonic() + EVERY
            progress = f"{done / size:.0%} of {size / 1e6:,.0f} MB"
            print(f"tokenising {data}: {progress}", file=sys.stderr, flush=True)


def _read_sections(content: memoryview, header: Mapping[str, Any], corpus: Corpus, **file: Any) -> PreparedText:
    """Return the text that the four sections hold; `file` has path and checked_state."""
    sections, start = {}, 0
    for name in SECTIONS:
        sections[name] = content[start : start + header[name]]
        start += header[name]
    is_bytes = corpus.vocab == 256
    return PreparedText(
        np.frombuffer(sections["training"], np.uint8 if is_bytes else np.uint16),
        sections["validation"],
        sections["test"],
        Bytes() if is_bytes else BPE(str(sections["tokenizer"], "utf-8"), corpus.vocab),
        header["fingerprint"],
        **file,
    )


def _write(path: Path, corpus: Corpus) -> None:
    """Tokenise a text into a file, under a temporary name until it is complete."""
    for name in (path, *path.parent.glob(f"{path.stem}.*.partial")):  # left by a killed process
        name.unlink(missing_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as plain:
        documents = corpus.read(plain)
        plain.flush()
        text = memoryview(mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ))
        handle, partial = tempfile.mkstemp(".partial", f"{path.stem}.", path.parent)
        try:
            with os.fdopen(handle, "w+b") as file:
                file.write(bytes(HEADER))
                header = _write_sections(corpus, text, documents, file)
                header["key"] = corpus.key(documents)
                file.flush()
                header["sha256"] = _digest(header, file)
                file.seek(0)
                file.write(json.dumps(header).encode().ljust(HEADER))
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


def _open(path: Path, corpus: Corpus, key: str) -> PreparedText | None:
    """Map the file of a text; None if it is missing, damaged, or not this user's."""
    file = open_own(path)
    if file is None:
        return None
    with file:
        status = os.fstat(file.fileno())
        try:
            header = json.loads(file.read(HEADER))
        except (ValueError, RecursionError):
            return None
        if status.st_mode & 0o022 or not isinstance(header, dict) or header.get("key") != key:
            return None
        if _digest(header, file) != header.get("sha256"):  # of the sizes and of the whole content
            return None
        # A private mapping: its pages are shared, but torch, which has no read-only tensors, cannot change the file.
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))[HEADER:]
    return _read_sections(content, header, corpus, path=path, checked_state=_state(status))


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
