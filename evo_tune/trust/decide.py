"""Decides whether code may run: the user trusts files that they named and runs that they began, while unchanged.

A run folder is input from a stranger until its owner says otherwise: it may name any file of this machine as its
evaluator, and any address as its cluster. A run of one's own may come back changed. So evo-tune remembers hashes of
trusted content outside of all runs, in the user's own folder. This module decides and loads nothing; it knows neither
runs nor plug-ins.
"""

import contextlib
import glob
import hashlib
import json
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import filelock

from evo_tune.errors import UsageError
from evo_tune.text import escape_unprintable, is_encodable, one_line
from evo_tune.trust import safe_files

# Maximum bytes of the memory file.
LARGEST = 1 << 23

# Maximum entries of each kind; the oldest are dropped first.
MOST = 2000

# Names of the hashes of a run's results, or their beginnings. They stay with the folder in which the results were.
OF_RESULTS = ("journal", "file ")

# Function that asks the user a question; returns whether the answer is yes.
Ask = Callable[[str], bool]

# Hashes of what determines what a run executes, by name.
Hashes = Mapping[str, str]


class _Memory(TypedDict):
    """What the user trusts: hashes by file of code, and by folder of a run and name; the newest are last."""

    files: dict[str, str]
    runs: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Consent:
    """Permission of the user for this call.

    Args:
        trust: Whether everything that a run names is allowed.
        ask: Function that asks the user a question; None without a terminal.
        changes: Whether files of code that the user named may have changed since.
    """

    trust: bool = False
    ask: Ask | None = None
    changes: bool = False

    def require(self, action: str, question: str, remedy: str) -> None:
        """Ask about something, unless everything is allowed.

        Raises:
            UsageError: It is not allowed.
        """
        if not self.trust and not (self.ask is not None and self.ask(escape_unprintable(f"{action}. {question}"))):
            raise UsageError(escape_unprintable(f"{action}: {remedy}"))


def digest(data: Any) -> str:
    """Return the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def is_identifier(name: str) -> bool:
    """Return whether a name is an identifier, with hyphens allowed, so that it cannot be a path."""
    return name.isascii() and name.replace("-", "_").isidentifier()


def allow(path: Path, kind: str, hash_of: Callable[[Path], str], remedy: str, user: Consent) -> Path:
    """Allow the execution of a file of code that a saved run names, or refuse it.

    Args:
        path: The file.
        kind: Kind of file, for messages: 'evaluator', 'strategy'.
        hash_of: Function that returns the hash of a file of code and its local modules.
        remedy: What to do instead, for messages.
        user: What the user allows.

    Returns:
        The resolved path, because a link could change after it was allowed.

    Raises:
        UsageError: The user has never named the file, or it has changed since, and they do not allow it now.
    """
    real = _real(path)
    known_hash = _read_memory()["files"].get(str(real))
    reason = ""
    if known_hash is None:
        reason = "which you have not named yourself"
    elif not user.changes and known_hash != hash_of(real):
        reason = "which has changed since you named it (or a module that it imports has)"
        remedy = f"resume with --accept-changes, or {remedy}"
    reason = reason or _writable_by_others(real)
    if reason:
        text = f"the run names the {kind} {str(path)!r}, {reason}"
        user.require(text, "Run its code?", f"continuing would run its code; look at it, then {remedy}")
    if reason or user.changes:
        remember_file(real, hash_of(real))
    return real


def allow_command(folder: Path, files: Sequence[Path], code: Mapping[str, str], user: Consent) -> None:
    """Allow the execution of the files that a saved run's command names, or refuse it.

    Args:
        folder: Folder of the run, whose command is allowed.
        files: The files of code.
        code: Hash of all of them, by its name.
        user: What the user allows.

    Raises:
        UsageError: The files are not as they were when the user began or allowed the run, or others may write them.
    """
    reason = ""
    if not user.changes and not is_remembered(folder, code):
        reason = "one of which has changed, come or gone since you began or allowed the run"
    reason = reason or next(filter(None, map(_writable_by_others, files)), "")
    if reason:
        named = ", ".join(repr(str(path)) for path in files) or "no file"
        remedy = "look at them, then resume with --accept-changes, or give --trust (from Python: trust=True)"
        user.require(f"the run's command names {named}, {reason}", "Execute it?", remedy)
    remember_run(folder, code)


def allow_run(folder: Path, hashes: Hashes, actions: Mapping[str, Any], user: Consent) -> Consent:
    """Allow what a saved run wishes that the user did not begin as it is now, or refuse it.

    The permission is for this content of this run only.

    Args:
        folder: Folder of the run.
        hashes: See `reason_for_distrust`.
        actions: All that it would do beside running files of code, in words ("executes the command 'python train.py'"),
            with plain data that changes if that changes.
        user: What the user allows.

    Returns:
        Consent with the files that the user allows: all of those in `hashes` if the answer was yes.

    Raises:
        UsageError: The user does not allow it.
    """
    reason, entry, key = reason_for_distrust(folder, hashes), run_hashes(folder), digest([dict(hashes), dict(actions)])
    begun = hashes.keys() <= entry.keys()
    if not reason or not (actions or begun) or entry.get("allowed") == key:
        return user
    text = f"run {folder.name} {reason}" + (f"; it {' and '.join(actions)}" if actions else "")
    user.require(text, "Go on?", "look at it, then give --trust (from Python: trust=True)")
    remember_run(folder, {"allowed": key})
    return replace(user, trust=True)


def _writable_by_others(path: Path) -> str:
    """Return who else can write a file or a folder above it, in words; '' if only the user and root can."""
    trusted_owners = {os.geteuid(), 0}
    for place in (path, *path.parents):
        try:
            status = place.stat()
        except OSError as error:
            return f"and {place} cannot be looked at ({error.strerror})"
        sticky = place != path and status.st_mode & stat.S_ISVTX  # as /tmp, where others cannot replace my files
        if status.st_uid not in trusted_owners:
            return f"and {place} belongs to another user"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky and not _only_private_group(status):
            return f"and others may write {place}"
    return ""


def _only_private_group(status: os.stat_result) -> bool:
    """Return whether only the user's private group can write (a common umask is 002)."""
    if status.st_mode & stat.S_IWOTH:
        return False
    import grp
    import pwd

    with contextlib.suppress(KeyError):
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.geteuid())
        return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return False


