"""Texts: reading, splitting and tokenisation.

The held-out bytes are at the end of the text, the same for every model: the validation text, which ranks trials, and
then the test text. The tokenizer is learned from the remaining text only.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from evo_tune.errors import OptionError, RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.options.declare import Options, option

HELD_OUT = 0.1
"""Held-out share at the end of a text: one half is for validation, the other for the test."""


def read_text(data: str) -> bytes:
    """Return the bytes of a file, of a folder's files or of a glob's files, in order of their paths.

    Args:
        data: Path or pattern, without hidden files of a folder. Empty: the text of `python_paragraphs`.

    Raises:
        RecipeError: The path does not exist or cannot be read.
    """
    if not data:
        return "\n\n".join(python_paragraphs()).encode()
    path = Path(data).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if not any(part[0] == "." for part in p.relative_to(path).parts)]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in found if file.is_file())
    if not files:
        what = "which holds no files" if path.is_dir() else "is no file, folder or glob with a match"
        raise RecipeError("data", data, f"a path to text ({what}, from {Path.cwd()}), or nothing for the built-in text")
    try:
        return b"\n".join(file.read_bytes() for file in files)
    except OSError as error:
        raise RecipeError("data", data, f"text that can be read: {error.filename}: {error.strerror}") from error


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


def split_text(text: bytes, longest: int, data: str) -> tuple[bytes, bytes, bytes]:
    """Return the training text, the validation text and the test text.

    Args:
        text: Full text.
        longest: Tokens in the longest window, counted as bytes.
        data: Source of the text, for the error message.

    Raises:
        OptionError: The text is empty, or too short for such windows.
    """
    needed = math.ceil(2 * (longest + 2) / HELD_OUT)
    if len(text) < needed:
        amount = "is empty" if not text else f"holds {len(text)} bytes"
        raise OptionError(
            f"-o data={data} {amount}: expected at least {needed} for windows of "
            f"{longest}; give more text, or a smaller -o context"
        )
    cut = round(len(text) * (1 - HELD_OUT))
    half = (cut + len(text)) // 2
    return text[:cut], text[cut:half], text[half:]


_WORDS = r" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^ \t\n\r0-9A-Za-z\x80-\xff]+|[ \t\n\r]+"
"""Pieces that merges cannot cross, over bytes read as Latin-1; non-ASCII letters are bytes above 0x7f."""

_PIECE = 1 << 16
"""Bytes per call of the library, up to the next line end; it needs much memory per token."""


class Tokenizer(Protocol):
    """Map from bytes to token numbers below `vocab_size`, and back."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens in a model's vocabulary."""

    def encode(self, text: bytes) -> np.ndarray:
        """Return the tokens, (n,), in the smallest unsigned type that fits the vocabulary."""

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the text of the tokens."""


@dataclass(frozen=True)
class Bytes:
    """Tokenizer with one token per byte."""

    vocab_size: int = 256

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(tokens)


class BPE:
    """Byte-pair tokenizer.

    Args:
        data: JSON of the tokenizer, from `to_json`.
        vocab_size: Number of tokens in a model's vocabulary, at least those of the tokenizer.

    Raises:
        RecipeError: The library is not installed, or the data is not its JSON.
    """

    def __init__(self, data: str, vocab_size: int) -> None:
        try:
            self._made = _library().Tokenizer.from_str(data)
        except RecipeError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise RecipeError("tokenizer", data[:40], f"a tokenizer's JSON ({error})") from None
        self.vocab_size = vocab_size
        known = sorted(self._made.get_vocab().items(), key=lambda item: item[1])
        self._texts = [text.encode("latin-1") for text, _ in known]

    @classmethod
    def learn(cls, text: bytes, vocab_size: int) -> BPE:
        """Learn the merges of a text; they depend only on the text and the library's version.

        Args:
            text: Training text.
            vocab_size: Number of tokens (int > 256); a short text may give fewer merges.

        Raises:
            RecipeError: The size is out of its range, or the library is not installed.
        """
        check_integer("vocab", vocab_size, 257, 65536)
        library = _library()
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(_WORDS), "isolated")
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=[chr(byte) for byte in range(256)],
            show_progress=False,
        )
        made.train_from_iterator(_pieces(text), trainer)
        return cls(made.to_str(), vocab_size)

    def encode(self, text: bytes) -> np.ndarray:
        kind = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        pieces = (self._made.encode(piece).ids for piece in _pieces(text))
        return np.concatenate([np.empty(0, kind), *(np.array(ids, kind) for ids in pieces)])

    def decode(self, tokens: Iterable[int]) -> bytes:
        # A model's vocabulary may be larger than the tokenizer's; the extra tokens have no text.
        return b"".join(self._texts[token] for token in tokens if token < len(self._texts))

    def to_json(self) -> str:
        """Return the tokenizer as JSON."""
        text: str = self._made.to_str()
        return text


def tokenizer_for(text: bytes, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of a text: bytes for a vocabulary of 256, else learned byte pairs.

    Raises:
        RecipeError: See `BPE.learn`.
    """
    return Bytes() if vocab_size == 256 else BPE.learn(text, vocab_size)


