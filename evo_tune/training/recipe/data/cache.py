"""The folder of the user's cache, for results that can be computed again at any time; files that are the user's own."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """Return evo-tune's folder in the user's cache on this operating system; it may not exist yet.

    `XDG_CACHE_HOME` moves it on Linux, `LOCALAPPDATA` on Windows.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        xdg_home = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(xdg_home if os.path.isabs(xdg_home) else "~/.cache").expanduser()  # a relative one is invalid
    return base / "evo-tune"


def open_own(path: Path) -> BinaryIO | None:
    """Open a regular file of this user for reading; None if it is missing, a link, or another user's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return os.fdopen(handle, "rb")
    os.close(handle)
    return None
