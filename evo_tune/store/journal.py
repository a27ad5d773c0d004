"""Files that survive a crash at any byte: an append-only journal, and atomic writes.

This module does not know the meaning of the events.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from evo_tune.errors import StoreError
from evo_tune.text import one_line
from evo_tune.trust import inside

E = TypeVar("E")

JOURNAL = "_journal.jsonl"

LARGEST = 1 << 33
"""Maximum size of a journal in bytes, about ten million trials, because it may come from a stranger."""

LONGEST = 1 << 24
"""Maximum length of a line in bytes, a curve of 250,000 points; it bounds the memory for a stranger's file."""


class Journal:
    """An append-only file of JSON lines that survives a crash at any byte.

    Args:
        path: Path of the file, which is created on the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._end = 0
        self._torn = False
        """Whether the last line that was read is not an event."""

    def read(self, parse: Callable[[bytes], E | None]) -> Iterator[E]:
        """Yield every complete event.

        A torn tail (an unfinished line of a killed process) is left out; `append` cuts it off.

        Args:
            parse: Returns the event of a line, or None for a damaged one. It raises ValueError for a complete line
                that it cannot understand, because such a line must not be cut off.

        Raises:
            StoreError: A line before the last is damaged, a line is not understood, or the file cannot be read.
        """
        self._end = 0
        for number, line in enumerate(self._lines(), 1):
            if self._torn:
                before = number - 2
                raise StoreError(
                    f"{self.path}: line {number - 1} is damaged, and it is not the last: restore the file from a "
                    f"copy, or keep the {before} lines before it (head -n {before}) and resume"
                )
            event = self._parsed(line, number, parse)
            if event is None:
                self._torn = True
            else:
                self._end += len(line)
                yield event

    def _lines(self) -> Iterator[bytes]:
        """Yield the unchanged lines of the file, with their line ends."""
        self._torn = False
        number = 1
        try:
            with inside.open_to_read(self.path.parent, self.path.name, limit=LARGEST) as file:
                while line := file.readline(LONGEST + 1):
                    if len(line) > LONGEST:
                        raise StoreError(
                            f"{self.path}: line {number} is longer than {LONGEST >> 20} MiB: restore the file from a "
                            f"copy, or keep the {number - 1} lines before it (head -n {number - 1}) and resume"
                        )
                    yield line
                    number += 1
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from None

    @property
    def is_empty(self) -> bool:
        """Whether no complete event was read or written."""
        return self._end == 0

    def _parsed(self, line: bytes, number: int, parse: Callable[[bytes], E | None]) -> E | None:
        try:
            return parse(line) if line.endswith(b"\n") else None
        except ValueError as error:
            raise StoreError(not_understood(self.path, number, error)) from None

    def append(self, lines: Iterable[bytes], sync: bool) -> None:
        """Append events in a single write.

        Args:
            lines: Lines of the events, without line ends.
            sync: Whether to return only when they are safe on disk.

        Raises:
            StoreError: The events cannot be written; earlier events stay readable.
        """
        data = b"".join(line + b"\n" for line in lines)
        try:
            if self._file is None:
                self._file = self._open()
            if self._end + len(data) > LARGEST:
                raise OSError(errno.EFBIG, f"it would be larger than {LARGEST >> 30} GiB")
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self._retreat()
            raise _refused(self.path, error) from error
        self._end += len(data)

    def _open(self) -> int:
        file, is_new = inside.open_to_write(self.path.parent, self.path.name, append=True)
        torn = os.fstat(file).st_size - self._end
        if torn > 0:
            os.ftruncate(file, self._end)
            warnings.warn(f"{self.path}: cut off a torn tail of {torn} bytes; it held no whole result", stacklevel=4)
        if is_new:
            inside.sync_folder(self.path.parent)
        return file

    def _retreat(self) -> None:
        """Remove partially written events; if that fails too, the next append cuts them off."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            self.close()

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error.strerror}; mend that, then `evo-tune resume`: nothing is lost")


def not_understood(path: Path, number: int, error: Exception) -> str:
    """Return the error message for a complete line that cannot be understood."""
    what = one_line(str(error))
    return f"{path}: line {number} is not understood ({what}); restore the file from a copy, or update evo-tune"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, fsync it, rename it, and fsync its folder.

    Raises:
        StoreError: The file cannot be written; it is unchanged.
    """
    # Readers of a run's folder skip names with an underscore.
    try:
        inside.replace(path.parent, path.name, data, part=f"_{path.name.lstrip('_')}.part")
    except OSError as error:
        raise _refused(path, error) from error


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Suspend garbage collection, because a long journal makes hundreds of thousands of objects that stay alive.

    To scan them repeatedly takes an eighth of the time to open a run of 10,000 trials.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
