"""Read and write files in a folder that may come from a stranger: follow no link, and use regular files only.

A folder is given by its path, `root`. The path is the user's, so it and its parents may be links (a scratch disk). The
names inside are not: each is opened from the descriptor of its folder. A file that is no regular file, or too large, is
an OSError whose `strerror` says so. This module imports nothing of evo-tune, and knows nothing of the files' content.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

# A path, or the descriptor of an open folder.
Root: TypeAlias = Path | str | int

# Maximum depth of folders; each level needs a descriptor.
DEEPEST = 60

LINK = "it is a link, and inside a run none is followed"

# Whether a warning was given that the file system cannot sync folders.
_unsynced = False


@contextlib.contextmanager
def folder(root: Root, *names: str, make: bool = False) -> Iterator[int]:
    """Yield the descriptor of a folder inside a root, or of the root itself.

    Args:
        root: Path or descriptor of the root, which may be a link.
        names: Names of the folders inside, from the top.
        make: Whether to make missing folders.

    Raises:
        OSError: A name is missing, a link, or no folder.
    """
    descriptor = os.dup(root) if isinstance(root, int) else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(_plain(name), dir_fd=descriptor)
            _refuse_link(descriptor, name)
            above = descriptor
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            os.close(above)
        yield descriptor
    finally:
        os.close(descriptor)


def _plain(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise OSError(errno.EINVAL, f"{name!r} is no plain name")
    return name


def _refuse_link(descriptor: int, name: str) -> os.stat_result:
    status = os.stat(_plain(name), dir_fd=descriptor, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, LINK)
    return status


def exists(root: Root, *names: str) -> bool:
    """Return whether the name exists; a link counts, wherever it points."""
    with contextlib.suppress(OSError), folder(root, *names[:-1]) as descriptor:
        os.stat(_plain(names[-1]), dir_fd=descriptor, follow_symlinks=False)
        return True
    return False


def _open(descriptor: int, name: str, flags: int) -> int:
    """Open a regular file without waiting; other kinds (a FIFO, a device) are not touched."""
    _require_file(_refuse_link(descriptor, name))
    file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        status = os.fstat(file)
        _require_file(status)
        if status.st_nlink > 1 and flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EMLINK, "it has a second name (a hard link), and writing would change that file too")
    except BaseException:
        os.close(file)
        raise
    return file


def _require_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL, "it is no regular file")


def open_to_read(root: Root, *names: str, limit: int) -> BinaryIO:
    """Open a regular file inside a root for reading.

    Args:
        root: See `folder`.
        names: Names of the folders inside, and of the file.
        limit: Maximum bytes.

    Raises:
        OSError: The file is missing, a link, no regular file, or too large.
    """
    with folder(root, *names[:-1]) as descriptor:
        file = _open(descriptor, names[-1], os.O_RDONLY)
    size = os.fstat(file).st_size
    if size > limit:
        os.close(file)
        raise OSError(errno.EFBIG, f"it has {size} bytes: expected at most {limit}")
    return os.fdopen(file, "rb")


def read(root: Root, *names: str, limit: int) -> bytes:
    """Return the content of a regular file inside a root; see `open_to_read`."""
    with open_to_read(root, *names, limit=limit) as file:
        data = file.read(limit + 1)  # it may have grown
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than the {limit} bytes expected at most")
    return data


def open_to_write(root: Root, *names: str, append: bool = False, make: bool = True) -> tuple[int, bool]:
    """Open a regular file inside a root for reading and writing without truncating it.

    Args:
        root: See `folder`.
        names: Names of the folders inside, and of the file.
        append: Whether each write goes to the end of the file.
        make: Whether to make a missing file.

    Returns:
        Its descriptor, and whether it is new.

    Raises:
        OSError: The file is missing, a link, no regular file, has a second name, or the disk refuses.
    """
    flags = os.O_RDWR | (os.O_APPEND if append else 0)
    with folder(root, *names[:-1]) as descriptor:
        if make:
            with contextlib.suppress(FileExistsError):
                return _new(descriptor, names[-1], flags), True
        return _open(descriptor, names[-1], flags), False


def _new(descriptor: int, name: str, flags: int = os.O_WRONLY, mode: int = 0o644) -> int:
    flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(_plain(name), flags, mode, dir_fd=descriptor)


def replace(root: Root, name: str, data: bytes, part: str, sync: bool = True, mode: int = 0o644) -> None:
    """Write a file inside a root under a temporary name, fsync it, rename it, and fsync its folder.

    Args:
        root: See `folder`.
        name: Name of the file.
        data: New content.
        part: Temporary name; a file of that name is removed.
        sync: Whether to wait for the disk.
        mode: Permissions of the file, before the user's mask.

    Raises:
        OSError: The disk refuses; the file is unchanged.
    """
    with folder(root) as descriptor:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_plain(part), dir_fd=descriptor)
        part_file = _new(descriptor, part, mode=mode)
        try:
            with os.fdopen(part_file, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(part, _plain(name), src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=descriptor)
            raise
        if sync:
            sync_folder(descriptor)


def move(root: Root, source: tuple[str, ...], target: tuple[str, ...]) -> None:
    """Rename a file inside a root, and make the folders of the new name.

    Raises:
        OSError: The file is missing, a folder is a link, or the disk refuses.
    """
    with folder(root, *source[:-1]) as source_folder, folder(root, *target[:-1], make=True) as target_folder:
        os.replace(_plain(source[-1]), _plain(target[-1]), src_dir_fd=source_folder, dst_dir_fd=target_folder)


def remove(root: Root, *names: str) -> None:
    """Remove a file, a link or a whole folder inside a root, if it exists.

    Raises:
        OSError: The disk refuses, or the folder is too deep; a part may be removed.
    """
    with contextlib.suppress(FileNotFoundError), folder(root, *names[:-1]) as descriptor:
        _remove(descriptor, _plain(names[-1]), 0)


def remove_all_but(root: Root, *names: str, files: tuple[str, ...]) -> None:
    """Empty a folder inside a root, except regular files of these names; see `remove`."""
    with contextlib.suppress(FileNotFoundError), folder(root, *names) as descriptor:
        for name in os.listdir(descriptor):
            if name not in files or not stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                _remove(descriptor, name, 0)


def _remove(descriptor: int, name: str, depth: int) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=descriptor)
        return
    if depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"more than {DEEPEST} folders are nested")
    with folder(descriptor, name) as subfolder:
        for entry in os.listdir(subfolder):
            _remove(subfolder, entry, depth + 1)
    os.rmdir(name, dir_fd=descriptor)


def copy_file(source: int, target: int, name: str) -> None:
    """Copy a regular file from one open folder to another; holes stay holes.

    Raises:
        OSError: The source is no regular file, the target exists, or the disk refuses.
    """
    with os.fdopen(_open(source, name, os.O_RDONLY), "rb") as old, os.fdopen(_new(target, name), "wb") as new:
        status, start = os.fstat(old.fileno()), 0
        while start < status.st_size:
            try:
                start = os.lseek(old.fileno(), start, os.SEEK_DATA)
                end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # the rest is a hole
                    break
                end = status.st_size  # the file system does not tell its holes
            new.seek(start)
            while start < end and (piece := os.pread(old.fileno(), min(1 << 20, end - start), start)):
                new.write(piece)
                start += len(piece)
            if start < end:  # the file became shorter meanwhile
                break
        new.flush()
        os.ftruncate(new.fileno(), status.st_size)
        os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def sync_folder(root: Root) -> None:
    """Sync the names in a folder to disk, which fsync of a file does not do.

    There is one warning if the file system cannot do it, as some network file systems.

    Raises:
        OSError: The disk refuses.
    """
    global _unsynced
    with folder(root) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
            if not _unsynced:
                _unsynced = True
                text = f"the file system cannot sync a folder ({error.strerror}): a power cut may lose the last files"
                warnings.warn(f"{text} of a run, and nothing else changes", stacklevel=3)


@contextlib.contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Yield a new path beside a file or folder, which gets its name at the end; after an error it is removed.

    So a killed process leaves nothing of that name that is not complete. A link is followed. What is neither a file nor
    an empty folder, such as /dev/stdout, keeps its own name.

    Args:
        path: The file, which may exist, or a folder that is missing or empty.

    Raises:
        OSError: The disk refuses.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def private_folder(folder: Path) -> Path:
    """Return this folder if it is the user's and nobody else can write to it, else a new temporary one.

    For files that are executed. The folder is made if it is missing.
    """
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))


def cache_folder() -> Path:
    """Return evo-tune's folder in the user's cache on this operating system; it may not exist yet.

    What is in it can be computed again at any time.

    `XDG_CACHE_HOME` moves it on Linux.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        xdg_home = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(xdg_home if os.path.isabs(xdg_home) else "~/.cache").expanduser()  # a relative one is invalid
    return base / "evo-tune"


def compiled_code_folder() -> Path:
    """Return the user's folder for code that torch compiles.

    By default, already its import makes one of a known name in the temporary folder, which another user may have made
    before, with code.
    """
    return private_folder(cache_folder() / "compiled")
