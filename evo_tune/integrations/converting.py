"""Which tools a run can be written for, and the writing: once after it, or again and again while it goes on."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

from evo_tune.errors import EvoTuneError, OptionError, StoreError, UsageError
from evo_tune.store.inflight import Curve
from evo_tune.store.run import Run
from evo_tune.text import one_line

__all__ = ["TOOLS", "TRACKERS", "Sink", "convert", "opened_by", "parse_track", "sink", "usual_path"]


class Sink(Protocol):
    """What a run is written into."""

    def update(self, run: Run, flying: Mapping[int, Curve] | None = None) -> None:
        """Write what is not there yet.

        Args:
            run: It.
            flying: Curves so far of what has no result yet (see `in_flight`).
        """


class _Tool(NamedTuple):
    home: str
    """Module and class of its sink, made of the path and of what the user wrote."""
    ending: str
    """What its usual name ends with."""
    opened: str
    """The command that opens it."""
    pages: str = ""
    """Module that this command needs beyond what the extra brings; '' for none."""


TOOLS = {
    "optuna": _Tool("optuna:OptunaJournal", "-optuna.log", "optuna-dashboard {}"),
    "tensorboard": _Tool("tensorboard:TensorBoardFolder", "-tensorboard", "tensorboard --logdir {}"),
    "mlflow": _Tool("mlflow:MLflowDatabase", "-mlflow.db", "mlflow ui --backend-store-uri sqlite:///{}", "flask"),
}
"""By name; each has a file here, and its package an extra of that name."""

TRACKERS = ("tensorboard", "optuna")
"""Those that a run can be written into while it goes on."""


def sink(tool: str, path: Path, what: str) -> Sink:
    """Return what a run is written into.

    Args:
        tool: One of TOOLS.
        path: Its file or folder.
        what: As the user wrote it, for errors.

    Raises:
        UsageError: The tool is not installed, or the path is none for it.
    """
    module, name = TOOLS[tool].home.split(":")
    make: Callable[[Path, str], Sink] = getattr(import_module(f"evo_tune.integrations.{module}"), name)
    return make(path, what)


def usual_path(run: Run, tool: str) -> Path:
    """Return where a run is written unless something else is said: beside where the user stands."""
    return Path(f"{one_line(run.folder.resolve().name, 100)}{TOOLS[tool].ending}")


def opened_by(tool: str, path: Path) -> str:
    """Return the command that opens what was written."""
    typed, needs = TOOLS[tool].opened.format(shlex.quote(str(path))), TOOLS[tool].pages
    return typed if not needs or find_spec(needs) is not None else f"{typed} (after pip install {tool})"


def convert(run: Run, tool: str, path: Path) -> None:
    """Write a run for a tool, into a file or folder that is not there yet.

    Raises:
        UsageError: It is there, or the tool is not installed.
        StoreError: It cannot be written; nothing is left of it.
    """
    what = f"--to {tool}"
    if os.path.lexists(path):
        raise UsageError(f"{what}: {path} exists: choose another -o PATH, or remove it")
    made = sink(tool, path, what)
    with _whole(path):
        made.update(run)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Leave nothing where something went wrong in between.

    Raises:
        StoreError: The disk refused, or the tool.
    """
    try:
        yield
    except BaseException as error:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if isinstance(error, EvoTuneError) or not isinstance(error, Exception):
            raise
        why = getattr(error, "strerror", None) or one_line(f"{type(error).__name__}: {error}")
        raise StoreError(f"cannot write {path}: {why}; choose another -o PATH") from error


def parse_track(text: str) -> tuple[str, Path]:
    """Read TOOL:PATH.

    Raises:
        OptionError: It is not that, or no tool that a run can be written into while it goes on.
    """
    tool, colon, path = text.partition(":")
    if not colon or not path or tool not in TRACKERS:
        raise OptionError(f"--track {text!r} is not understood: expected tensorboard:DIR or optuna:FILE")
    return tool, Path(path)
