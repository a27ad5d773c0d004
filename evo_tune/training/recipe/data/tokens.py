"""Tokenizers: bytes, or byte pairs learned from a text."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.errors import RecipeError
from evo_tune.options.declare import check_integer

# Words, which merges cannot cross, over bytes read as Latin-1; non-ASCII letters are bytes above 0x7f. The byte 0 is a
# word of its own, because it may mark the end of a document.
_WORDS = r" ?[A-Za-z\x80-\xff]+| ?[0-9]+|\x00| ?[^ \x00\t\n\r0-9A-Za-z\x80-\xff]+|[ \t\n\r]+"

_WORD = re.compile(_WORDS.encode("latin-1"))

# Bytes per call of the library, up to the next line end; it needs much memory per token.
_PIECE = 1 << 16

# Maximum number of words whose tokens are remembered, about 100 MB; other words are encoded each time.
REMEMBERED = 1 << 19

# Maximum number of bytes of a remembered word.
LONGEST_REMEMBERED = 64


@dataclass(frozen=True)
class Bytes:
    """Tokenizer with one token per byte."""

    vocab_size: int = 256

    def encode(self, text: bytes | memoryview) -> np.ndarray:
        """Return the tokens, (n,), uint8."""
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the text of the tokens."""
        return bytes(tokens)


class BPE:
    """Byte-pair tokenizer: a map from bytes to token numbers below `vocab_size`, and back.

    Args:
        data: JSON of the tokenizer, from `to_json`.
        vocab_size: Number of tokens in a model's vocabulary, at least those of the tokenizer (int ≤ 65536).

    Raises:
        RecipeError: The library is not installed, or the data is not its JSON.
    """

    def __init__(self, data: str, vocab_size: int) -> None:
        library = _library()
        try:
            self._tokenizer = library.Tokenizer.from_str(data)
        except Exception as error:  # the library raises plain Exception
            raise RecipeError("tokenizer", data[:40], f"a tokenizer's JSON ({error})") from None
        self.vocab_size = vocab_size
        vocabulary = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        self._texts = [text.encode("latin-1") for text, _ in vocabulary]
        self._words = _Words(self._tokenizer)

    @classmethod
    def learn(cls, text: bytes | memoryview, vocab_size: int) -> "BPE":
        """Learn the merges of a text; they depend only on the text and the library's version.

        Args:
            text: Training text, or a sample of it.
            vocab_size: Number of tokens (int > 256); a short text may give fewer merges.

        Raises:
            RecipeError: The size is out of its range, or the library is not installed.
        """
        check_integer("vocab", vocab_size, 257, 65536)
        library = _library()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(_WORDS), "isolated")
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, initial_alphabet=list(map(chr, range(256))), show_progress=False
        )
        tokenizer.train_from_iterator((str(text[start:end], "latin-1") for start, end in pieces_of(text)), trainer)
        return cls(tokenizer.to_str(), vocab_size)

    def encode(self, text: bytes | memoryview) -> np.ndarray:
        """Return the tokens, (n,), uint16."""
        # Joining the remembered tokens of words is six times as fast as a call of the library for each piece.
        pieces = (_WORD.findall(text, start, end) for start, end in pieces_of(text))
        return np.frombuffer(b"".join(self._words[word] for words in pieces for word in words), np.uint16)

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the text of the tokens."""
        # A model's vocabulary may be larger than the tokenizer's; the extra tokens have no text.
        return b"".join(self._texts[token] for token in tokens if token < len(self._texts))

    def to_json(self) -> str:
        """Return the tokenizer as JSON."""
        return str(self._tokenizer.to_str())


Tokenizer = Bytes | BPE


class _Words(dict[bytes, bytes]):
    """Tokens of words, as the bytes of a uint16 array; computed on first use."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: bytes) -> bytes:
        tokens = np.array(self._tokenizer.encode(word.decode("latin-1")).ids, np.uint16).tobytes()
        if len(self) < REMEMBERED and len(word) <= LONGEST_REMEMBERED:
            self[word] = tokens
        return tokens


def tokenizer_for(text: bytes | memoryview, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of a text: bytes for a vocabulary of 256, else learned byte pairs.

    Raises:
        RecipeError: See `BPE.learn`.
    """
    return Bytes() if vocab_size == 256 else BPE.learn(text, vocab_size)


def pieces_of(text: bytes | memoryview, size: int = _PIECE) -> Iterator[tuple[int, int]]:
    """Yield the start and end of pieces of a text, cut at a line end after `size` bytes (at most twice that)."""
    line_end, start = re.compile(rb"\n"), 0
    while start < len(text):
        line_break = line_end.search(text, start + size, start + 2 * size)
        end = line_break.end() if line_break else min(len(text), start + 2 * size)
        yield start, end
        start = end


def library_version() -> str:
    """Return the version of the library that learns byte pairs: another version may learn others.

    Raises:
        RecipeError: The library is not installed.
    """
    return str(_library().__version__)


def _library() -> Any:
    # Its own threads would exceed the training's share, and it prints warnings when forked with them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ModuleNotFoundError:
        remedy = "256, or an installed tokenizers, which learns them: pip install 'evo-tune[bpe]'"
        raise RecipeError("vocab", "byte pairs", remedy) from None
    return tokenizers
