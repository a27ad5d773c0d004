"""Unified diffs: read one, and apply it to lines of text in memory, as `git apply` does.

A hunk applies where all of its lines match, at the place nearest to the one that it names. As with git, a hunk that
begins at line 1 matches only at the beginning of a file, and one without lines after its change only at the end. A text
may come from a stranger: only regular text files below the project's folder can be named. Nothing is read or written.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from evo_tune.errors import PluginError
from evo_tune.text import one_line

# Lines of a file, with their line ends; None if it does not exist.
Lines: TypeAlias = tuple[str, ...] | None

# Lines of files by path.
Files: TypeAlias = Mapping[str, Lines]

RANGES = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")

# Beginnings of lines that name something that is no change of a text file.
REFUSED = {
    "GIT binary patch": "a binary file",
    "Binary files ": "a binary file",
    "rename ": "a renamed file (git diff --no-renames writes none)",
    "copy ": "a copied file (git diff --no-renames writes none)",
}

# Largest number of folders in a path.
DEEPEST = 40


class DoesNotApply(PluginError):
    """A hunk matches nowhere in its file."""


@dataclass(frozen=True)
class Hunk:
    """A change of neighbouring lines.

    Args:
        number: Number of its first line in the patch, from 1.
        old_start: Number of its first line in the old file.
        new_start: Number of its first line in the new file.
        before: Lines of the old file.
        after: Lines of the new file.
        is_at_end: Whether it has no unchanged line after its last change.
    """

    number: int
    old_start: int
    new_start: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    is_at_end: bool


@dataclass
class FileChange:
    """The changes of a file.

    Args:
        path: Path of the file in the project, with '/'.
        creates: Whether the file is new.
        deletes: Whether the file is removed.
        mode: Its new mode, 0o644 or 0o755; None if it stays.
        hunks: Changes of its lines, from the top.
    """

    path: str
    creates: bool = False
    deletes: bool = False
    mode: int | None = None
    hunks: list[Hunk] = field(default_factory=list)


def parse_diff(name: str, text: str) -> tuple[FileChange, ...]:
    """Return the changes of a unified diff.

    Args:
        name: Name of the patch, for messages.
        text: The patch, with any text before its first change.

    Raises:
        PluginError: It has no change, is damaged, or names something else than text files of the project.
    """
    lines, number = text.removesuffix("\n").split("\n"), 0
    changes: list[FileChange] = []

    def refuse(reason: str) -> PluginError:
        return PluginError(f"patch {name}, line {number + 1}: {reason}")

    in_header = False  # whether the extended header of git is open
    while number < len(lines):
        line = lines[number]
        thing = next((thing for start, thing in REFUSED.items() if line.startswith(start)), None)
        if line.startswith("diff --git "):
            path = line[13 : 13 + (len(line) - 16) // 2]  # a pattern would take quadratic time
            if line != f"diff --git a/{path} b/{path}":
                raise refuse("expected the same file twice, as git diff --no-renames writes it")
            changes.append(FileChange(checked_path(path, refuse)))
            in_header = True
        elif thing is not None and in_header:
            raise refuse(f"{thing}: expected changes of text files only")
        elif mode := re.fullmatch(r"(old|new|deleted file|new file) mode (\d+)", line) if in_header else None:
            if mode[2] not in ("100644", "100755"):
                raise refuse(f"mode {mode[2]}, a link or a module: expected changes of regular files only")
            change = changes[-1]
            change.creates |= mode[1] == "new file"
            change.deletes |= mode[1] == "deleted file"
            change.mode = int(mode[2][-3:], 8) if mode[1].startswith("new") else change.mode
        elif line.startswith("--- ") and number + 1 < len(lines) and lines[number + 1].startswith("+++ "):
            old, new = (lines[number + offset][4:].partition("\t")[0].rstrip("\r") for offset in (0, 1))
            path = checked_path(re.sub(r"^[^/]*/", "", old if new == "/dev/null" else new, count=1), refuse)
            if not in_header:
                changes.append(FileChange(path))
            change = changes[-1]
            if path != change.path or (old != "/dev/null" and re.sub(r"^[^/]*/", "", old, count=1) != path):
                raise refuse("it names two files: expected one (git diff --no-renames)")
            change.creates |= old == "/dev/null"
            change.deletes |= new == "/dev/null"
            number, in_header = number + 1, False
        elif line.startswith("@@ "):
            if not changes or in_header:
                raise refuse("a hunk without a file: expected '--- a/FILE' and '+++ b/FILE' before it")
            hunk, number = _read_hunk(lines, number, refuse)
            changes[-1].hunks.append(hunk)
            continue
        number += 1
    if not changes or all(not (c.hunks or c.creates or c.deletes or c.mode) for c in changes):
        raise PluginError(f"patch {name} has no change: expected a unified diff, as `git diff` writes it")
    return tuple(changes)


def checked_path(path: str, refuse: Callable[[str], PluginError]) -> str:
    """Return the path of a file below the project's folder.

    Raises:
        PluginError: It is quoted, absolute, leads out of the project or into `.git`, or is no plain path.
    """
    parts = path.split("/")
    if path.startswith('"'):
        raise refuse(f"{one_line(path, 80)} is quoted: expected it as it is (git -c core.quotePath=false diff)")
    if not path.isprintable() or "\\" in path or len(parts) > DEEPEST or len(path) > 1000:
        raise refuse(f"{one_line(repr(path), 80)} is no plain path of a file")
    if any(part in ("", ".", "..") or part.lower().rstrip(" .") == ".git" for part in parts):
        raise refuse(f"{one_line(path, 80)} is not in the project: expected files below its folder, not in .git")
    return path


def _read_hunk(lines: Sequence[str], start: int, refuse: Callable[[str], PluginError]) -> tuple[Hunk, int]:
    """Return the hunk at a line, and the index of the line after it.

    Raises:
        PluginError: It has fewer or more lines than it says.
    """
    match = RANGES.match(lines[start])
    if match is None:
        raise refuse("expected '@@ -LINE,COUNT +LINE,COUNT @@'")
    old_count, new_count = int(match[2] or 1), int(match[4] or 1)
    before, after, index, last = list[str](), list[str](), start + 1, " "
    while len(before) < old_count or len(after) < new_count:
        line = lines[index] if index < len(lines) else "?"
        kind, content = line[:1] or " ", line[1:] + "\n"  # some editors strip the blank of an empty line
        if kind not in " +-":
            break
        index, last = index + 1, kind
        if index < len(lines) and lines[index].startswith("\\"):  # "\ No newline at end of file"
            content, index = content[:-1], index + 1
        if kind in " -":
            before.append(content)
        if kind in " +":
            after.append(content)
    if (len(before), len(after)) != (old_count, new_count):
        raise refuse(f"the hunk has {len(before)} old and {len(after)} new lines: expected {old_count} and {new_count}")
    return Hunk(start + 1, int(match[1]), int(match[3]), tuple(before), tuple(after), last != " "), index


def apply_changes(changes: Sequence[FileChange], read: Callable[[str], Lines], name: str) -> Files:
    """Return the files that a patch changes, as they are after it.

    Args:
        changes: Changes of the patch.
        read: Function that returns the lines of a file before the patch, given its path.
        name: Name of the patch, for messages.

    Raises:
        DoesNotApply: A hunk matches nowhere, or a file is there that should not be, or the other way round.
    """
    changed, effort = dict[str, Lines](), _Effort()
    for change in changes:
        path = change.path
        lines = changed[path] if path in changed else read(path)
        if (lines is not None) == change.creates:
            state = "is there already" if change.creates else "is not a file of the project that can be changed"
            raise DoesNotApply(f"patch {name}: {path} {state}")
        lines = _with_hunks(change, lines or (), name, effort)
        if change.deletes and lines:
            raise DoesNotApply(f"patch {name}: it removes {path}, which has other lines too")
        changed[path] = None if change.deletes else lines
    return changed


@dataclass
class _Effort:
    """Work for placing the hunks of a patch: a hostile one could take hours. Unit: about 10 ns."""

    left: int = 10**7

    def spend(self, amount: int) -> bool:
        """Return whether this much work was left."""
        self.left -= amount
        return self.left >= 0


def _with_hunks(change: FileChange, lines: tuple[str, ...], name: str, effort: _Effort) -> tuple[str, ...]:
    """Return the lines of a file after its hunks."""
    new_lines, is_patched = list(lines), [False] * len(lines)
    for hunk in change.hunks:
        count = len(hunk.before)
        effort.spend(len(new_lines) // 100)
        for place in _places(hunk, len(new_lines)):
            fits = effort.spend(50 + count) and tuple(new_lines[place : place + count]) == hunk.before
            if fits and not any(is_patched[place : place + count]):
                new_lines[place : place + count] = hunk.after
                is_patched[place : place + count] = [True] * len(hunk.after)
                break
        else:
            old_lines = [line.strip() for line in hunk.before if line.strip()]
            near = f", near {one_line(old_lines[0], 60)!r}" if old_lines else ""
            text = f"the hunk at line {hunk.number} does not apply to {change.path}:{hunk.old_start}{near}"
            raise DoesNotApply(f"patch {name}: {text}")
    return tuple(new_lines)


def _places(hunk: Hunk, count: int) -> Iterator[int]:
    """Yield the lines where a hunk may begin in a file, from 0, the nearest to its own first.

    Args:
        hunk: The hunk.
        count: Number of lines of the file.
    """
    last = count - len(hunk.before)
    if last < 0:
        return
    if hunk.old_start <= 1:
        if last == 0 or not hunk.is_at_end:
            yield 0
        return
    if hunk.is_at_end:
        yield last
        return
    first = min(max(0, hunk.new_start - 1), count)
    for distance in range(count + 1):
        for place in dict.fromkeys((first + distance, first - distance)):
            if 0 <= place <= last:
                yield place
