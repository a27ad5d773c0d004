"""What this user trusts: the files of code that they named themselves, and the runs that they began themselves.

A run's folder is input from a stranger until its owner says otherwise: it may name any file of this machine as its
evaluator, and any address as its cluster. So what may be executed, and connected to, is remembered outside of all
runs, in the user's own folder. This module decides; it loads nothing, and knows neither runs nor plug-ins.
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

__all__ = ["allow", "allow_command", "began", "doubt", "is_identifier", "remember_file", "remember_run"]

LARGEST = 1 << 20
"""Bytes of the memory that are read at most; the oldest entries go first."""

MOST = 2000
"""Entries of each kind that are kept."""


def is_identifier(name: str) -> bool:
    """Whether a name is a plain one, as bundled plug-ins and entry points have: no path can hide in it."""
    return name.isascii() and name.replace("-", "_").isidentifier()


def allow(path: Path, what: str, trust: bool, remedy: str, ask: Callable[[str], bool] | None = None) -> None:
    """Let a file of code be executed that a saved run names, or refuse it.

    Args:
        path: The file.
        what: What the run calls it, for messages: 'evaluator', 'strategy'.
        trust: Whether the user has said that it is to be trusted.
        remedy: What to do instead, for the message.
        ask: Asks the user a question; None where there is nobody to ask.

    Raises:
        UsageError: It is not trusted: the user has neither named it themselves, nor said so now.
    """
    reason = _distrust(path)
    if not reason:
        return
    text = f"the run names the {what} {str(path)!r}, {reason}"
    if not trust and not (ask is not None and ask(f"{text}. Run its code?")):
        raise UsageError(f"{text}: going on would run its code; look at it, then {remedy}")
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
    """Let what a saved run names be executed, a command or a function of a file, or refuse it.

    A yes counts for this run alone: the same command elsewhere may find other files.

    Args:
        folder: Where the run is saved.
        identity: What is only in this run's manifest.
        what: The identity, the command and what else says what is executed: another one is asked about again.
        command: It, in words: "the command 'python train.py'".
        files: Those of its files that are code.
        trust: Whether the user has said that it is to be trusted.
        ask: Asks the user a question; None where there is nobody to ask.

    Raises:
        UsageError: It is not trusted.
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
        raise UsageError(f"{text}: look at it, then say --trust (from Python: trust=True)")
    _remember("commands", str(_real(folder)), known)


def _distrust(path: Path) -> str:
    """Return why a file is not to be executed unasked; '' if it may be."""
    real = _real(path)
    if str(real) not in _remembered()["files"]:
        return "which you have not named yourself"
    return _writable_by_others(real)


def _writable_by_others(path: Path) -> str:
    """Return who else may write a file, or a folder above it, in words; '' if nobody but the user and root."""
    mine = {os.geteuid(), 0}
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError as error:
            return f"and {place} cannot be looked at ({error.strerror})"
        sticky = place != path and found.st_mode & stat.S_ISVTX  # /tmp: others may not replace what is not theirs
        if found.st_uid not in mine:
            return f"and {place} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky and not _only_me(found):
            return f"and others may write {place}"
    return ""


def _only_me(found: os.stat_result) -> bool:
    """Whether the group that may write is the user's own private one (a common umask of 002)."""
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
    """Remember that this user named a file of code themselves."""
    _remember("files", str(_real(path)), True)


def remember_run(folder: Path, identity: str) -> None:
    """Remember that this user began a run.

    Args:
        folder: Where it is saved.
        identity: What is only in this run's manifest.
    """
    _remember("runs", str(_real(folder)), identity)


def began(folder: Path, identity: str) -> bool:
    """Whether this user began the run that lies in a folder, and nobody else may write it."""
    return not doubt(folder, identity)


def doubt(folder: Path, identity: str) -> str:
    """Return why what a run says is not to be believed, in words that follow its name; '' if it may be.

    Args:
        folder: Where it is saved: another run may have taken its place.
        identity: What is only in this run's manifest.
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
    """Return what is remembered; nothing if the file is not this user's alone, or not what was written."""
    nothing: dict[str, dict[str, Any]] = {"files": {}, "runs": {}, "commands": {}}
    try:
        file = os.open(_memory(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError):  # no home folder at all
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
    """Add an entry, the newest last; a folder that cannot be written costs a question next time, and no run."""
    with contextlib.suppress(OSError, RuntimeError):
        memory = _memory()
        memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with filelock.FileLock(memory.parent / "trusted.lock"):  # two runs that begin at once lose no entry
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
