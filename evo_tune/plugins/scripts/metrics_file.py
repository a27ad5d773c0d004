"""`MetricsFile`: the file into which a script writes its metrics, read again and again while the script runs.

The file is in the trial's folder, so that no two trials share it. A folder in its place stands for all event files of
TensorBoard below it; TensorBoard's own loader reads them. A file there may be of any kind and change at any time. So
links are not followed, and only regular files are opened: opening a FIFO would wait.
"""

import contextlib
import os
import re
import shlex
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from evo_tune.errors import OptionError, require_extra
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.records import Row, text_rows
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Maximum bytes of a text file, which is read as a whole each time, and of an event file.
LARGEST_TEXT, LARGEST_EVENTS = 1 << 23, 1 << 40

# Maximum number of files and folders that are looked at, and of folders inside each other.
MOST_ENTRIES, DEEPEST = 2000, 8

# Seconds between two readings: at least PAUSE, and PATIENCE times the duration of the last one.
PAUSE, PATIENCE = 0.2, 20.0

TEXT_SUFFIXES = (".json", ".jsonl", ".csv")

# Part of the name of each event file of TensorBoard.
EVENTS = "tfevents"

# Most names of metrics that an error lists, and that are remembered.
MOST_NAMES, MOST_KEYS = 5, 1000

# Most event files of a trial: each stays open while the script runs.
MOST_EVENT_FILES = 256

WHERE_TO_WRITE = (
    "tell the script to write there, such as --out {folder}, or for a logger of Lightning in a template "
    "--set 'trainer.logger.init_args.save_dir={folder}'"
)

# Words of the names of metrics on validation data.
VALIDATION_WORDS = {"val", "valid", "validation", "eval", "dev"}


def parse_metrics_file(text: str) -> tuple[str, ...]:
    """Return the names of folders and file below the trial's folder in '{folder}/logs/metrics.json'; () for '{folder}'.

    Raises:
        OptionError: The path is another one.
    """
    names = PurePosixPath(text.strip()).parts
    if not names or names[0] != "{folder}" or ".." in names or "\0" in text:
        raise OptionError(
            f"--metrics-file {one_line(text, 100)}: expected a path in the trial's own folder, such as "
            "'{folder}/metrics.json', and {folder} in the command where the script is told where to write"
        )
    return names[1:]


# Inode, size and time of the last change of a file, in ns.
_Stamp: TypeAlias = tuple[int, int, int]


@dataclass
class _FileState:
    """What was read of a file.

    Args:
        stamp: Its stamp at the last reading.
        loader: TensorBoard's loader of an event file, which yields new events only.
        rows: Hashes of the rows that were read of a text file.
        problem: Why it could not be read at the last time; '' if it could.
    """

    stamp: _Stamp = (0, 0, 0)
    loader: Any = None
    rows: list[int] = field(default_factory=list)
    problem: str = ""


