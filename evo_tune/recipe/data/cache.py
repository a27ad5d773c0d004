"""The folder of the user's cache, for results that can be computed again at any time."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return evo-tune's folder in the user's cache on this operating system; it may not exist yet.

    `XDG_CACHE_HOME` moves it on Linux, `LOCALAPPDATA` on Windows.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "evo-tune"
