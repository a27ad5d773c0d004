"""What comes out of a plug-in's own code: numbers or not, and what its errors say to people, in one line."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from evo_tune.errors import EvoTuneError

__all__ = ["is_number", "what_of", "where_of"]


def is_number(value: Any) -> bool:
    """Say whether something can be taken for a number."""
    try:
        float(value)
    except Exception:  # anything may come out of a user's own __float__
        return False
    return True


def where_of(error: BaseException, path: Path) -> str:
    """Return FILE:LINE of the last frame of an error in a plug-in's own file; FILE if it has none there."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def what_of(error: BaseException) -> str:
    """Return what an error says, in one line; those of evo-tune need no name of their class."""
    if isinstance(error, EvoTuneError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
