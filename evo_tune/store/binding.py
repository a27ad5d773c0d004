"""What this machine remembers of a run's results: the head of its journal and hashes of its files, outside of the run.

Each record of a journal has the hash of all records before. So the hash of the last one that this machine wrote, the
head, tells whether any of them has changed since. The head is remembered after writes that are safe on disk only, so a
journal that lost unsynced records in a power cut is never shorter than what is remembered of it. A journal may be
longer: a killed session leaves up to `INTERVAL` of records that are not remembered, and another machine may have
continued the run. This module does not know the meaning of the records.

A run is known by its identity, which its manifest has. So what is remembered of it in one folder counts in all others,
to which it was renamed, moved, copied or unpacked.
"""

import hashlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from evo_tune.store.journal import JOURNAL, Journal
from evo_tune.text import one_line
from evo_tune.trust import safe_files
from evo_tune.trust.decide import OF_RESULTS, hashes_of_runs, remember_run, run_hashes

# Seconds between two writes of the memory while results are recorded.
INTERVAL = 30.0

# Name of the remembered head of a journal, and the beginning of the names of remembered files.
HEAD, FILE = OF_RESULTS

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

    They have changed if the head that is remembered in the run's folder does not agree. If none is, one that agrees is
    enough among those remembered in other folders.

    Args:
        journal: Journal of a run.
        identity: Identity of the run.

    Returns:
        None if it remembers none of this run; `CHANGED` if they have changed.
    """
    own, *others = (entry.get(HEAD, "") for entry in _remembered(journal.path.parent, identity))
    if own and not _agrees(journal, own):
        return CHANGED
    heads = {own, *others} - {""}
    return max((_count(head) for head in heads if _agrees(journal, head)), default=CHANGED if heads else None)


def _remembered(folder: Path, identity: str) -> list[dict[str, str]]:
    """Return what is remembered of a run's results, by name: first in its folder, then in all others."""
    entries = hashes_of_runs(folder)[: None if identity else 1]  # those without an identity may be different runs
    owner = f" {identity}"
    return [
        {name: value.removesuffix(owner) for name, value in entry.items() if value.endswith(owner)} for entry in entries
    ]


def _count(head: str) -> int:
    """Return the number of records of a remembered head."""
    count = head.partition(" ")[0]
    return int(count) if count.isdecimal() else 0


def _agrees(journal: Journal, head: str) -> bool:
    """Return whether a journal begins with the records of a remembered head."""
    try:
        return head == f"{_count(head)} {journal.head_at(_count(head))}"
    except OSError:
        return False


def move_results(folder: Path, target: Path) -> None:
    """Remember of the results of a renamed run what is remembered of those in its former folder."""
    if results := {name: value for name, value in run_hashes(folder).items() if name.startswith(OF_RESULTS)}:
        remember_run(target, results)


def copied_results(original: Path, identity: str, copy_identity: str) -> dict[str, str]:
    """Return what to remember of the results of a copy: its files, and whether those of the original have changed.

    Args:
        original: Folder of the original, which another process may be continuing.
        identity: Identity of the original.
        copy_identity: Identity of the copy.
    """
    files = {name: f"{value} {copy_identity}" for name, value in _remembered(original, identity)[0].items()}
    is_changed = remembered_count(Journal(original / JOURNAL), identity) == CHANGED
    return {**files, HEAD: f"0 changed {copy_identity}" if is_changed else ""}


def remember_file(folder: Path, identity: str, name: str, data: bytes) -> None:
    """Remember the content of a file that was written into a run's folder, if this machine remembers the run."""
    if any(HEAD in entry for entry in _remembered(folder, identity)):
        remember_run(folder, {FILE + name: f"{hashlib.sha256(data).hexdigest()} {identity}"})


def changed_files(folder: Path, identity: str) -> Iterator[str]:
    """Yield the names of the remembered files in a run's folder that have changed since; removed ones are left out."""
    entries = _remembered(folder, identity)
    for key in {key for entry in entries for key in entry if key.startswith(FILE)}:
        name = key.removeprefix(FILE)
        if safe_files.exists(folder, name):
            try:
                data = safe_files.read(folder, name, limit=LARGEST)
            except OSError:
                data = b""
            if hashlib.sha256(data).hexdigest() not in {entry.get(key) for entry in entries}:
                yield name
