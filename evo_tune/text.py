"""Make text of any origin safe to print, to save and to open in a spreadsheet.

A name, a path or an error may contain line breaks, terminal codes, characters that reverse the order of others,
formulas, or bytes that are not UTF-8. This module imports nothing of evo-tune.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# Maximum characters of a line.
LONGEST_LINE = 400

# Categories of characters that a terminal may obey or hide: control, surrogate, format (direction marks, tags), line
# and paragraph separators, private and unassigned.
UNSAFE = ("Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn")

# Two format characters that are harmless, and necessary for Persian, the scripts of India, and composed emoji.
JOINERS = "\u200c\u200d"

# First characters of texts that a spreadsheet computes; the last four are wide forms of the first four.
FORMULA_STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Return a text as one short line that is safe to save and to print on a terminal.

    Args:
        text: Text of any origin. White space becomes single spaces, and unsafe characters become escapes.
        longest: Maximum number of characters.
    """
    line = escape_unprintable(" ".join(text[: 10 * longest].split()))  # a huge text is cut first
    return line if len(line) <= longest else line[: longest - 1] + "…"


def with_plural(count: int, noun: str) -> str:
    """Return a number of things in words: 1 result, 2 results."""
    return f"{count} {noun}{'s' * (count != 1)}"


def escape_unprintable(text: str) -> str:
    """Return a text with escapes in place of unsafe characters, line breaks included.

    Ordinary text of every script stays as it is. Applying the function twice is the same as once.
    """
    if text.isprintable():  # fast, and true for nearly all texts
        return text
    unsafe_by_character = {c: unicodedata.category(c) in UNSAFE and c not in JOINERS for c in set(text)}
    return "".join(c.encode("unicode_escape").decode() if unsafe_by_character[c] else c for c in text)


def to_csv_cell(value: object) -> object:
    """Return a value as a cell of a CSV file; an apostrophe precedes a text that a spreadsheet would compute.

    Numbers stay numbers, even as text. `from_csv_cell` is the inverse.
    """
    if not isinstance(value, str):
        return value
    return escape_unprintable(f"'{value}" if _is_formula(value) else value)


def from_csv_cell(text: str) -> str:
    """Undo `to_csv_cell`: return the original text, except that unsafe characters stay escaped."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet would compute a text, perhaps without its leading apostrophes."""
    unquoted = text.lstrip("'")
    is_number = re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) is not None
    return unquoted.startswith(tuple(FORMULA_STARTS)) and not is_number


def is_encodable(text: str) -> bool:
    """Return whether a text can be encoded: names that are not UTF-8 contain lone surrogates, which cannot."""
    return not re.search("[\ud800-\udfff]", text)


# Values as text for people


def show_value(value: object) -> str:
    """Return a value as text; numbers have five significant digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else escape_unprintable(str(value))


def show_decimals(value: float) -> str:
    """Return a number with five decimals, so that its width stays the same; a huge one with six significant digits."""
    return f"{value:.5f}" if abs(value) < 1e9 else f"{value:.6g}"


def show_error(error: float | None) -> str:
    """Return a standard error behind its sign, ' ± 0.00283'; '' if it is unknown, or 0: equal values estimate none."""
    if not error or not math.isfinite(error):
        return ""
    return f" ± {show_decimals(error)}" if error >= 1e-5 else f" ± {error:.2g}"


def show_genome(genome: Mapping[str, Any]) -> str:
    """Return a genome in one line."""
    return " ".join(f"{name}={show_value(value)}" for name, value in genome.items())


def show_seconds(seconds: float) -> str:
    """Return a duration: 8 s, 2 min 05 s, 3 h 10 min."""
    if not math.isfinite(seconds):
        return "-"
    if seconds > 3.2e9:  # a forged or a lost clock
        return "more than 100 years"
    whole_seconds = max(0, round(seconds))
    if whole_seconds < 60:
        return f"{whole_seconds} s"
    if whole_seconds < 3600:
        return f"{whole_seconds // 60} min {whole_seconds % 60:02d} s"
    return f"{whole_seconds // 3600} h {whole_seconds % 3600 // 60:02d} min"
