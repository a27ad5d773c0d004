"""Runs as single files: a ZIP archive of a run's folder without what its trainings left, to send to somebody else.

An archive may come from a stranger. Its names are taken apart and written without following links, only regular files
are made, and their number, depth and size are bounded.
"""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from evo_tune.errors import StoreError, UsageError, explain_error
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run_folders import HEARTBEAT, REPORT, TRIALS, complete_run_folder
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Most files in an archive, and most folders that are nested.
MOST_FILES, DEEPEST = 100_000, 8

# Maximum size of all unpacked files: this many bytes, or the size of the archive times this ratio if that is more.
LARGEST, LARGEST_RATIO = 1 << 26, 100


def pack_run(folder: Path, file: Path) -> int:
    """Write a run to a ZIP archive, without the folders of its trials (checkpoints, logs) and without its report.

    Args:
        folder: Folder of the run, which may be in progress: the archive has what is recorded now.
        file: File to write.

    Returns:
        Size of the file in bytes.

    Raises:
        UsageError: The file exists.
        StoreError: It cannot be written, or the run cannot be read.
    """
    if os.path.lexists(file):
        raise UsageError(f"{file} exists: choose another name with -o")
    with (
        explain_error(StoreError, f"cannot pack {folder} into {file}"),
        safe_files.complete_or_absent(file) as part,
        open(part, "xb") as raw,
        zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for names in _names_of_files(folder):
            with (
                safe_files.open_to_read(folder, *names, limit=1 << 40) as source,
                archive.open("/".join(names), "w", force_zip64=True) as target,
            ):
                shutil.copyfileobj(source, target)
    return file.stat().st_size


def _names_of_files(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the files of a run that an archive has, each as its folders and its name; links are left out."""
    folders: list[tuple[str, ...]] = [()]
    for above in folders:
        with safe_files.folder(folder, *above) as descriptor:
            entries = sorted(os.listdir(descriptor))
            modes = {name: os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode for name in entries}
        for name, mode in modes.items():
            if name.startswith(".") or name.endswith(".part") or name in (TRIALS, HEARTBEAT, REPORT):
                continue
            if stat.S_ISDIR(mode) and len(above) < DEEPEST:
                folders.append((*above, name))
            elif stat.S_ISREG(mode):
                yield (*above, name)


def unpack_run(file: Path, store: Path, name: str) -> Path:
    """Unpack the archive of a run, and return the folder of the run.

    Args:
        file: Archive from `pack_run`.
        store: Folder of the saved runs.
        name: Name of the run there.

    Raises:
        UsageError: The name is taken or not valid.
        StoreError: The file is no archive of a run, or it cannot be written.
    """
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no regular file")  # a device may have no end
        with (
            complete_run_folder(store, name) as part,
            zipfile.ZipFile(file) as archive,
            safe_files.folder(part) as folder,
        ):
            _check_entries(archive, max(LARGEST, LARGEST_RATIO * file.stat().st_size))
            for entry in archive.infolist():
                _unpack_entry(archive, entry, folder)
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        expected = "expected a file that `evo-tune pack` wrote"
        raise StoreError(f"cannot unpack {file} to {store / name}: {one_line(str(cause), 200)}; {expected}") from None
    return store / name


def _check_entries(archive: zipfile.ZipFile, limit: int) -> None:
    """Refuse an archive that is no run, or whose files are too many, or have more bytes than a limit.

    Raises:
        ValueError: It is refused.
    """
    entries = archive.infolist()
    if MANIFEST not in archive.namelist():
        raise ValueError(f"it has no {MANIFEST}")
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > limit:
        raise ValueError(f"it has more than {MOST_FILES} files, or they have more than {limit} bytes")


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: int) -> None:
    """Write an entry as a new file in an open folder; zipfile reads no more than the size that the archive states."""
    *above, name = names = entry.filename.split("/")
    if len(names) > DEEPEST + 1 or any(part.startswith(".") or not part for part in names) or TRIALS in names:
        raise ValueError(f"{entry.filename!r} is no file of a run")
    with safe_files.folder(folder, *above, make=True) as place:
        descriptor, is_new = safe_files.open_to_write(place, name)
        with os.fdopen(descriptor, "wb") as target, archive.open(entry) as source:
            if not is_new:
                raise ValueError(f"it has {entry.filename!r} twice")
            shutil.copyfileobj(source, target)
