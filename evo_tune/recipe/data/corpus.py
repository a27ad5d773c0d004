"""A text: how it is read, split, and turned into tokens.

What is held out are bytes at the end of the text, the same for every model: the validation text, by which trials are
judged, and the test text behind it. Tokens are learned from the rest only.
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
"""Share of a text, at its end, that is never trained on: one half to choose by, the other to test with."""


def read_text(data: str) -> bytes:
    """Return the bytes of a file, of a folder's files (in order of their paths), or of a glob's.

    Args:
        data: Path or pattern; hidden files of a folder are left out. Empty: the text of `python_paragraphs`.

    Raises:
        RecipeError: There is nothing of that name, or it cannot be read.
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
    """Return 373 kB of English that Python brings along: paragraphs in order, each with the topic that it is from.

    Topics contain one another. Each paragraph stands once, or what is held out would have been trained on. The
    text differs a little between Python versions.

    Args:
        first: Topics whose names begin so come first, and keep the paragraphs that they share with others.
    """
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (not name.startswith(first) if first else False, name)):
        for paragraph in topics[name].split("\n\n"):
            paragraphs.setdefault(paragraph.strip("\n"), name)
    return paragraphs


def split_text(text: bytes, longest: int, data: str) -> tuple[bytes, bytes, bytes]:
    """Return the text to train on, the text to choose by, and the text to test with, in this order.

    Args:
        text: The whole.
        longest: Tokens in the longest window, taken for bytes.
        data: Where it came from.

    Raises:
        OptionError: It is empty, or too short for such windows.
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
"""What merges stay inside of, over bytes read as Latin-1: any letter beyond ASCII is several bytes above 0x7f."""

_PIECE = 1 << 16
"""Bytes that are given to the library at a time, to the next line's end: it keeps much beside each token."""


class Tokenizer(Protocol):
    """Bytes to token numbers below `vocab_size`, and back."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens that a model has to know."""

    def encode(self, text: bytes) -> np.ndarray:
        """Return the tokens, (n,), of an unsigned type as small as holds them all."""

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the text of some tokens."""


@dataclass(frozen=True)
class Bytes:
    """A token a byte."""

    vocab_size: int = 256

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(tokens)


class BPE:
    """Byte-pair tokens.

    Args:
        data: The tokenizer as JSON, as `to_json` gives it.
        vocab_size: Number of tokens that a model has to know: those it holds, or more.

    Raises:
        RecipeError: The library is not installed, or the data is none of its own.
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
        """Learn the merges of a text: the same for the same text and the same version of the library.

        Args:
            text: What to learn from.
            vocab_size: Number of tokens, above 256; a short text may give fewer merges.

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
        # A model may know more tokens than the text had merges for; what they never stood for is nothing.
        return b"".join(self._texts[token] for token in tokens if token < len(self._texts))

    def to_json(self) -> str:
        """Return it as JSON."""
        text: str = self._made.to_str()
        return text


def tokenizer_for(text: bytes, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of a text: bytes for a vocabulary of 256, else byte pairs learned from it.

    Raises:
        RecipeError: See `BPE.learn`.
    """
    return Bytes() if vocab_size == 256 else BPE.learn(text, vocab_size)


def _pieces(text: bytes) -> Iterator[str]:
    """Cut a text at the line ends that follow each so many bytes, and read its bytes as Latin-1."""
    start = 0
    while start < len(text):
        found = re.compile(rb"\n").search(text, start + _PIECE, start + 2 * _PIECE)
        end = found.end() if found else start + 2 * _PIECE
        yield text[start:end].decode("latin-1")
        start = end


def _library() -> Any:
    # Threads of its own would be more than a training was given; and forks with them make it print warnings.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise RecipeError(
            "vocab", "byte pairs", "256, or the library that learns them: pip install tokenizers"
        ) from None
    return tokenizers


BLOCK = 4
"""Bytes in a held-out block, for each token of the longest window: more than a byte-pair token usually has."""


LEAST = 8192
"""Fewest bytes that judge: with fewer, differences of 0.01 nats between genomes are lost in the choice of the bytes."""


@dataclass(frozen=True, kw_only=True)
class Texts(Options):
    """The text."""

    data: str = option(
        "", gene=None, help="File, folder (with all below it) or glob; empty: English that Python brings along"
    )
    vocab: int = option(
        256, bounds="[256, 65536]", unit="tokens", gene=None, help="256: a token is a byte; more: learned byte pairs"
    )
    context: int | None = option(
        None, bounds="[2, inf)", unit="tokens", gene=None, help="In a window; none: the evaluator's gene"
    )
    eval_tokens: int | None = option(
        None,
        bounds="[1, inf)",
        unit="bytes",
        gene=None,
        help="Of held-out text that are scored at the end; left out: for about 1% of a training's arithmetic",
    )


@lru_cache(maxsize=1)  # a worker trains on the same text again and again
def read(data: str) -> bytes:
    """Return the whole text; see `read_text`."""
    return read_text(data)


def bytes_to_train_on(data: str) -> int:
    """Return how many bytes of a text are trained on, whatever the windows; see `read_text`."""
    return round(len(read(data)) * (1 - HELD_OUT))


def judging_bytes(tokens: float) -> int:
    """Return how many bytes should judge a training of so many tokens: for about 1% of its arithmetic.

    To score a token takes a third of what training on it takes. It is the next power of two, so that budgets that are
    nearly the same are judged by the same bytes, and `LEAST` at least.
    """
    return max(LEAST, 1 << math.ceil(math.log2(max(1.0, 0.03 * tokens))))


@lru_cache(maxsize=1)
def _tokens(text: bytes, vocab: int) -> tuple[np.ndarray, Tokenizer]:
    """Return the tokens of the text to train on, and the tokenizer that was learned from it."""
    tokenizer = tokenizer_for(text, vocab)
    return tokenizer.encode(text), tokenizer


@dataclass(frozen=True)
class Corpus:
    """A text, split, and what judges by it.

    Args:
        data: Where it is (see `read_text`).
        vocab: Number of tokens; 256: bytes.
        longest: Tokens in the longest window that any genome may ask for.

    Raises:
        OptionError: The text is empty, or too short for such windows.
        RecipeError: It is missing or unreadable.
    """

    data: str
    vocab: int
    longest: int

    def __post_init__(self) -> None:
        self.split()

    @property
    def size(self) -> int:
        """Bytes of the whole text."""
        return len(read(self.data))

    @property
    def block(self) -> int:
        """Bytes in a held-out block."""
        return BLOCK * self.longest

    def split(self) -> tuple[bytes, bytes, bytes]:
        """Return the text to train on, the validation text and the test text."""
        return split_text(read(self.data), self.longest, self.data)

    @property
    def tokenizer(self) -> Tokenizer:
        """What the tokens are; it has seen the text to train on only."""
        return _tokens(self.split()[0], self.vocab)[1]

    @property
    def tokens(self) -> np.ndarray:
        """The tokens that are trained on, (n,); bytes as uint8."""
        return _tokens(self.split()[0], self.vocab)[0]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the text, of how it is split, and of the byte pairs learned from it.

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
