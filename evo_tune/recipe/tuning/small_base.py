"""The small base: what is tuned where no other is given, as numbers, and the text that it is tuned to."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from evo_tune.recipe.data.text import python_paragraphs, read_text, split_text
from evo_tune.recipe.tuning.base import Base

__all__ = ["SMALL", "built_in_text", "planned_small_base", "read_tuning_text", "small_base_key"]

SMALL: dict[str, Any] = {
    "version": 1,
    "model": {"vocab_size": 256, "context": 128, "depth": 2, "width": 64, "heads": 4, "init": "fan_in"},
    "windows": 5000,
    "batch": 4,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "seed": 0,
}
"""How the small base is trained: always on one thread of a CPU, so that every slot has the same."""

SUBJECTS = ("bltin", "dict", "format", "sequence", "string", "types")
"""First letters of the topics of the built-in text that the small base is tuned to; it is trained on the others."""


@lru_cache
def built_in_text(*, tuning: bool) -> bytes:
    """Return one of the two parts of the text that Python brings along: to tune the small base to, or to make it of."""
    paragraphs = python_paragraphs(first=SUBJECTS)
    return "\n\n".join(text for text, topic in paragraphs.items() if topic.startswith(SUBJECTS) == tuning).encode()


def read_tuning_text(data: str, context: int) -> tuple[bytes, bytes, bytes]:
    """Return the text to train on, the validation text and the test text.

    Args:
        data: File, folder or glob; empty: the part of Python's own documentation that the small base never saw.
        context: Tokens in a window, taken for bytes.

    Raises:
        OptionError: It is too short.
        RecipeError: It is missing or unreadable.
    """
    return split_text(read_text(data) if data else built_in_text(tuning=True), context, data)


def planned_small_base() -> Base:
    """Return what the small base will be, which need not have been trained yet."""
    return Base(Path(), {"model": SMALL["model"]}, {})


def small_base_key() -> str:
    """Return the SHA-256 of how the small base is made, and of what."""
    digest = hashlib.sha256(json.dumps(SMALL, sort_keys=True).encode())
    digest.update(built_in_text(tuning=False))
    return digest.hexdigest()
