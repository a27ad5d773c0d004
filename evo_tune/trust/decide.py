"""What the user trusts: files of code that they named themselves, and runs that they began themselves.

A run folder is input from a stranger until its owner says otherwise: it may name any file of this machine as its
evaluator, and any address as its cluster. What may be executed, and connected to, is therefore remembered outside of
all runs, in the user's own folder. This module decides and loads nothing; it knows neither runs nor plug-ins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock

from evo_tune.errors import UsageError

LARGEST = 1 << 20
"""Maximum bytes of the memory file."""

MOST = 2000
"""Maximum entries of each kind; the oldest are dropped first."""


def is_identifier(name: str) -> bool:
    """Return whether a name is an identifier, with hyphens allowed, so that it cannot be a path."""
    return name.isascii() and name.replace("-", "_").isidentifier()


def allow(path: Path, what: str, trust: bool, remedy: str, ask: Callable[[str], bool] | None = None) -> None:
    """Allow the execution of a file of code that a saved run names, or refuse it.

    Args:
        path: The file.
        what: Kind of file, for messages: 'evaluator', 'strategy'.
        trust: Whether the user has said that it can be trusted.
        remedy: What to do instead, for messages.
        ask: Function that asks the user a question; None without a terminal.

    Raises:
        UsageError: The user has never named the file, and does not allow it now.
    """
    reason = _distrust(path)
    if not reason:
        return
    text = f"the run names the {what} {str(path)!r}, {reason}"
    if not trust and not (ask is not None and ask(f"{text}. Run its code?")):
        raise UsageError(f"{text}: continuing would run its code; look at it, then {remedy}")
    remember_file(path)


def allow_command(
    folder: Path,
    identity: str,
    what: str,
    command: str,
    files: Sequence[Path],
    trust: bool,
    ask: Callable[[str], bool] | None = None,
) -> None:
    """Allow the execution of a saved run's command, or of its function in a file, or refuse it.

    The permission is for this run only: the same command elsewhere may find other files.

    Args:
        folder: Folder of the run.
        identity: Unique id in the run's manifest.
        what: All that determines what is executed; permission is asked again when it changes.
        command: The command in words: "the command 'python train.py'".
        files: Its files of code.
        trust: Whether the user has said that it can be trusted.
        ask: Function that asks the user a question; None without a terminal.

    Raises:
        UsageError: The user has not begun the run, and does not allow it now.
    """
    others = next(filter(None, map(_writable_by_others, files)), "")
    known = hashlib.sha256(what.encode("utf-8", "backslashreplace")).hexdigest()
    reason = doubt(folder, identity)
    if reason and _remembered()["commands"].get(str(_real(folder))) == known:
        reason = ""
    if not reason and not others:
        return
    text = f"the run executes {command}, {others or f'and it {reason}'}"
    if not trust and not (ask is not None and ask(f"{text}. Execute it?")):
        raise UsageError(f"{text}: look at it, then give --trust (from Python: trust=True)")
    _remember("commands", str(_real(folder)), known)


def _distrust(path: Path) -> str:
    """Return why a file may not be executed without a question; '' if it may."""
    real = _real(path)
    if str(real) not in _remembered()["files"]:
        return "which you have not named yourself"
    return _writable_by_others(real)


def _writable_by_others(path: Path) -> str:
    """Return who else can write a file or a folder above it, in words; '' if only the user and root can."""
    mine = {os.geteuid(), 0}
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError as error:
            return f"and {place} cannot be looked at ({error.strerror})"
        sticky = place != path and found.st_mode & stat.S_ISVTX  # as /tmp, where others cannot replace my files
        if found.st_uid not in mine:
            return f"and {place} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky and not _only_me(found):
            return f"and others may write {place}"
    return ""


def _only_me(found: os.stat_result) -> bool:
    """Return whether only the user's private group can write (a common umask is 002)."""
    if found.st_mode & stat.S_IWOTH:
        return False
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(found.st_gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def remember_file(path: Path) -> None:
    """Remember a file of code that the user named."""
    _remember("files", str(_real(path)), True)


def remember_run(folder: Path, identity: str) -> None:
    """Remember a run that the user began.

    Args:
        folder: Folder of the run.
        identity: Unique id in the run's manifest.
    """
    _remember("runs", str(_real(folder)), identity)


def began(folder: Path, identity: str) -> bool:
    """Return whether the user began the run in a folder, and nobody else can write it."""
    return not doubt(folder, identity)


def doubt(folder: Path, identity: str) -> str:
    """Return why a run is not trusted, in words that follow its name; '' if it is.

    Args:
        folder: Folder of the run, where another run may have taken its place.
        identity: Unique id in the run's manifest.
    """
    real = _real(folder)
    if not identity or _remembered()["runs"].get(str(real)) != identity:
        return "was not begun by you here"
    try:
        files = [real / entry.name for entry in os.scandir(real) if not entry.is_dir()]
    except OSError as error:
        return f"was begun by you, and cannot be looked at ({error.strerror})"
    others = next(filter(None, map(_writable_by_others, [real, *files])), "")
    return f"was begun by you, {others}" if others else ""


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _memory() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "evo-tune" / "trusted.json"


def _remembered() -> dict[str, dict[str, Any]]:
    """Return the memory by kind and key; empty if others can write the file, or its content is invalid."""
    nothing: dict[str, dict[str, Any]] = {"files": {}, "runs": {}, "commands": {}}
    try:
        file = os.open(_memory(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError):  # there is no home folder
        return nothing
    try:
        found = os.fstat(file)
        others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or others or found.st_size > LARGEST:
            return nothing
        with os.fdopen(os.dup(file), encoding="utf-8") as text:
            data = json.load(text)
    except (OSError, ValueError, RecursionError):
        return nothing
    finally:
        os.close(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(kind), dict) for kind in nothing):
        return nothing
    return {kind: data[kind] for kind in nothing}


def _remember(kind: str, key: str, value: Any) -> None:
    """Add an entry as the newest one. If the folder cannot be written, the user is asked again next time."""
    with contextlib.suppress(OSError, RuntimeError):
        memory = _memory()
        memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with filelock.FileLock(memory.parent / "trusted.lock"):  # runs that begin at the same time lose no entry
            known = _remembered()
            if known[kind].get(key) == value:
                return
            known[kind].pop(key, None)
            known[kind] = dict(list(known[kind].items())[1 - MOST :]) | {key: value}
            with tempfile.NamedTemporaryFile(
                "w", dir=memory.parent, prefix=".trusted-", delete=False, encoding="utf-8"
            ) as part:
                json.dump(known, part)
            os.replace(part.name, memory)