class MetricsFile:
    """Reader of the file, or of the files, into which a script writes its metrics.

    Args:
        text: The path, as `--metrics-file` takes it.
        folder: The trial's folder.
        keys: Keys in the file of metrics that have another name there (NAME=KEY).
        objectives: Names of the objectives. Case and the order of words do not count, nor what separates them.
        progress_names: Names of the metrics that tell the progress.
        take: Function called with each new row.
    """

    def __init__(
        self,
        text: str,
        folder: Path,
        keys: Mapping[str, str],
        objectives: Iterable[str],
        progress_names: Iterable[str],
        take: Callable[[Row], None],
    ) -> None:
        self._shown, self._names, self._folder, self._take = text, parse_metrics_file(text), folder, take
        self._progress_names = {*progress_names}
        self._wanted_keys = {name: keys.get(name) or name for name in [*keys, *objectives, *self._progress_names]}
        self._states: dict[tuple[str, ...], _FileState] = {}
        # Words of each key that was read, and the folder of the file in which each metric was read.
        self._words_by_key: dict[str, list[str]] = {}
        self._origins: dict[str, str] = {}
        self._next_reading = 0.0
        # Files of an earlier attempt, which count once they have changed.
        self._old_stamps = {names: self._stamp(names) for names in self._files()}

    def read_if_due(self) -> None:
        """Read what is new, unless the last reading was a moment ago.

        Raises:
            Ended: A metric is in several files.
            Pruned: The learning curve passed a bound.
        """
        began = time.monotonic()
        if began >= self._next_reading:
            self._read(is_complete=False)
            ended = time.monotonic()
            self._next_reading = ended + max(PAUSE, PATIENCE * (ended - began))

    def read_all(self) -> None:
        """Read the rest, after the script has ended.

        Raises:
            Ended: A file cannot be read, or a metric is in several files.
            Pruned: The learning curve passed a bound.
        """
        self._read(is_complete=True)
        for names, state in self._states.items():
            if state.problem:
                raise Ended(f"{_path_text(names)}: {one_line(state.problem, 200)}")

    def missing_metric_text(self, name: str) -> str:
        """Return why a metric has no value, and what to do."""
        if not self._states:
            place = self._shown if self._names else "event file of TensorBoard below the trial's folder"
            return f"there is no {place}: {other_files_hint(self._folder) or WHERE_TO_WRITE}"
        words = {*_words(name)}
        by_key = self._words_by_key  # most words of the name first, then metrics on validation data
        rank = {key: (-len(words & {*by_key[key]}), VALIDATION_WORDS.isdisjoint(by_key[key])) for key in by_key}
        keys = sorted(rank, key=rank.__getitem__)[:MOST_NAMES]
        if not keys:
            return f"{self._shown} has no numbers: expected JSON, JSON lines, or CSV with a header"
        shown, flag = ", ".join(repr(one_line(key, 60)) for key in keys), f"{name}={one_line(keys[0], 60)}"
        hint = f"{shown}: add --metric {shlex.quote(flag)} if that is it"
        return f"{self._shown} has no {self._wanted_keys[name]}, but {hint}"

    def _read(self, is_complete: bool) -> None:
        for names in self._files():
            stamp = self._stamp(names)
            if stamp is None or self._old_stamps.get(names) == stamp:
                continue
            state = self._states.setdefault(names, _FileState())
            if stamp == state.stamp and not is_complete:
                continue
            if stamp[0] != state.stamp[0]:  # another file of that name
                state.loader = None
            state.stamp, state.problem = stamp, ""
            try:
                if _is_event_file(names):
                    rows = self._new_event_rows(names, state)
                else:
                    content = safe_files.read(self._folder, *names, limit=LARGEST_TEXT)
                    rows = _new_text_rows(content.decode("utf-8-sig", "replace"), state, is_complete)
                for row in rows:
                    self._take(self._with_wanted_names(row, "/".join(names[len(self._names) : -1])))
            except (OSError, ValueError) as error:
                state.problem = str(getattr(error, "strerror", None) or error)

    def _with_wanted_names(self, row: Row, origin: str) -> Row:
        """Return a row in which each wanted metric has its name.

        Args:
            row: Numbers by key.
            origin: Folder of the file, from the one that was named. 'validation/loss' is also the key 'loss' there.
        """
        new_keys = (key for key in row if key not in self._words_by_key)
        for key in islice(new_keys, max(0, MOST_KEYS - len(self._words_by_key))):
            self._words_by_key[key] = _words(key)
        named: Row = {}
        for name, wanted in self._wanted_keys.items():
            words = _words(wanted)
            keys = [wanted] if wanted in row else [key for key in row if self._words_by_key.get(key) == words]
            if keys and name not in self._progress_names and self._origins.setdefault(name, origin) != origin:
                flag = shlex.quote(f"{name}={origin or '.'}/{keys[0]}")
                places = f"{self._origins[name] or '.'} and {origin or '.'}"
                raise Ended(f"{keys[0]} is in the files of {places}: add --metric {flag} to choose one")
            if not keys and origin:
                keys = [key for key in row if _words(f"{origin}/{key}") == words]
            if keys:
                named[name] = row.pop(keys[0])
        return {key: value for key, value in row.items() if key not in self._wanted_keys} | named

    def _files(self) -> list[tuple[str, ...]]:
        """Return the names of the file, or those of all event files in the folder."""
        files = [*filter(_is_event_file, _list_files(self._folder, self._names))]
        return files or ([self._names] if self._names else [])

    def _new_event_rows(self, names: tuple[str, ...], state: _FileState) -> Iterator[Row]:
        """Yield the rows of the events that were written since the last reading.

        Raises:
            OSError: It is no regular file, is behind a link, or is too large.
            UsageError: TensorBoard is not installed.
            ValueError: TensorBoard cannot read it, or there are too many event files.
        """
        with require_extra("--metrics-file with event files of TensorBoard", "tensorboard"):
            from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        if state.loader is None:
            if sum(other.loader is not None for other in self._states.values()) >= MOST_EVENT_FILES:
                raise ValueError(f"more than {MOST_EVENT_FILES} event files: expected fewer in a trial's folder")
            file = safe_files.open_to_read(self._folder, *names, limit=LARGEST_EVENTS)
            # The loader opens a path again and again; behind this one is the file that was checked, whatever comes.
            state.loader = EventFileLoader(f"/dev/fd/{file.fileno()}")
            weakref.finalize(state.loader, file.close)
        yield from _load_events(state.loader)

    def _stamp(self, names: tuple[str, ...]) -> _Stamp | None:
        """Return what changes with a file's content; None if there is none."""
        with contextlib.suppress(OSError), safe_files.folder(self._folder, *names[:-1]) as descriptor:
            status = os.stat(names[-1], dir_fd=descriptor, follow_symlinks=False)
            return status.st_ino, status.st_size, status.st_mtime_ns
        return None


