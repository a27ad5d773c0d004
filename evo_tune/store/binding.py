"""What this machine remembers of a run's results: the head of its journal and hashes of its files, outside of the run.

Each record of a journal has the hash of all records before. So the hash of the last one that this machine wrote, the
head, tells whether any of them has changed since. The head is remembered after writes that are safe on disk only, so a
journal that lost unsynced records in a power cut is never shorter than what is remembered of it. A journal may be
longer: a killed session leaves up to `INTERVAL` of records that are not remembered, and another machine may have
continued the run. This module does not know the meaning of the records.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from evo_tune.store.journal import JOURNAL, Journal
from evo_tune.text import one_line
from evo_tune.trust import safe_files
from evo_tune.trust.decide import remember_run, run_hashes

# Seconds between two writes of the memory while results are recorded.
INTERVAL = 30.0

# Name of the remembered head of a journal, and the beginning of the names of remembered files.
HEAD, FILE = "journal", "file "

# Returned for a journal that has changed.
CHANGED = -1

# Maximum size in bytes of a file to hash.
LARGEST = 1 << 27


class HeadMemory:
    """Remembers the head of the journal that this process writes.

    A head is only replaced by one that follows it. So a journal that was changed stays a changed one, also after it was
    continued.

    Args:
        journal: Journal of a run.
        identity: Identity of the run: another run may have been in its folder before.
    """

    def __init__(self, journal: Journal, identity: str) -> None:
        self._journal = journal
        self._identity = identity
        # Whether the head is remembered in this session; None before its first record.
        self._is_active: bool | None = None
        self._next_time = 0.0

    def update(self, at_once: bool) -> None:
        """Remember the head, after a write that is safe on disk.

        Args:
            at_once: Whether to do so although the last time was less than `INTERVAL` ago.
        """
        if self._is_active is False or (time.monotonic() < self._next_time and not at_once):
            return
        journal = self._journal
        if self._is_active is None and remembered_count(journal, self._identity) == CHANGED:
            text = one_line(f"{journal.path} is not as this machine left it: see `evo-tune verify`")
            warnings.warn(text, stacklevel=2)
            self._is_active = False
            return
        head = f"{journal.count} {journal.head} {self._identity}"
        self._is_active = remember_run(journal.path.parent, {HEAD: head})
        self._next_time = time.monotonic() + INTERVAL


def remembered_count(journal: Journal, identity: str) -> int | None:
    """Return the number of first records of a journal that this machine remembers, if they are unchanged.

    Args:
        journal: Journal of a run.
        identity: Identity of the run.

    Returns:
        None if it remembers none of this run; `CHANGED` if they have changed.
    """
    count, _, head = run_hashes(journal.path.parent).get(HEAD, "").partition(" ")
    head, _, owner = head.partition(" ")
    if not count.isdecimal() or owner != identity:
        return None
    try:
        return int(count) if journal.head_at(int(count)) == head else CHANGED
    except OSError:
        return CHANGED


def copied_head(original: Path, identity: str, copy_identity: str) -> dict[str, str]:
    """Return what to remember of the journal of a copy: that it has changed, if that of the original has.

    Args:
        original: Folder of the original, which another process may be continuing.
        identity: Identity of the original.
        copy_identity: Identity of the copy.
    """
    is_changed = remembered_count(Journal(original / JOURNAL), identity) == CHANGED
    return {HEAD: f"0 changed {copy_identity}" if is_changed else ""}


def remember_file(folder: Path, name: str, data: bytes) -> None:
    """Remember the content of a file that was written into a run's folder, if this machine remembers the run."""
    if HEAD in run_hashes(folder):
        remember_run(folder, {FILE + name: hashlib.sha256(data).hexdigest()})


def changed_files(folder: Path) -> Iterator[str]:
    """Yield the names of the remembered files in a run's folder that have changed since; removed ones are left out."""
    for key, remembered_hash in run_hashes(folder).items():
        name = key.removeprefix(FILE)
        if name != key and safe_files.exists(folder, name):
            try:
                data = safe_files.read(folder, name, limit=LARGEST)
            except OSError:
                data = b""
            if hashlib.sha256(data).hexdigest() != remembered_hash:
                yield name
