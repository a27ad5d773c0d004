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
    tops = {os.path.realpath(place) for place in map(_path_in_text, distinct[:MOST_TEXTS]) if place}
    outside = {top for top in tops if not _is_within(top, root)}.union(_links_out(tops))
    if len(distinct) > MOST_TEXTS:
        outside.add(f"~ more than {MOST_TEXTS} texts, not all of which were looked at")
    return sorted(outside)


def describe_paths(paths: list[str]) -> str:
    """Return paths for a message."""
    rest_count = f" and {len(paths) - SHOWN} more paths" if len(paths) > SHOWN else ""
    return ", ".join(map(repr, paths[:SHOWN])) + rest_count


def _path_in_text(text: str) -> str:
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


def _links_out(tops: Iterable[str]) -> Iterator[str]:
    """Yield the targets of links below resolved paths that lead out of these, and the files that have a second name."""
    waiting, file_count = [(top, top) for top in tops], 0
    while waiting:
        path, top = waiting.pop()
        file_count += 1
        if file_count > MOST:
            yield f"~ more than {MOST} files, not all of which were looked at"
            return
        try:
            if os.path.islink(path):
                target = os.path.realpath(path)
                if not _is_within(target, top):
                    yield target
            elif os.path.isdir(path):
                waiting += [(os.path.join(path, name), top) for name in os.listdir(path)]
            elif os.lstat(path).st_nlink > 1:
                yield path
        except OSError:  # it cannot be read, so nothing is read
            continue
