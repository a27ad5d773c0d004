"""The text of a language model: its options, and its tokens and held-out parts.

The held-out bytes are the same for every model: the validation text, which ranks trials, and the test text. The
tokenizer is learned from the remaining text only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.options.declare import Options, option
from evo_tune.training.recipe.data.prepared import Preparation, PreparedText, prepare
from evo_tune.training.recipe.data.texts import BOUNDARY, HELD_OUT, check_length, size_of
from evo_tune.training.recipe.data.tokens import Tokenizer

BLOCK_BYTES_PER_TOKEN = 4
"""Bytes of a held-out block per token of the longest window; more than a byte-pair token usually has."""


FEWEST_SCORED_BYTES = 8192
"""Minimum number of scored bytes; with fewer, sampling noise hides differences of 0.01 nats between genomes."""


@dataclass(frozen=True, kw_only=True)
class TextOptions(Options):
    """Text."""

    data: str = option("", gene=None, help="Text: file, folder (recursive) or glob; empty: Python's own documentation")
    split: Literal["auto", "tail", "even"] = option(
        "auto",
        gene=None,
        help="Held-out tenth: tail (end of the text), even (documents by a hash), auto (tail for one document)",
    )
    documents: Literal["join", "mask"] = option(
        "join",
        gene=None,
        help="Documents in a window: join, as one text; mask, a token attends only to its own document",
    )
    vocab: int = option(
        256,
        bounds="[256, 65536]",
        unit="tokens",
        gene=None,
        help="Vocabulary size; 256: bytes; more: learned byte pairs",
    )
    context: int | None = option(
        None,
        bounds="[2, inf)",
        unit="tokens",
        gene=None,
        help="Tokens per window; none: a gene; fine-tuning: up to 512",
    )
    eval_tokens: int | None = option(
        None,
        bounds="[1, inf)",
        unit="bytes",
        gene=None,
        help="Number of held-out bytes scored at the end; none: about 1% of the training's FLOPs",
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


def bytes_to_score(tokens: float) -> int:
    """Return the number of bytes to score for a training on `tokens` tokens, at about 1 % of its FLOPs.

    Scoring a token costs a third of training on it. The result is rounded up to a power of two, so that similar budgets
    score the same bytes, and is at least `FEWEST_SCORED_BYTES`.
    """
    return max(FEWEST_SCORED_BYTES, 1 << math.ceil(math.log2(max(1.0, 0.03 * tokens))))


_prepare = lru_cache(maxsize=1)(prepare)  # a worker trains on the same text repeatedly


@dataclass(frozen=True)
class Corpus:
    """Divided text with its tokenizer and tokens.

    Args:
        data: Path or pattern (see `read_text`).
        vocab: Number of tokens; 256: bytes.
        longest: Longest window of any genome, in tokens.
        split: See `TextOptions`.
        documents: See `TextOptions`.

    Raises:
        OptionError: The text is empty, or too short for such windows.
        RecipeError: The text is missing or unreadable.
    """

    data: str
    vocab: int
    longest: int
    split: Literal["auto", "tail", "even"] = "auto"
    documents: Literal["join", "mask"] = "join"

    @classmethod
    def of(cls, options: TextOptions, longest: int) -> Corpus:
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
        preparation = Preparation(self.data, self.vocab, self.split, self.documents)
        if not _prepare(preparation).sound:
            _prepare.cache_clear()
        return _prepare(preparation)

    @property
    def block(self) -> int:
        """Bytes per held-out block."""
        return BLOCK_BYTES_PER_TOKEN * self.longest

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer, learned from the training text only."""
        return self.prepared.tokenizer

    @property
    def tokens(self) -> np.ndarray:
        """Training tokens, (n,); bytes as uint8, byte pairs as uint16."""
        return self.prepared.training

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
