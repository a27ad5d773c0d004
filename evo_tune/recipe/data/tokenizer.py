"""Text as tokens: its bytes, or byte-pair tokens that are learned from it (BPE, arXiv:1508.07909).

Lossless for any bytes: the first 256 tokens are the bytes themselves, and merges never see anything but bytes. The
byte-pair part is the library `tokenizers`, imported when it is needed. No torch here; knows nothing of models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer

__all__ = ["BPE", "Bytes", "Tokenizer", "tokenizer_for"]

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
