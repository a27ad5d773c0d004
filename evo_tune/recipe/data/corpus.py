"""A text as it is trained on and as it judges and tests: its tokens, its training windows, its held-out blocks.

What is held out are bytes at the text's end, the same for every model: the validation text, by which trials are judged,
and the test text behind it. Tokens are learned from the rest only. Knows nothing of models or budgets.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.recipe.data.text import HELD_OUT, read_text, split_text
from evo_tune.recipe.data.tokenizer import BPE, Tokenizer, tokenizer_for

__all__ = ["BLOCK", "Corpus", "Texts", "bytes_to_train_on", "judging_bytes"]

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
