"""The paths outside of a run's folder that its values name, or to which links in its data lead.

Only names and kinds of files are looked at; no content is read. This module does not know which values of a run are
paths: a text is one if something of that name exists, or if it has a separator.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from evo_tune.text import is_writable

MOST = 100_000
"""Maximum number of files in which links are looked for."""

MOST_TEXTS = 10_000
"""Maximum number of texts that are looked at."""

SHOWN = 10
"""Maximum number of paths in a message."""


def paths_outside(texts: Iterable[str], folder: Path) -> list[str]:
    """Return the resolved paths outside of a folder that are read if texts are names of files, folders or patterns.

    A link counts if it leads out of the named folder, even to another place of the run, which is not searched. A file
    with a second name (a hard link) counts too, since its other name may be anywhere. If there are too many texts or
    files, the last entry says so.
    """
    root, distinct = os.path.realpath(folder), sorted(set(texts))
    tops = {os.path.realpath(place) for place in map(_place, distinct[:MOST_TEXTS]) if place}
    found = {top for top in tops if not _is_within(top, root)}.union(_ways_out(tops))
    if len(distinct) > MOST_TEXTS:
        found.add(f"~ more than {MOST_TEXTS} texts, not all of which were looked at")
    return sorted(found)


def in_words(paths: list[str]) -> str:
    """Return paths for a message."""
    more = f" and {len(paths) - SHOWN} more paths" if len(paths) > SHOWN else ""
    return ", ".join(map(repr, paths[:SHOWN])) + more


def _place(text: str) -> str:
    """Return the file or folder that a text names; of a pattern, the folder above its first wildcard; '' for none."""
    path = os.path.expanduser(text)
    if "\0" in path or not is_writable(path):  # no file has such a name
        return ""
    if os.path.lexists(path):
        return path
    if os.sep not in path:
        return os.curdir if glob.has_magic(path) and glob.glob(path) else ""
    while glob.has_magic(path):
        path = os.path.dirname(path)
    return path or os.curdir


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _ways_out(tops: Iterable[str]) -> Iterator[str]:
    """Yield the targets of links below resolved paths that lead out of these, and the files that have a second name."""
    waiting, seen = [(top, top) for top in tops], 0
    while waiting:
        here, top = waiting.pop()
        seen += 1
        if seen > MOST:
            yield f"~ more than {MOST} files, not all of which were looked at"
            return
        try:
            if os.path.islink(here):
                target = os.path.realpath(here)
                if not _is_within(target, top):
                    yield target
            elif os.path.isdir(here):
                waiting += [(os.path.join(here, name), top) for name in os.listdir(here)]
            elif os.lstat(here).st_nlink > 1:
                yield here
        except OSError:  # it cannot be read, so nothing is read
            continue
