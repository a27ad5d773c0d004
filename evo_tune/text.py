"""Text of any origin as one line that is safe to print and to save.

A name, a path or an error may hold line breaks, codes that steer a terminal, or bytes that are no UTF-8. This module
imports nothing of evo-tune.
"""

from __future__ import annotations

import unicodedata

__all__ = ["LINE", "is_writable", "one_line"]

LINE = 400
"""Longest line, in characters."""


def one_line(text: str, longest: int = LINE) -> str:
    """Return a text of any origin as one short line that can be saved and is safe to print on a terminal.

    Args:
        text: White space becomes single spaces; control characters and what UTF-8 cannot hold, escapes.
        longest: Characters after which it is cut.
    """
    line = " ".join(text[: 10 * longest].split())
    line = "".join(c.encode("unicode_escape").decode() if _is_unsafe(c) else c for c in line)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def is_writable(text: str) -> bool:
    """Whether a file can hold a text: half of a surrogate pair, from a name that is not UTF-8, has no bytes there."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
