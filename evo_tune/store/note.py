"""The note that a user writes on a run: a text beside the journal, written also while the run is in progress."""

from __future__ import annotations

import contextlib
from pathlib import Path

from evo_tune.errors import StoreError, UsageError
from evo_tune.text import is_encodable
from evo_tune.trust import safe_files

# File of the note.
NOTE = "_note.txt"

# Maximum size in bytes.
LARGEST = 1 << 14


def read_note(folder: Path) -> str:
    """Return the note on a run; '' if there is none, or it is no text."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return safe_files.read(folder, NOTE, limit=LARGEST).decode().strip()
    return ""


def write_note(folder: Path, text: str) -> None:
    """Write the note on a run; an empty text removes it.

    Raises:
        UsageError: The text is too long.
        StoreError: The disk refuses.
    """
    data = (text.strip() + "\n").encode() if is_encodable(text) else b""
    if not data or len(data) > LARGEST:
        raise UsageError(f"a note of {len(text)} characters: expected UTF-8 text of at most {LARGEST} bytes")
    try:
        if text.strip():
            safe_files.replace(folder, NOTE, data, f"{NOTE}.part")
        else:
            safe_files.remove(folder, NOTE)
    except OSError as error:
        raise StoreError(f"cannot write {folder / NOTE}: {error.strerror}") from None
