"""Folders of runs: where they are, which names are free, the lock of the writing process, copies, and notes.

This module does not know what the files of a run contain.
"""

import contextlib
import os
import re
import shlex
import stat
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from evo_tune.errors import StoreError, UsageError, explain_error
from evo_tune.store.binding import move_results
from evo_tune.store.journal import JOURNAL, Journal
from evo_tune.store.manifest import MANIFEST, copy_manifest, read_manifest
from evo_tune.text import one_line
from evo_tune.trust import safe_files

T = TypeVar("T")

# Default folder of the saved runs.
DEFAULT_STORE = "populations"

# File that a running session writes every few seconds.
HEARTBEAT = "_heartbeat.json"

# Folder for the trials' own folders.
TRIALS = "_trials"

# The report in a run's folder. Readers of the folder as one Parquet table skip names with an underscore.
REPORT = "_report.html"

# The file of a note on a run, which its user may write at any time, and its maximum size in bytes.
NOTE, LARGEST_NOTE = "_note.txt", 1 << 14


def list_runs(store: Path) -> list[Path]:
    """Return the folders of a store's runs, in the order of their last write."""

    def last_write(folder: Path) -> float:
        for name in (JOURNAL, MANIFEST):
            with contextlib.suppress(OSError):  # a file of another user, or removed meanwhile
                return (folder / name).lstat().st_mtime
        return 0.0

    folders = [path.parent for path in store.glob(f"[!.]*/{MANIFEST}")]  # skips unfinished copies
    return sorted(folders, key=lambda folder: (last_write(folder), folder.name))


def find_run(store: Path, name: str | None, remedy: str = "") -> Path:
    """Return the folder of a run by name or path; the latest one if no name is given.

    Args:
        store: Folder of the runs.
        name: Name or path of the run.
        remedy: What to do if there is no run of this name, for the error.

    Raises:
        StoreError: There is no such run.
    """
    runs = list_runs(store)
    if name is None:
        if not runs:
            raise StoreError(f"there is no saved run in {store}: start one with `evo-tune run`, or give --store")
        return runs[-1]
    for folder in (store / name, Path(os.path.abspath(name))):
        with contextlib.suppress(OSError):  # the name may be too long for a file
            if os.path.lexists(folder / MANIFEST):
                return folder
    names = ", ".join(folder.name for folder in runs) or "none"
    raise StoreError(f"there is no run {name!r} in {store}: it holds {names}" + (remedy and f"; {remedy}"))


def run_reference(folder: Path) -> str:
    """Return a run as the command line names it: 'mine', or 'mine --store DIR'."""
    store = folder.parent
    is_default = os.path.abspath(store) == os.path.abspath(DEFAULT_STORE)
    return shlex.quote(folder.name) + ("" if is_default else f" --store {shlex.quote(str(store))}")


def new_run_folder(store: Path, name: str) -> Path:
    """Return the folder of a new run.

    Raises:
        UsageError: The name is taken or not valid.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name.endswith(".parquet"):
        expected = "expected up to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        raise UsageError(f"a run cannot be named {name!r}: {expected}")
    folder = store / name
    if os.path.lexists(folder):
        is_run = os.path.lexists(folder / MANIFEST)
        go_on = f", or continue it: evo-tune resume {run_reference(folder)}" if is_run else ""
        raise UsageError(f"{folder} exists: choose another name{go_on}")
    return folder


@contextlib.contextmanager
def complete_run_folder(store: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder, which becomes the folder of a new run at the end; after an error it is removed.

    So a killed process leaves no half of a run, and its name stays free.

    Raises:
        UsageError: The name is taken or not valid.
        OSError: The disk refuses.
    """
    target = new_run_folder(store, name)
    store.mkdir(parents=True, exist_ok=True)
    part = store / f".{name}.{uuid.uuid4().hex}.part"  # several processes may make a run of this name at a time
    part.mkdir()
    try:
        yield part
        try:
            os.replace(part, target)  # fails if another process has made this folder meanwhile
        except OSError:
            new_run_folder(store, name)
            raise
        safe_files.sync_folder(store)
    except BaseException:
        with contextlib.suppress(OSError):
            safe_files.remove(store, part.name)
        raise