def _pieces(text: bytes) -> Iterator[str]:
    """Yield pieces of a text, decoded as Latin-1, cut at a line end after `_PIECE` bytes (at most twice that)."""
    start = 0
    while start < len(text):
        found = re.compile(rb"\n").search(text, start + _PIECE, start + 2 * _PIECE)
        end = found.end() if found else start + 2 * _PIECE
        yield text[start:end].decode("latin-1")
        start = end


def _library() -> Any:
    # Its own threads would exceed the training's share, and it prints warnings when forked with them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise RecipeError(
            "vocab", "byte pairs", "256, or the library that learns them: pip install tokenizers"
        ) from None
    return tokenizers


BLOCK = 4
"""Bytes of a held-out block per token of the longest window; more than a byte-pair token usually has."""


LEAST = 8192
"""Minimum number of scored bytes; with fewer, sampling noise hides differences of 0.01 nats between genomes."""


@dataclass(frozen=True, kw_only=True)
class Texts(Options):
    """Text."""

    data: str = option("", gene=None, help="Text: file, folder (recursive) or glob; empty: Python's own documentation")
    vocab: int = option(
        256,
        bounds="[256, 65536]",
        unit="tokens",
        gene=None,
        help="Vocabulary size; 256: bytes; more: learned byte pairs",
    )
    context: int | None = option(
        None, bounds="[2, inf)", unit="tokens", gene=None, help="Tokens per window; none: the evaluator's gene"
    )
    eval_tokens: int | None = option(
        None,
        bounds="[1, inf)",
        unit="bytes",
        gene=None,
        help="Number of held-out bytes scored at the end; none: about 1% of the training's FLOPs",
    )


@lru_cache(maxsize=1)  # a worker trains on the same text repeatedly
def read(data: str) -> bytes:
    """Return the full text (see `read_text`)."""
    return read_text(data)


def bytes_to_train_on(data: str) -> int:
    """Return the number of training bytes of a text, for any window (see `read_text`)."""
    return round(len(read(data)) * (1 - HELD_OUT))


def judging_bytes(tokens: float) -> int:
    """Return the number of bytes to score for a training on `tokens` tokens, at about 1 % of its FLOPs.

    Scoring a token costs a third of training on it. The result is rounded up to a power of two, so that similar budgets
    score the same bytes, and is at least `LEAST`.
    """
    return max(LEAST, 1 << math.ceil(math.log2(max(1.0, 0.03 * tokens))))


@lru_cache(maxsize=1)
def _tokens(text: bytes, vocab: int) -> tuple[np.ndarray, Tokenizer]:
    """Return the tokens of the training text and the tokenizer learned from it."""
    tokenizer = tokenizer_for(text, vocab)
    return tokenizer.encode(text), tokenizer


@dataclass(frozen=True)
class Corpus:
    """Split text with its tokenizer and tokens.

    Args:
        data: Path or pattern (see `read_text`).
        vocab: Number of tokens; 256: bytes.
        longest: Longest window of any genome, in tokens.

    Raises:
        OptionError: The text is empty, or too short for such windows.
        RecipeError: The text is missing or unreadable.
    """

    data: str
    vocab: int
    longest: int

    def __post_init__(self) -> None:
        self.split()

    @property
    def size(self) -> int:
        """Bytes of the full text."""
        return len(read(self.data))

    @property
    def block(self) -> int:
        """Bytes per held-out block."""
        return BLOCK * self.longest

    def split(self) -> tuple[bytes, bytes, bytes]:
        """Return the training text, the validation text and the test text."""
        return split_text(read(self.data), self.longest, self.data)

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer, learned from the training text only."""
        return _tokens(self.split()[0], self.vocab)[1]

    @property
    def tokens(self) -> np.ndarray:
        """Training tokens, (n,); bytes as uint8."""
        return _tokens(self.split()[0], self.vocab)[0]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the text, its split, and its learned byte pairs.

        Raises:
            OptionError: The text has too few byte pairs for the longest window.
        """
        training, validation, test = self.split()
        digest = hashlib.sha256(f"{len(training)}+{len(validation)}+{len(test)}:".encode())
        for part in (training, validation, test):
            digest.update(part)
        if self.vocab != 256:
            tokens, tokenizer = _tokens(training, self.vocab)
            if len(tokens) <= self.longest:
                raise OptionError(
                    f"-o vocab={self.vocab}: the text to train on has {len(tokens)} tokens: expected more than "
                    f"{self.longest}, the longest window; give more text, or a smaller -o context"
                )
            digest.update(cast(BPE, tokenizer).to_json().encode())
        return digest.hexdigest()
