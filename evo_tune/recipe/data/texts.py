"""Texts as token numbers: bytes, or words by their hash. There is nothing to be fitted, and no torch here."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evo_tune.recipe.models.encoder_config import TextConfig

__all__ = ["PADDING", "encode_texts", "tokens_of"]

PADDING = 0
"""The token that fills up a short text."""

WORD = re.compile(r"\w+|[^\w\s]")


def tokens_of(text: str, config: TextConfig) -> list[int]:
    """Return the first tokens of a text, from 1 on: its bytes in UTF-8, or hashes of its words in small letters.

    A text without any stands as a new line, so that there is something to read.
    """
    if config.unit == "bytes":
        return [byte + 1 for byte in (text.encode("utf-8", "replace") or b"\n")[: config.length]]
    words = [match[0] for match, _ in zip(WORD.finditer(text.lower()), range(config.length), strict=False)]
    return [zlib.crc32(word.encode("utf-8", "replace")) % config.buckets + 1 for word in words or ["\n"]]


def encode_texts(texts: Sequence[str], config: TextConfig) -> NDArray[np.int32]:
    """Return the first tokens of each text, filled up with PADDING: (texts, length), int32."""
    tokens = np.full((len(texts), config.length), PADDING, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        found = tokens_of(text, config)
        row[: len(found)] = found
    return tokens