def other_files_hint(folder: Path, config_name: str = "") -> str:
    """Return which files in a trial's folder may have metrics, and the flag that reads them; '' if there are none.

    Args:
        folder: The trial's folder.
        config_name: Name of the configuration file there, which the script did not write; '' for none.
    """
    files = [names for names in _list_files(folder, ()) if _is_event_file(names) or names[-1].endswith(TEXT_SUFFIXES)]
    files = [names for names in files if names != (config_name,)]
    if not files:
        return ""
    # A folder stands for all event files in it.
    names = files[0][:-1] if _is_event_file(files[0]) else files[0]
    shown = ", ".join(map(_path_text, files[:MOST_NAMES]))
    return f"the script wrote {shown}: add --metrics-file {shlex.quote(_path_text(names))} to read metrics from there"


def _list_files(root: Path, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the regular files in a folder inside a root, and below; none if it is no folder, or behind a link."""
    files, waiting, count = [], [names], 0
    while waiting:
        place = waiting.pop()
        with (
            contextlib.suppress(OSError),
            safe_files.folder(root, *place) as descriptor,
            os.scandir(descriptor) as entries,
        ):
            for entry in islice(entries, MOST_ENTRIES - count):
                count += 1
                if entry.is_file(follow_symlinks=False):
                    files.append((*place, entry.name))
                elif entry.is_dir(follow_symlinks=False) and len(place) < DEEPEST:
                    waiting.append((*place, entry.name))
    return sorted(files)


def _new_text_rows(text: str, state: _FileState, is_complete: bool) -> Iterator[Row]:
    """Yield the rows of a text file from the first one that was not there at the last reading."""
    is_new = False
    for number, row in enumerate(text_rows(text, is_complete)):
        row_hash = hash(repr(row))
        is_new = is_new or number >= len(state.rows) or state.rows[number] != row_hash
        if is_new:
            del state.rows[number:]
            state.rows.append(row_hash)
            yield row


def _load_events(loader: Any) -> Iterator[Row]:
    """Yield the scalars of each new event with its step: {'step': 10, 'val/loss': 1.7}.

    Raises:
        ValueError: TensorBoard cannot read the file.
    """
    from tensorboard.util import tensor_util

    try:
        for event in loader.Load():  # it stops at a record that is not complete, and continues there
            scalars = {
                value.tag: float(tensor_util.make_ndarray(value.tensor).item())
                for value in event.summary.value
                if value.metadata.plugin_data.plugin_name == "scalars"
            }
            if scalars:
                yield {"step": float(event.step), **scalars}
    except Exception as error:  # its kinds of errors are many: a record may be of any length and content
        raise ValueError(f"TensorBoard cannot read it: {one_line(str(error) or type(error).__name__)}") from None


def _is_event_file(names: tuple[str, ...]) -> bool:
    return bool(names) and EVENTS in names[-1]


def _path_text(names: tuple[str, ...]) -> str:
    return one_line("/".join(("{folder}", *names)), 100)


def _words(text: str) -> list[str]:
    """Return the words of a name in alphabetical order: PyTorch's examples call val_loss Loss/val."""
    return sorted(re.findall(r"[^\W_]+", text.lower()))