def open_locked_journal(folder: Path) -> Journal:
    """Return the journal of a run, locked for writing until it is closed.

    Raises:
        StoreError: Another process writes the run, its journal is missing, or it cannot be written.
    """
    journal = Journal(folder / JOURNAL)
    try:
        journal.claim()
    except BlockingIOError:
        copy = f"or continue a copy (evo-tune resume {run_reference(folder)} --as NAME)"
        raise StoreError(f"{folder} is in use by another process: wait for it or stop it, {copy}") from None
    except FileNotFoundError:
        raise StoreError(missing_journal_message(folder)) from None
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror} ({JOURNAL}); choose another --store") from None
    return journal


def missing_journal_message(folder: Path) -> str:
    """Return the error message for a run without its journal, whose first line was written before the manifest."""
    return f"{folder / JOURNAL} is missing or empty, and the run had begun: restore it from a copy"


def rename_run(folder: Path, name: str) -> Path:
    """Rename a run in its store, and return its new folder.

    Raises:
        UsageError: The name is taken or not valid.
        StoreError: Another process writes the run, or the disk refuses.
    """
    target = new_run_folder(folder.parent, name)
    with contextlib.closing(open_locked_journal(folder)):
        with explain_error(StoreError, f"cannot rename {folder} to {target}"):
            os.rename(folder, target)
        move_results(folder, target)
    return target


def delete_run(folder: Path) -> None:
    """Delete a run with all its files.

    Raises:
        StoreError: Another process writes the run, or the disk refuses.
    """
    hidden = f".{folder.name}.{uuid.uuid4().hex}.part"  # a deletion that is interrupted leaves no half of a run
    with contextlib.closing(open_locked_journal(folder)), explain_error(StoreError, f"cannot delete {folder}"):
        os.rename(folder, folder.parent / hidden)
        safe_files.remove(folder.parent, hidden)


# Maximum depth of folders that are copied: less than `safe_files.remove` removes, so that a copy can be removed again.
DEEPEST_COPY = safe_files.DEEPEST - 10


def copy_run(folder: Path, store: Path, name: str) -> Path:
    """Copy a run atomically and return the folder of the copy, which can be continued separately.

    The copy has its own identity, because it is another run. Links and special files are left out with a warning.

    Raises:
        UsageError: The name is taken or not valid.
        StoreError: The copy cannot be written, or the manifest is damaged.
    """
    read_manifest(folder)  # to refuse a damaged one first
    target, skipped = store / name, list[str]()
    with (
        explain_error(StoreError, f"cannot copy {folder} to {target}"),
        complete_run_folder(store, name) as part,
        safe_files.folder(folder) as source,
        safe_files.folder(part) as copy,
    ):
        _copy(source, copy, "", skipped)
        copy_manifest(folder, part)
    if skipped:
        others = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        text = one_line(f"the copy is without {skipped[0]}{others}: neither file nor folder, or a link")
        warnings.warn(text, stacklevel=2)
    return target


def _copy(source: int, target: int, prefix: str, skipped: list[str]) -> None:
    """Copy the contents of an open folder into another one.

    Args:
        source: File descriptor of the source folder.
        target: File descriptor of the target folder.
        prefix: Path of the source in the run: '' or 'FOLDER/'.
        skipped: List to which the paths of skipped entries are appended, for the warning.
    """
    if prefix.count("/") > DEEPEST_COPY:
        raise OSError(0, f"more than {DEEPEST_COPY} folders lie within each other", prefix)
    for name in sorted(os.listdir(source)):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        # Left by a running or killed process, or made anew
        is_left_over = name.startswith(".worker-") if prefix else name in (HEARTBEAT, REPORT) or name.endswith(".part")
        if is_left_over:
            continue
        if stat.S_ISDIR(status.st_mode):
            with safe_files.folder(source, name) as subfolder, safe_files.folder(target, name, make=True) as copy:
                _copy(subfolder, copy, f"{prefix}{name}/", skipped)
        elif stat.S_ISREG(status.st_mode):
            safe_files.copy_file(source, target, name)
        else:
            skipped.append(prefix + name)


def read_json_file(folder: Path | int, name: str, kind: type[T], limit: int) -> T | None:
    """Return the content of a JSON file beside a run as a type; None if there is none, or it is damaged or too large.

    Args:
        folder: Path or file descriptor of the folder.
        name: Name of the file.
        kind: Type of the content.
        limit: Maximum size of the file in bytes.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return msgspec.json.decode(safe_files.read(folder, name, limit=limit), type=kind)
    return None


def read_note(folder: Path) -> str:
    """Return the note on a run; '' if there is none, or it is no text."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return safe_files.read(folder, NOTE, limit=LARGEST_NOTE).decode().strip()
    return ""
