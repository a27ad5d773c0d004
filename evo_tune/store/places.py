"""Where runs are: their folders in a store, which of them are free or taken, and the lock of the one that writes.

Knows nothing of what a run holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path

import filelock

from evo_tune.errors import StoreError, UsageError
from evo_tune.store.journal import JOURNAL
from evo_tune.store.manifest import MANIFEST
from evo_tune.trust import inside

__all__ = [
    "LOCK",
    "REPORT",
    "STORE",
    "TRIALS",
    "as_typed",
    "check_trials",
    "clear_stillborn",
    "find_run",
    "free_folder",
    "list_runs",
    "lock_run",
]

STORE = "populations"
"""Where runs are saved unless something else is said."""

LOCK = "_lock"

TRIALS = "_trials"
"""Folder of the folders that trials may use."""

REPORT = "_report.html"
"""The report in a run's folder. Who reads the folder as one Parquet table skips names with an underscore."""


def list_runs(store: Path) -> list[Path]:
    """Return the folders of a store's runs, the one written last at the end."""
    folders = [path.parent for path in store.glob(f"[!.]*/{MANIFEST}")]  # not the unfinished copies
    return sorted(folders, key=lambda folder: (_last_write(folder), folder.name))


def _last_write(folder: Path) -> float:
    for name in (JOURNAL, MANIFEST):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            return (folder / name).lstat().st_mtime
    return 0.0


def find_run(store: Path, name: str | None) -> Path:
    """Return the folder of a run by name or path; the latest one if no name is given.

    Raises:
        StoreError: There is none.
    """
    runs = list_runs(store)
    if name is None:
        if not runs:
            raise StoreError(f"there is no saved run in {store}: start one with `evo-tune run`, or give --store")
        return runs[-1]
    for folder in (store / name, Path(os.path.abspath(name))):
        with contextlib.suppress(OSError):  # a name too long to be one
            if os.path.lexists(folder / MANIFEST):
                return folder
    known = ", ".join(folder.name for folder in runs) or "none"
    raise StoreError(f"there is no run {name!r} in {store}: it holds {known}")


def as_typed(folder: Path) -> str:
    """Return what to type behind a command to name a run: 'mine', or 'mine --store DIR'."""
    store = folder.parent
    known = Path(os.path.abspath(store)) == Path(os.path.abspath(STORE))
    return shlex.quote(folder.name) + ("" if known else f" --store {shlex.quote(str(store))}")


def free_folder(store: Path, name: str) -> Path:
    """Return the folder of a new run.

    Raises:
        UsageError: The name is taken or is no plain name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.endswith(".parquet"):
        raise UsageError(
            f"a run cannot be named {name!r}: expected up to 100 letters, digits, '.', '_', '-', the first no sign"
        )
    folder = store / name
    if os.path.lexists(folder) and not _is_stillborn(folder):
        is_run = os.path.lexists(folder / MANIFEST)
        go_on = f", or go on with it: evo-tune resume {as_typed(folder)}" if is_run else ""
        raise UsageError(f"{folder} exists: choose another name{go_on}")
    return folder


STILLBORN = {LOCK, JOURNAL, f"{MANIFEST}.part"}
"""What a folder holds before it is a run."""

BEGUN = 1 << 16
"""Bytes of a journal that may hold nothing but the beginning of a session."""


def clear_stillborn(folder: Path) -> None:
    """Remove what is left of a run that was never begun, unless somebody is beginning it at this moment."""
    if folder.exists():
        with lock_run(folder):
            for name in STILLBORN:
                inside.remove(folder, name)
            folder.rmdir()  # refuses if there is anything else


def _is_stillborn(folder: Path) -> bool:
    """Whether a folder is what a death left that came before the manifest: there is nothing in it to lose."""
    try:
        if folder.is_symlink():
            return False
        names = set(os.listdir(folder))
        if not names <= STILLBORN:
            return False
        return JOURNAL not in names or b'"born"' not in inside.read(folder, JOURNAL, limit=BEGUN)
    except OSError:
        return False


def lock_run(folder: Path) -> filelock.BaseFileLock:
    """Lock a run for writing, or say that another process writes it.

    Raises:
        StoreError: One does, or the folder cannot be written.
    """
    lock = filelock.FileLock(folder / LOCK, thread_local=False)  # any thread may close a run
    try:
        # Older versions of filelock open, and empty, whatever a link leads to.
        os.close(inside.open_to_write(folder, LOCK)[0])
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(
            f"{folder} is in use by another process: wait for it or stop it; a copy goes on beside it "
            f"(evo-tune resume {as_typed(folder)} --as NAME)"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror} ({LOCK}); choose another --store") from None
    return lock


def check_trials(folder: Path) -> None:
    """Refuse a folder of trials' folders that is none: they are made, emptied and removed there.

    Raises:
        StoreError: It is none.
    """
    try:
        with contextlib.suppress(FileNotFoundError), inside.folder(folder, TRIALS):
            pass
    except OSError as error:
        raise StoreError(f"cannot write {folder / TRIALS}: {error.strerror}; put a folder in its place") from None
