"""Copy a run, so that the copy can go on by itself.

Knows only which files of a run are not part of what is saved.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
import warnings
from pathlib import Path

import msgspec

from evo_tune.errors import StoreError, UsageError
from evo_tune.store.heartbeat import HEARTBEAT
from evo_tune.store.manifest import read_manifest, write_manifest
from evo_tune.store.places import LOCK, REPORT, clear_stillborn, free_folder
from evo_tune.text import one_line
from evo_tune.trust import inside

__all__ = ["copy_run"]

DEEPEST = inside.DEEPEST - 10
"""Folders within folders that are copied: what was copied can be removed again."""


def copy_run(folder: Path, store: Path, name: str) -> Path:
    """Copy a run, whole or not at all, so that the copy can go on by itself; return the copy's folder.

    The copy gets an identity of its own: it is another run.

    Links, and what is neither file nor folder, are left out with a warning.

    Raises:
        UsageError: The name is taken or is no plain name.
        StoreError: The disk refuses, or the manifest is damaged.
    """
    target = free_folder(store, name)
    manifest = msgspec.structs.replace(read_manifest(folder), identity=uuid.uuid4().hex)
    part = f".{name}.part"
    others: list[str] = []
    try:
        inside.remove(store, part)
        with inside.folder(folder) as source, inside.folder(store, part, make=True) as copy:
            _copy(source, copy, "", others)
        write_manifest(store / part, manifest)
        clear_stillborn(free_folder(store, name))
        os.replace(store / part, target)  # refuses a folder that has become somebody else's meanwhile
    except (OSError, StoreError) as error:
        with contextlib.suppress(OSError):
            inside.remove(store, part)
        if target.exists():
            raise UsageError(f"{target} exists: choose another name for the copy") from None
        raise StoreError(f"cannot copy {folder} to {target}: {_told(error)}") from error
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        text = one_line(f"the copy is without {others[0]}{more}: neither file nor folder, or a link")
        warnings.warn(text, stacklevel=2)
    return target


def _told(error: OSError | StoreError) -> str:
    if isinstance(error, StoreError):
        return str(error)
    return one_line(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror))


def _copy(source: int, target: int, place: str, others: list[str]) -> None:
    """Copy what an open folder holds into another.

    Args:
        source: The one.
        target: The other.
        place: Where the one is in the run: '' or 'FOLDER/'.
        others: Takes what is left out although it might be missed.
    """
    if place.count("/") > DEEPEST:
        raise OSError(0, f"more than {DEEPEST} folders lie within each other", place)
    for name in sorted(os.listdir(source)):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if _is_left_out(name, top=not place):
            continue
        if stat.S_ISDIR(found.st_mode):
            with inside.folder(source, name) as below, inside.folder(target, name, make=True) as copy:
                _copy(below, copy, f"{place}{name}/", others)
        elif stat.S_ISREG(found.st_mode):
            inside.copy_file(source, target, name)
        else:
            others.append(place + name)


def _is_left_out(name: str, top: bool) -> bool:
    if top:
        return name in (LOCK, HEARTBEAT, REPORT) or name.endswith(".part")
    return name.startswith(".worker-")  # what a killed worker was printing
