"""Files that survive a crash at any byte: an append-only journal, and atomic writes.

Each line of the journal ends with its checksum, so damage differs from an unfinished line. Before it is the SHA-256 of
all lines before, so a changed, removed or moved line is found by the next one. This module does not know the meaning of
the events.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from evo_tune.errors import StoreError
from evo_tune.text import one_line
from evo_tune.trust import safe_files

E = TypeVar("E")

JOURNAL = "_journal.jsonl"

# Maximum size of a journal in bytes, about ten million trials, because it may come from a stranger.
LARGEST = 1 << 33

# Maximum length of a line in bytes, a curve of 250,000 points; it bounds the memory for a stranger's file.
LONGEST = 1 << 24

_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}')

# Length in bytes of a line's checksum, with its key and the brace that ends the line.
SEAL = len(',"crc32":"01234567"}')

# Beginning of a line's SHA-256 of all lines before, and its length in bytes with its key and a brace.
_LINK = b',"sha256_before":"'
LINK = len(_LINK) + 64 + len('"}')


class Removed(StoreError):
    """Another program removed or replaced the journal while the run wrote it; the open file still has all events."""


def seal_line(event: bytes, sha256_before: str = "") -> bytes:
    """Return the line of an event: the same JSON object with its checksum as the last key.

    The checksum is the CRC-32 of all bytes before it, so it is checked without parsing.

    Args:
        event: A JSON object with at least one key, without line end.
        sha256_before: SHA-256 of all lines before; '' for a line as version 1.0 wrote it.
    """
    body = event[:-1] + (b'%b%b"' % (_LINK, sha256_before.encode()) if sha256_before else b"")
    return b'%b,"crc32":"%08x"}' % (body, zlib.crc32(body))


def unseal_line(line: bytes) -> bytes | None:
    """Return the event of a line without line end; None if its checksum is missing or does not match."""
    body = line[:-SEAL]
    return body + b"}" if line[-SEAL:] == b',"crc32":"%08x"}' % zlib.crc32(body) else None


def split_link(event: bytes) -> tuple[bytes, str]:
    """Return an event of `unseal_line` without the SHA-256 of all lines before, and that; '' if it has none."""
    if not event.startswith(_LINK, max(0, len(event) - LINK)) or not event.endswith(b'"}'):
        return event, ""
    return event[:-LINK] + b"}", event[len(_LINK) - LINK : -2].decode("ascii", "replace")


def _contains_event(tail: bytes) -> bool:
    """Return whether a whole event is in an unfinished line: then its line end is damaged, and it is not torn."""
    checksum, position = 0, 0
    for seal in _SEAL.finditer(tail):
        checksum, position = zlib.crc32(tail[position : seal.start()], checksum), seal.start()
        if b"%08x" % checksum == seal[1]:
            return True
    return False


class Journal:
    """An append-only file of JSON lines with checksums that survives a crash at any byte.

    One process at a time writes it: the lock is on the file itself, so it cannot be lost with another file.

    Args:
        path: Path of the file, which is created on the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._forget_lines()

    def _forget_lines(self) -> None:
        # Size in bytes of the whole events.
        self._end = 0
        # Size in bytes of the unfinished line after them.
        self._torn = 0
        # Whether the last event lacks its line end.
        self._unended = False
        # SHA-256 of all lines.
        self._lines_hash = hashlib.sha256()
        # Number of lines.
        self.count = 0
        # Number of the first line with the SHA-256 of all lines before; None without one, as version 1.0 wrote them.
        self.first_linked: int | None = None
        # Number of the first line whose SHA-256 is not that of the lines before, or is missing; None if all agree.
        self.first_broken: int | None = None

    @property
    def head(self) -> str:
        """SHA-256 of all lines."""
        return self._lines_hash.hexdigest()

    def _note_link(self, sha256_before: str) -> None:
        """Compare the SHA-256 in the next line with that of the lines before it."""
        number = self.count + 1
        if sha256_before and self.first_linked is None:
            self.first_linked = number
        if self.first_broken is None and sha256_before != (self.head if self.first_linked else ""):
            self.first_broken = number

    def read(self, parse: Callable[[bytes], E]) -> Iterator[E]:
        """Yield every complete event.

        A torn tail (an unfinished line of a killed process) is left out; `append` cuts it off.

        Args:
            parse: Returns the event of a line without its checksum. It raises ValueError for one that it cannot
                understand.

        Raises:
            StoreError: A line is damaged or not understood, or the file cannot be read.
        """
        self._forget_lines()
        try:
            with safe_files.open_to_read(self.path.parent, self.path.name, limit=LARGEST) as file:
                for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                    keep = f", or keep the {number - 1} lines before it (head -n {number - 1})" if number > 1 else ""
                    if len(line) > LONGEST:
                        problem = f"line {number} is longer than {LONGEST >> 20} MiB"
                        raise StoreError(f"{self.path}: {problem}: restore the file from a copy{keep}; then resume")
                    is_ended = line.endswith(b"\n")
                    event = unseal_line(line[:-1] if is_ended else line)
                    if event is not None:
                        self._end += len(line)
                        self._unended = not is_ended
                        event, sha256_before = split_link(event)
                        self._note_link(sha256_before)
                        self._lines_hash.update(line)
                        self.count = number
                        try:
                            parsed_event = parse(event)
                        except ValueError as error:
                            raise StoreError(invalid_line_message(self.path, number, error)) from None
                        yield parsed_event
                    elif is_ended or _contains_event(line):
                        problem = f"{self.path}: line {number} is damaged (its checksum does not match)"
                        remedy = f"restore the file from a copy, remove the line if another program wrote it{keep}"
                        raise StoreError(f"{problem}: {remedy}; then resume")
                    else:
                        self._torn = len(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from None

    def head_at(self, count: int) -> str:
        """Return the SHA-256 of the first lines of the file; '' if it has fewer.

        Args:
            count: Number of lines (int ≥ 0).

        Raises:
            OSError: The file cannot be read.
        """
        lines_hash = hashlib.sha256()
        with safe_files.open_to_read(self.path.parent, self.path.name, limit=LARGEST) as file:
            for _ in range(count):
                line = file.readline(LONGEST + 1)
                if not line:
                    return ""
                lines_hash.update(line)
        return lines_hash.hexdigest()

    @property
    def is_claimed(self) -> bool:
        """Whether this object may write the file."""
        return self._file is not None

    def claim(self, make: bool = False) -> None:
        """Open and lock the file, so that no other process writes it until `close` or the end of this process.

        Args:
            make: Whether to make a missing file.

        Raises:
            BlockingIOError: Another process has claimed it.
            OSError: The file is missing or not a regular file, it cannot be opened, or its file system has no locks.
        """
        file, is_new = safe_files.open_to_write(self.path.parent, self.path.name, append=True, make=make)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError as error:
                raise OSError(error.errno, f"its file system cannot lock files (flock: {error.strerror})") from None
            if not os.path.samestat(os.fstat(file), os.lstat(self.path)):  # replaced before it was locked
                raise BlockingIOError(errno.EAGAIN, "another process replaces it")
            if is_new:
                safe_files.sync_folder(self.path.parent)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def append(self, events: Iterable[bytes], sync: bool) -> None:
        """Append events.

        Args:
            events: Events as JSON objects, without line ends.
            sync: Whether to return only when they are safe on disk.

        Raises:
            StoreError: The events cannot be written, or another program has changed, replaced or removed the file;
                earlier events stay as they are.
        """
        lines_hash, count, data = self._lines_hash.copy(), self.count, b"\n" * self._unended
        lines_hash.update(data)
        for event in events:
            line = seal_line(event, lines_hash.hexdigest()) + b"\n"
            lines_hash.update(line)
            data += line
            count += 1
        try:
            if self._file is None:
                self.claim(make=True)
            assert self._file is not None
            self._require_size(self._end + self._torn)
            if self._torn:
                os.ftruncate(self._file, self._end)
                text = f"{self.path}: cut off a torn tail of {self._torn} bytes; it held no whole result"
                self._torn = 0
                warnings.warn(text, stacklevel=3)
            if self._end + len(data) > LARGEST:
                raise OSError(errno.EFBIG, f"it would be larger than {LARGEST >> 30} GiB")
            _write(self._file, data)
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self._undo_append(data)
            raise _write_error(self.path, error) from error
        self._require_size(self._end + len(data))  # another program may have written since the first check
        self._end += len(data)
        self._unended = False
        self._lines_hash, self.count, self.first_linked = lines_hash, count, self.first_linked or self.count + 1

    def _require_size(self, size: int) -> None:
        """Require that the claimed file is the one at the path, has no other name, and is as this object left it.

        Args:
            size: Expected size in bytes.

        Raises:
            StoreError: Another program has changed, replaced or removed it.
        """
        assert self._file is not None
        status = os.fstat(self._file)
        try:
            is_there = os.path.samestat(status, os.lstat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            raise Removed(f"{self.path} was removed while the run wrote it") from None
        if not is_there:
            raise Removed(f"{self.path} was replaced by another file while the run wrote it")
        if status.st_nlink > 1:
            raise StoreError(f"{self.path} has a second name (a hard link) now: remove that, then `evo-tune resume`")
        if status.st_size != size:
            problem = f"it has {status.st_size} bytes, expected {size}"
            remedy = "stop that program, then `evo-tune resume`, which names the damaged line"
            raise StoreError(f"{self.path} was changed by another program while the run wrote it: {problem}; {remedy}")

    def _undo_append(self, data: bytes) -> None:
        """Remove the written part of these lines; if that fails too, the next append cuts it off."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            written = os.fstat(self._file).st_size - self._end
            if 0 < written <= len(data) and os.pread(self._file, written, self._end) == data[:written]:
                self._torn = written
                os.ftruncate(self._file, self._end)
                self._torn = 0

    def rescue(self, path: Path, events: Iterable[bytes]) -> None:
        """Write the events of a claimed file that was removed, and further ones, to another path.

        Raises:
            OSError: The disk refuses.
            StoreError: The disk refuses.
        """
        assert self._file is not None
        new_journal = Journal(path)
        try:
            new_journal.claim(make=True)
            assert new_journal._file is not None
            for position in range(0, self._end, 1 << 20):
                _write(new_journal._file, os.pread(self._file, min(1 << 20, self._end - position), position))
            new_journal._end, new_journal._unended, new_journal._lines_hash = self._end, self._unended, self._lines_hash
            new_journal.append(events, sync=True)
        finally:
            new_journal.close()

    def close(self) -> None:
        """Close the file, which ends the claim; idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _write(file: int, data: bytes) -> None:
    """Write all data; the error of a short write is that of the next one: no space, or a limit of the file's size."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]


def _write_error(path: Path, error: OSError) -> StoreError:
    # A missing folder may have had all results.
    reassurance = "" if error.errno == errno.ENOENT else ": nothing is lost"
    return StoreError(f"cannot write {path}: {error.strerror}; mend that, then `evo-tune resume`{reassurance}")


def invalid_line_message(path: Path, number: int, error: Exception) -> str:
    """Return the error message for a complete line that cannot be understood."""
    cause = one_line(str(error))
    return f"{path}: line {number} is not understood ({cause}); restore the file from a copy, or update evo-tune"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, fsync it, rename it, and fsync its folder.

    Raises:
        StoreError: The file cannot be written; it is unchanged.
    """
    # Readers of a run's folder skip names with an underscore.
    try:
        safe_files.replace(path.parent, path.name, data, part=f"_{path.name.lstrip('_')}.part")
    except OSError as error:
        raise _write_error(path, error) from error
