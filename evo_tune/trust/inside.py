"""Files inside a folder that may come from a stranger: no link is followed, only regular files are read and written.

A folder is given by its path, `root`, which is the user's: it and what is above it may be links (a scratch disk). The
names inside it are not, so each is opened from the descriptor of the folder that holds it. What is no plain file, or
larger than expected, is an OSError whose `strerror` says so. This module imports nothing of evo-tune, and knows
nothing of what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

__all__ = [
    "DEEPEST",
    "copy_file",
    "exists",
    "folder",
    "is_link",
    "move",
    "open_to_read",
    "open_to_write",
    "read",
    "remove",
    "remove_all_but",
    "replace",
    "sync_folder",
]

Root: TypeAlias = Path | str | int
"""A path, or the descriptor of an open folder."""

DEEPEST = 60
"""Folders within folders that are gone down to: each costs a descriptor."""

LINK = "it is a link, and inside a run none is followed"

_unsynced = False
"""Whether it was said that a file system cannot sync its folders."""


@contextlib.contextmanager
def folder(root: Root, *names: str, make: bool = False) -> Iterator[int]:
    """The descriptor of a folder inside a root, or of the root itself.

    Args:
        root: Where to begin; it may be a link.
        names: The folders inside it, from the top.
        make: Make those that are missing.

    Raises:
        OSError: One is missing, a link, or no folder.
    """
    here = os.dup(root) if isinstance(root, int) else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(_plain(name), dir_fd=here)
            here, above = _open_folder(here, name), here
            os.close(above)
        yield here
    finally:
        os.close(here)


def _open_folder(at: int, name: str) -> int:
    _refuse_link(at, name)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)


def _plain(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise OSError(errno.EINVAL, f"{name!r} is no plain name")
    return name


def _refuse_link(at: int, name: str) -> os.stat_result:
    found = os.stat(_plain(name), dir_fd=at, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, LINK)
    return found


def is_link(root: Root, *names: str) -> bool:
    """Whether the last of the names is a link, or one before it.

    Raises:
        OSError: There is no such file or folder, or it cannot be looked at.
    """
    try:
        with folder(root, *names[:-1]) as at:
            _refuse_link(at, names[-1])
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return False


def exists(root: Root, *names: str) -> bool:
    """Whether there is anything of that name: a link counts, wherever it leads."""
    try:
        with folder(root, *names[:-1]) as at:
            os.stat(_plain(names[-1]), dir_fd=at, follow_symlinks=False)
    except OSError:
        return False
    return True


def _open(at: int, name: str, flags: int) -> int:
    """Open what is there, a regular file, without waiting; what is none (a FIFO, a device) is not even touched."""
    _require_file(_refuse_link(at, name))
    file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    try:
        found = os.fstat(file)
        _require_file(found)
        if found.st_nlink > 1 and flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EMLINK, "it has a second name (a hard link), and writing would change that file too")
    except BaseException:
        os.close(file)
        raise
    return file


def _require_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL, "it is no regular file")


def open_to_read(root: Root, *names: str, limit: int) -> BinaryIO:
    """Open a regular file inside a root.

    Args:
        root: See `folder`.
        names: The folders inside it, and the file.
        limit: Most bytes that it may have.

    Raises:
        OSError: It is missing, a link, no regular file, or larger.
    """
    with folder(root, *names[:-1]) as at:
        file = _open(at, names[-1], os.O_RDONLY)
    size = os.fstat(file).st_size
    if size > limit:
        os.close(file)
        raise OSError(errno.EFBIG, f"it has {size} bytes: expected at most {limit}")
    return os.fdopen(file, "rb")


def read(root: Root, *names: str, limit: int) -> bytes:
    """Return what a regular file inside a root holds; see `open_to_read`."""
    with open_to_read(root, *names, limit=limit) as file:
        data = file.read(limit + 1)  # it may have grown
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than the {limit} bytes expected at most")
    return data


def open_to_write(root: Root, *names: str, append: bool = False) -> tuple[int, bool]:
    """Open a regular file inside a root for writing, as it is; one that is missing is made.

    Returns:
        Its descriptor, and whether it is new.

    Raises:
        OSError: It is a link, no regular file, has a second name, or the disk refuses.
    """
    flags = os.O_RDWR | (os.O_APPEND if append else 0)
    with folder(root, *names[:-1]) as at:
        with contextlib.suppress(FileExistsError):
            return _new(at, names[-1], flags), True
        return _open(at, names[-1], flags), False


def _new(at: int, name: str, flags: int = os.O_WRONLY) -> int:
    return os.open(_plain(name), flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=at)


def replace(root: Root, name: str, data: bytes, part: str, sync: bool = True) -> None:
    """Write a file inside a root under a temporary name, fsync it, rename it, and fsync its folder.

    Args:
        root: See `folder`.
        name: The file.
        data: What it is to hold.
        part: The temporary name; what had it is removed.
        sync: Whether to wait for the disk.

    Raises:
        OSError: The disk refuses; the file is as it was before.
    """
    with folder(root) as at:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_plain(part), dir_fd=at)
        made = _new(at, part)
        try:
            with os.fdopen(made, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(part, _plain(name), src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=at)
            raise
        if sync:
            sync_folder(at)


def move(root: Root, source: tuple[str, ...], target: tuple[str, ...]) -> None:
    """Rename a file inside a root, making the folders that it goes into.

    Raises:
        OSError: It is missing, a folder on the way is a link, or the disk refuses.
    """
    with folder(root, *source[:-1]) as here, folder(root, *target[:-1], make=True) as there:
        os.replace(_plain(source[-1]), _plain(target[-1]), src_dir_fd=here, dst_dir_fd=there)


def remove(root: Root, *names: str) -> None:
    """Remove a file, a link or a whole folder inside a root; what is missing is removed already.

    Raises:
        OSError: The disk refuses, or it is too deep; then a part may be gone.
    """
    with contextlib.suppress(FileNotFoundError), folder(root, *names[:-1]) as at:
        _remove(at, _plain(names[-1]), 0)


def remove_all_but(root: Root, *names: str, files: tuple[str, ...]) -> None:
    """Empty a folder inside a root, but for files of these names; see `remove`."""
    with contextlib.suppress(FileNotFoundError), folder(root, *names) as at:
        for name in os.listdir(at):
            if name not in files or stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                _remove(at, name, 0)


def _remove(at: int, name: str, depth: int) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=at)
        return
    if depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"more than {DEEPEST} folders lie within each other")
    with folder(at, name) as here:
        for entry in os.listdir(here):
            _remove(here, entry, depth + 1)
    os.rmdir(name, dir_fd=at)


def copy_file(source: int, target: int, name: str) -> None:
    """Copy a regular file from one open folder into another, where it is new; its holes stay holes.

    Raises:
        OSError: It is none, it is there already, or the disk refuses.
    """
    with os.fdopen(_open(source, name, os.O_RDONLY), "rb") as old, os.fdopen(_new(target, name), "wb") as new:
        found = os.fstat(old.fileno())
        for start, end in _written(old.fileno(), found.st_size):
            old.seek(start)
            new.seek(start)
            while start < end and (piece := old.read(min(1 << 20, end - start))):
                new.write(piece)
                start += len(piece)
        new.flush()
        os.ftruncate(new.fileno(), found.st_size)
        os.utime(new.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))


def _written(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the parts of a file begin and end that are no holes; all of it where nobody can tell."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            yield end, size
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def sync_folder(root: Root) -> None:
    """Make the names in a folder safe on disk: a file's own fsync does not.

    A file system that has no such thing (some of networks) costs one warning.

    Raises:
        OSError: The disk refuses.
    """
    global _unsynced
    with folder(root) as at:
        try:
            os.fsync(at)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
            if not _unsynced:
                _unsynced = True
                text = f"the file system cannot sync a folder ({error.strerror}): a power cut may lose the last files"
                warnings.warn(f"{text} of a run, and nothing else changes", stacklevel=3)
