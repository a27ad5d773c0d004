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
"""Maximum number of files below a path in which links are looked for."""

SHOWN = 10
"""Maximum number of paths in a message."""


def paths_outside(texts: Iterable[str], folder: Path) -> list[str]:
    """Return the resolved paths outside of a folder that are read if texts are names of files, folders or patterns.

    A link counts if it leads out of the named folder, even to another place of the run, which is not searched. A file
    with a second name (a hard link) counts too, since its other name may be anywhere.
    """
    root, found = os.path.realpath(folder), set()
    for place in filter(None, map(_place, texts)):
        real = os.path.realpath(place)
        if not _is_within(real, root):
            found.add(real)
        found.update(_ways_out(real))
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


def _ways_out(top: str) -> Iterator[str]:
    """Yield the targets of links below a resolved path that lead out of it, and the files that have a second name."""
    waiting, seen = [top], 0
    while waiting:
        here = waiting.pop()
        seen += 1
        if seen > MOST:
            yield f"{top} (more than {MOST} files, not all of which were looked at)"
            return
        try:
            if os.path.islink(here):
                target = os.path.realpath(here)
                if not _is_within(target, top):
                    yield target
            elif os.path.isdir(here):
                waiting += [os.path.join(here, name) for name in os.listdir(here)]
            elif os.lstat(here).st_nlink > 1:
                yield here
        except OSError:  # it cannot be read, so nothing is read
            continue
