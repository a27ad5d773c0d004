"""Copy a run, so that the copy can go on by itself.

Knows only which files of a run are not part of what is saved.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import msgspec

from evo_tune.errors import StoreError, UsageError
from evo_tune.store.heartbeat import HEARTBEAT
from evo_tune.store.manifest import read_manifest, write_manifest
from evo_tune.store.places import LOCK, clear_stillborn, free_folder

__all__ = ["copy_run"]


def copy_run(folder: Path, store: Path, name: str) -> Path:
    """Copy a run, whole or not at all, so that the copy can go on by itself; return the copy's folder.

    The copy gets an identity of its own: it is another run.

    Raises:
        UsageError: The name is taken or is no plain name.
        StoreError: The disk refuses, or the manifest is damaged.
    """
    target = free_folder(store, name)
    temporary = target.with_name(f".{name}.part")
    manifest = msgspec.structs.replace(read_manifest(folder), identity=uuid.uuid4().hex)

    def left_out(inside: str, names: list[str]) -> list[str]:
        if Path(inside) == folder:
            return [name for name in names if name in (LOCK, HEARTBEAT) or name.endswith(".part")]
        return [name for name in names if name.startswith(".worker-")]  # what a killed worker was printing

    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary, ignore=left_out)
        write_manifest(temporary, manifest)
        clear_stillborn(free_folder(store, name))
        os.replace(temporary, target)  # refuses a folder that has become somebody else's meanwhile
    except (OSError, shutil.Error, StoreError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            raise UsageError(f"{target} exists: choose another name for the copy") from None
        raise StoreError(f"cannot copy {folder} to {target}: {error}") from error
    return target
