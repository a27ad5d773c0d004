"""Text as it lies on disk: a file, a folder or a glob, in any language, read as bytes. Knows nothing of tokens."""

from __future__ import annotations

import glob
from pathlib import Path

from evo_tune.errors import RecipeError

__all__ = ["read_text"]


def read_text(data: str) -> bytes:
    """Return the bytes of a file, of a folder's files (in order of their paths), or of a glob's.

    Args:
        data: Path or pattern; hidden files of a folder are left out. Empty: 465 kB of English that Python brings
            along; it differs a little between Python versions.

    Raises:
        RecipeError: There is nothing of that name, or it cannot be read.
    """
    if not data:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics)).encode()
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
