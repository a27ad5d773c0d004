"""Text as it lies on disk: a file, a folder or a glob, in any language, read as bytes; its end judges and tests.

Knows nothing of tokens.
"""

from __future__ import annotations

import glob
import math
from pathlib import Path

from evo_tune.errors import OptionError, RecipeError

__all__ = ["HELD_OUT", "python_paragraphs", "read_text", "split_text"]

HELD_OUT = 0.1
"""Share of a text, at its end, that is never trained on: one half to choose by, the other to test with."""


def read_text(data: str) -> bytes:
    """Return the bytes of a file, of a folder's files (in order of their paths), or of a glob's.

    Args:
        data: Path or pattern; hidden files of a folder are left out. Empty: the text of `python_paragraphs`.

    Raises:
        RecipeError: There is nothing of that name, or it cannot be read.
    """
    if not data:
        return "\n\n".join(python_paragraphs()).encode()
    path = Path(data).expanduser()
    if path.is_dir():
        found = [p for p in path.rglob("*") if not any(part[0] == "." for part in p.relative_to(path).parts)]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in found if file.is_file())
    if not files:
        what = "which holds no files" if path.is_dir() else "is no file, folder or glob with a match"
        raise RecipeError("data", data, f"a path to text ({what}, from {Path.cwd()}), or nothing for the built-in text")
    try:
        return b"\n".join(file.read_bytes() for file in files)
    except OSError as error:
        raise RecipeError("data", data, f"text that can be read: {error.filename}: {error.strerror}") from error


def python_paragraphs(first: tuple[str, ...] = ()) -> dict[str, str]:
    """Return 373 kB of English that Python brings along: paragraphs in order, each with the topic that it is from.

    Topics contain one another. Each paragraph stands once, or what is held out would have been trained on. The
    text differs a little between Python versions.

    Args:
        first: Topics whose names begin so come first, and keep the paragraphs that they share with others.
    """
    from pydoc_data.topics import topics

    paragraphs: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (not name.startswith(first) if first else False, name)):
        for paragraph in topics[name].split("\n\n"):
            paragraphs.setdefault(paragraph.strip("\n"), name)
    return paragraphs


def split_text(text: bytes, longest: int, data: str) -> tuple[bytes, bytes, bytes]:
    """Return the text to train on, the text to choose by, and the text to test with, in this order.

    Args:
        text: The whole.
        longest: Tokens in the longest window, taken for bytes.
        data: Where it came from.

    Raises:
        OptionError: It is empty, or too short for such windows.
    """
    needed = math.ceil(2 * (longest + 2) / HELD_OUT)
    if len(text) < needed:
        amount = "is empty" if not text else f"holds {len(text)} bytes"
        raise OptionError(
            f"-o data={data} {amount}: expected at least {needed} for windows of "
            f"{longest}; give more text, or a smaller -o context"
        )
    cut = round(len(text) * (1 - HELD_OUT))
    half = (cut + len(text)) // 2
    return text[:cut], text[cut:half], text[half:]