def remember_file(path: Path, hash: str) -> None:
    """Remember a file of code that the user named, with the hash of it and its local modules."""
    _remember("files", str(_real(path)), hash)


def remember_run(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Remember hashes of what the user gave to a run, by name; earlier ones of other names stay.

    Returns whether that was possible.

    Args:
        folder: Folder of the run.
        hashes: All of `reason_for_distrust`'s `hashes` if the user began the run, or others.
    """
    return _remember("runs", str(_real(folder)), dict(hashes))


def is_remembered(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Return whether the user gave these to the run in a folder."""
    return hashes.items() <= run_hashes(folder).items()


def reason_for_distrust(folder: Path, hashes: Hashes) -> str:
    """Return why a run is not trusted, in words that follow its name; '' if it is.

    Args:
        folder: Folder of the run, where another run may have taken its place.
        hashes: Hashes of what determines what the run executes. A name is that of a file, for messages.
    """
    entry = run_hashes(folder)
    if not hashes.keys() <= entry.keys():
        return "was not begun by you here"
    changed = ", ".join(name for name in hashes if entry[name] != hashes[name])
    return f"was begun by you here and has changed since ({changed})" if changed else ""


def recognize_moved_run(folder: Path, hashes: Hashes) -> bool:
    """Return whether the user began this run in another folder; if so, what they gave it there counts here too.

    Files of code inside its folder are remembered with the hashes that they had there. Hashes of results are left out:
    `hashes_of_runs` returns them where they are.

    Args:
        folder: Folder of the run.
        hashes: See `reason_for_distrust`; one of them differs between any two runs.
    """
    memory, new_folder = _read_memory(), _real(folder)
    for old_folder, entry in reversed(memory["runs"].items()):
        if hashes.items() <= entry.items():
            of_code = {name: hash for name, hash in entry.items() if not name.startswith(OF_RESULTS)}
            _remember("runs", str(new_folder), of_code)
            for path, hash in memory["files"].items():
                if os.path.dirname(path) == old_folder:
                    _remember("files", str(new_folder / os.path.basename(path)), hash)
            return True
    return False


def run_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes that are remembered of the run in a folder, by name."""
    return hashes_of_runs(folder)[0]


def hashes_of_runs(folder: Path) -> list[dict[str, str]]:
    """Return the hashes that are remembered of all runs, by name: first those of the run in a folder."""
    runs = _read_memory()["runs"]
    own = runs.pop(str(_real(folder)), {})
    return [own, *runs.values()]


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _memory_path() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # invalid by the XDG specification: it would be a folder of whoever made this one
        base = "~/.local/state"
    return Path(base).expanduser() / "evo-tune" / "trusted.json"


def _read_memory() -> _Memory:
    """Return the memory; empty if others can write the file, or its content is invalid."""
    import msgspec

    with contextlib.suppress(OSError, ValueError, RecursionError, RuntimeError):  # the last: there is no home folder
        path = _memory_path()
        with safe_files.open_to_read(path.parent, path.name, limit=LARGEST) as file:
            status = os.fstat(file.fileno())
            if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return msgspec.convert(json.load(file), _Memory)
    return _Memory(files={}, runs={})


def _remember(kind: Literal["files", "runs"], key: str, value: Any) -> bool:
    """Add an entry as the newest one, and return whether it is there; a dict is added to the one that is there.

    If the folder cannot be written, the user is told, and asked again next time.
    """
    try:
        memory = _memory_path()
        memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with filelock.FileLock(memory.parent / "trusted.lock"):  # runs that begin at the same time lose no entry
            entries = _read_memory()
            of_kind: dict[str, Any] = dict(entries[kind])
            earlier_value = of_kind.pop(key, None)
            if isinstance(value, dict):
                value = {**(earlier_value or {}), **value}
            if value == earlier_value:
                return True
            newest = {**dict(list(of_kind.items())[1 - MOST :]), key: value}
            data = json.dumps({**entries, kind: newest}).encode()
            safe_files.replace(memory.parent, memory.name, data, part=".trusted-part", sync=False, mode=0o600)
    except (OSError, RuntimeError) as error:  # the latter: there is no home folder
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        name = one_line(os.path.basename(key), 80)
        warnings.warn(f"cannot remember that {name} is yours ({reason}): evo-tune will ask again", stacklevel=2)
        return False
    return True


# The paths outside of a run's folder that its values name, or to which links in its data lead. Only names and kinds of
# files are looked at. A text is a path if something of that name exists, or if it has a separator.

# Maximum number of files in which links are looked for.
MOST_FILES = 100_000

# Maximum number of texts that are looked at.
MOST_TEXTS = 10_000

# Maximum number of paths in a message.
SHOWN = 10


def paths_outside_folder(texts: Iterable[str], folder: Path) -> list[str]:
    """Return the resolved paths outside of a folder that code would read if it used some texts as paths or patterns.

    A link counts if it leads out of the path that the text names, even to another path in the folder, as only the
    named paths are searched. A file with a second name (a hard link) counts too, since its other name may be anywhere.
    If there are too many texts or files, the last entry says so: it begins with '~', which sorts last.
    """
    root, distinct_texts = os.path.realpath(folder), sorted(set(texts))
    paths_in_texts = map(_path_in_text, distinct_texts[:MOST_TEXTS])
    named_paths = {os.path.realpath(path) for path in paths_in_texts if path}
    outside = {path for path in named_paths if not _is_within(path, root)}.union(_escapes_below(named_paths))
    if len(distinct_texts) > MOST_TEXTS:
        outside.add(f"~ more than {MOST_TEXTS} texts, not all of which were looked at")
    return sorted(outside)


def describe_paths(paths: list[str]) -> str:
    """Return paths for a message."""
    rest_count = f" and {len(paths) - SHOWN} more paths" if len(paths) > SHOWN else ""
    return ", ".join(map(repr, paths[:SHOWN])) + rest_count


def _path_in_text(text: str) -> str:
    """Return the file or folder that a text names; of a pattern, the folder above its first wildcard; '' for none."""
    path = os.path.expanduser(text)
    if "\0" in path or not is_encodable(path):  # no file has such a name
        return ""
    if os.path.lexists(path):
        return path
    if os.sep not in path:
        return os.curdir if glob.has_magic(path) and glob.glob(path) else ""  # a bare pattern must match a file here
    while glob.has_magic(path):
        path = os.path.dirname(path)
    return path or os.curdir


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _escapes_below(named_paths: Iterable[str]) -> Iterator[str]:
    """Yield the targets of links below resolved paths that lead out of these, and the files that have a second name."""
    stack, entry_count = [(named_path, named_path) for named_path in named_paths], 0
    while stack:
        path, named_path = stack.pop()
        entry_count += 1
        if entry_count > MOST_FILES:
            yield f"~ more than {MOST_FILES} files, not all of which were looked at"
            return
        try:
            if os.path.islink(path):
                target = os.path.realpath(path)
                if not _is_within(target, named_path):
                    yield target
            elif os.path.isdir(path):
                stack += [(os.path.join(path, name), named_path) for name in os.listdir(path)]
            elif os.lstat(path).st_nlink > 1:
                yield path
        except OSError:  # it cannot be read, so nothing is read
            continue
