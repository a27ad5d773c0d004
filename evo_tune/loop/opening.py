"""Open a run: the name of a new one, a saved one for writing, and a run that cannot begin or continue closed again."""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from evo_tune.loop.code import remember_copy
from evo_tune.store.places import copy_run, find_run
from evo_tune.store.run import Run


def new_name(evaluator: str, store: Path) -> str:
    """Return a free name for a run, from the evaluator's name (ASCII, at most 50 characters) and the time."""
    plain = unicodedata.normalize("NFKD", evaluator).encode("ascii", "ignore").decode()  # é becomes e plus an accent
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)[:50].strip("-_") or "run"
    stem = f"{slug}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (store / name).exists())


@contextlib.contextmanager
def close_on_error(run: Run, remove: bool = False) -> Iterator[None]:
    """Close an open run if the block raises an error.

    Args:
        run: Open run.
        remove: Whether to remove its folder as well.
    """
    try:
        yield
    except BaseException:
        run.close()
        if remove:
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def open_saved_run(store: Path, name: str | None, copy_as: str | None) -> Iterator[Run]:
    """Open a saved run for writing; if the block raises an error, close it and remove its copy.

    Args:
        store: Folder of the saved runs.
        name: Name or path of the run; None for the latest one.
        copy_as: Name of a copy to make and open instead.

    Raises:
        UsageError: The copy's name is taken.
        StoreError: There is no such run, or it cannot be opened.
    """
    original = find_run(store, name)
    run = Run.open(original if copy_as is None else copy_run(original, store, copy_as), write=True)
    with close_on_error(run, remove=copy_as is not None):
        if copy_as is not None:
            remember_copy(run, original)
        yield run
