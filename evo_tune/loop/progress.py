"""What a search from Python shows while it runs: a line of progress, and calls of the user's functions."""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from evo_tune.genome.trial import Trial
from evo_tune.report.summary import RunResult, results_in_words
from evo_tune.store.run import Run
from evo_tune.text import escape_unprintable, show_seconds, show_value

# Least time between two updates of the line, in seconds.
PAUSE = 1.0


def run_in_words(run: Run) -> str:
    """Return a run in one line: how many trials have a result, and the best value."""
    result = RunResult(run)
    words = f"{run.name}: {results_in_words(run)}"
    if result.best is not None:
        words += f", best {result.metric} {show_value(result.best.outcome.metrics[result.metric])}"
    return escape_unprintable(words + (f", {result.failures} failed" if result.failures else ""))


@contextlib.contextmanager
def progress_line(progress: bool | None) -> Iterator[Callable[[Run], None]]:
    """Yield a function that shows the progress of a run as one line on standard error, or below a notebook's cell.

    Args:
        progress: Whether to show it; None: in a terminal and in a notebook.
    """
    show = _notebook_display() if progress is not False else None
    if show is None and (progress or (progress is None and sys.stderr.isatty())):
        show = _rewrite_line
    if show is None:
        yield lambda run: None
        return
    next_update, shown_run = 0.0, None

    def update(run: Run) -> None:
        nonlocal next_update, shown_run
        shown_run = run
        if time.monotonic() >= next_update:
            next_update = time.monotonic() + PAUSE
            show(f"{run_in_words(run)}, {show_seconds(run.elapsed)}")

    try:
        yield update
    finally:
        if shown_run is not None:
            next_update = 0.0
            update(shown_run)
            if show is _rewrite_line:
                print(file=sys.stderr)


def _rewrite_line(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def _notebook_display() -> Callable[[str], None] | None:
    """Return a function that replaces a text below the running cell of a notebook; None outside of notebooks."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    handle = import_module("IPython.display").display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def report_trials(run: Run, callbacks: Sequence[Callable[[Trial], object]]) -> Callable[[], None]:
    """Return a function that calls each callback with each trial that was recorded since its last call.

    A callback that raises an error is not called again: a warning says so, and the run goes on.
    """
    remaining, next_index = list(callbacks), len(run.recorded)

    def report() -> None:
        nonlocal next_index
        new_ids = run.recorded[next_index:]
        next_index += len(new_ids)
        for id in new_ids:
            for callback in list(remaining):
                try:
                    callback(run.trial(id))
                except Exception as error:  # any of the user's own
                    remaining.remove(callback)
                    name = getattr(callback, "__name__", repr(callback))
                    text = f"callback {name} raised {type(error).__name__}: {error}; it is not called again"
                    warnings.warn(escape_unprintable(text), stacklevel=2)

    return report
