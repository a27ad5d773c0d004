"""Text of any origin as it is safe to print, to save and to open in a spreadsheet.

A name, a path or an error may hold line breaks, codes that steer a terminal, characters that turn the order of others
around, formulas, or bytes that are no UTF-8. This module imports nothing of evo-tune.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["LINE", "cell", "is_writable", "of_cell", "one_line", "printable"]

LINE = 400
"""Longest line, in characters."""

UNSAFE = ("Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn")
"""Categories of characters that a terminal may obey, hide or have no picture for: control, surrogate, format (what
turns the direction of text, tags), separators of lines and paragraphs, private and unassigned."""

JOINERS = "\u200c\u200d"
"""The two format characters that stay: Persian and the scripts of India are not written without them, emoji of several
parts neither, and all that they do is to join or part their neighbours."""

COMPUTED = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""What a text begins with that a spreadsheet computes; the last four are the wide forms of the first four."""


def one_line(text: str, longest: int = LINE) -> str:
    """Return a text of any origin as one short line that can be saved and is safe to print on a terminal.

    Args:
        text: White space becomes single spaces; control characters and what UTF-8 cannot hold, escapes.
        longest: Characters after which it is cut.
    """
    line = " ".join(text[: 10 * longest].split())
    line = printable(line)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def printable(text: str) -> str:
    """Return a text with an escape in place of every character that a terminal would obey, line breaks included.

    Ordinary text of every script, combining letters and white space within a line stay as they are; done twice, it is
    as done once.
    """
    if text.isprintable():  # nearly all of it is, and this is quick
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_unsafe(c) else c for c in text)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in UNSAFE and character not in JOINERS


def cell(value: object) -> object:
    """Return a value as a cell of a CSV file: a text that a spreadsheet would compute begins with an apostrophe.

    Numbers stay numbers, also those that are text; `of_cell` gives the text back.
    """
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if _is_computed(value) else value)


def of_cell(text: str) -> str:
    """Return what `cell` made a cell of, where that was a text without unsafe characters."""
    return text[1:] if text.startswith("'") and _is_computed(text) else text


def _is_computed(text: str) -> bool:
    """Whether a spreadsheet would compute a text, or would if apostrophes at its start were taken away."""
    bare = text.lstrip("'")
    return bare[:1] != "" and bare[0] in COMPUTED and not re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text)


def is_writable(text: str) -> bool:
    """Whether a file can hold a text: half of a surrogate pair, from a name that is not UTF-8, has no bytes there."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
