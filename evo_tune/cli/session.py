"""What `run` and `resume` share: the flags of a session, and the loop from its first look to the closing table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evo_tune.cli import _shared as shared

if TYPE_CHECKING:
    from pathlib import Path

    from evo_tune.loop.search import Search
    from evo_tune.store.run import Run

Command = TypeVar("Command", bound=Callable[..., Any])

SESSION = (
    *("trials", "generations", "budget", "hours", "slots", "devices", "per_device", "timeout", "retries"),
    *("calibrate", "calibrate_best", "backend", "address", "max_slots", "stop_when_done"),
)
"""Flags that are fields of `population.Session`; all of them default to None here: not given."""


def session_options(function: Command) -> Command:
    """Add the flags that may differ from one session of a run to the next."""
    positive = click.IntRange(min=1)
    above = click.FloatRange(min=0, min_open=True)
    for option in reversed(
        [
            click.option("--generations", type=positive, help="Stop after so many generations in all.  [default: 5]"),
            click.option("--trials", type=positive, help="Stop after so many births in all."),
            click.option("--budget", type=above, help="Stop after training worth so many full trainings in all."),
            click.option("--hours", type=above, help="Stop after so many hours in all, calibrated."),
            click.option(
                "--stop-when-done",
                is_flag=True,
                default=None,
                help="Stop once more is unlikely to improve by more than seeds do.",
            ),
            click.option("--slots", type=positive, help="Trainings at once.  [default: one per GPU, else per core]"),
            click.option("--devices", metavar="LIST", help="'cpu', 'cuda', or GPUs by number: 0,2."),
            shared.per_device_option,
            click.option("--timeout", type=above, metavar="SECONDS", help="Give up an evaluation after so long."),
            click.option("--retries", type=click.IntRange(min=0), help="Tries more if its process dies.  [default: 0]"),
            click.option(
                "--calibrate",
                type=click.IntRange(min=0),
                help="Fresh seeds for the closing race: twice as many at the most, 0 for none.  [default: 3]",
            ),
            click.option("--calibrate-best", type=positive, help="Finalists of that race.  [default: 2]"),
            click.option(
                "--backend",
                type=click.Choice(["joblib", "dask", "ray"]),
                help="Where trainings run: processes here, or a cluster.  [default: joblib]",
            ),
            click.option("--address", metavar="URL", help="Of a cluster, tcp://HOST:8786.  [default: one is started]"),
            click.option("--max-slots", type=positive, help="On a cluster that grows: slots there may be."),
            click.option(
                "--no-report", is_flag=True, help="Write no report (_report.html in the run's folder) at the end."
            ),
            click.option(
                "--track",
                "tracks",
                multiple=True,
                metavar="TOOL:PATH",
                callback=_read_tracks,
                help="Write for another tool meanwhile: tensorboard:DIR or optuna:FILE; repeatable.",
            ),
            shared.price_option,
            click.option("--quiet", is_flag=True, help="Print nothing but errors."),
            shared.format_option("table", "json", "jsonl"),
        ]
    ):
        function = option(function)
    return function


def _read_tracks(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what cannot be tracked before a run is made."""
    if given:
        from evo_tune.integrations.converting import check_track

        for text in given:
            check_track(text)
    return given


def go(
    search: Search, quiet: bool, form: str, no_report: bool, tracks: Sequence[str] = (), price: float | None = None
) -> int:
    """Run, show how it goes, write a report and print how it ended; return the exit code: 1 if nothing has a value."""
    from contextlib import ExitStack

    from evo_tune.cli.for_scale import note
    from evo_tune.cli.output import Stream, patient, print_closing, watcher
    from evo_tune.forecast.timing import TIMING
    from evo_tune.report.data import run_summary
    from evo_tune.store.places import as_typed

    if not quiet:
        shared.print_remarks(search.evaluator)
    before = len(search.saved.outcomes)
    silent = quiet or form != "table"
    search.forecasting = not silent and search.pace is None and TIMING in search.evaluator.plugin.supports
    stream = Stream(search) if form == "jsonl" else None
    with ExitStack() as beside:
        if tracks:
            from evo_tune.integrations.converting import tracking

            beside.enter_context(tracking(search.saved.folder, tracks))
        watch = beside.enter_context(watcher(silent, price))
        look = watch if stream is None else patient(stream.look)
        try:
            search.run(look)
        finally:
            if stream is not None:
                look(search)
    run = search.saved
    note(run, search.evaluator)
    report = None if no_report else _report(run)
    code = 130 if search.stopping else 0 if search.best is not None else 1
    if stream is not None:
        stream.end(run_summary(run, search.status, report), code)
    elif form == "json" or not quiet:
        print_closing(run, form, search.status, report)
    if search.stopping:
        if not quiet:
            shared.echo(f"Interrupted. Go on with: evo-tune resume {as_typed(run.folder)}", err=True)
    elif len(run.outcomes) == before and not quiet:
        shared.echo(f"Nothing was left to do: {run.ended}; limits are totals over all sessions", err=True)
    return code


def _report(run: Run) -> Path | None:
    """Write a run's report; whatever keeps it from being written costs a warning, and never the run."""
    from evo_tune.report.page import write_beside
    from evo_tune.store.places import as_typed

    try:
        return write_beside(run)
    except Exception as error:
        again = f"the run is saved all the same, and `evo-tune report {as_typed(run.folder)}` tries again"
        shared.echo(f"Warning: no report was written ({type(error).__name__}: {error}); {again}", err=True)
        return None
