"""Parts shared by `run` and `resume`: flags that are no settings, and the loop that they start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evo_tune.cli import shared

if TYPE_CHECKING:
    from pathlib import Path

    from evo_tune.loop.search import Search
    from evo_tune.store.run import Run

Command = TypeVar("Command", bound=Callable[..., Any])


def session_options(function: Command) -> Command:
    """Add the flags of `run` and `resume` that are no settings."""
    for option in reversed(
        [
            click.option("--no-report", is_flag=True, help="Write no report (_report.html in the run's folder)."),
            click.option(
                "--track",
                "tracks",
                multiple=True,
                metavar="TOOL:PATH",
                callback=_check_tracks,
                help="Also write for another tool: tensorboard:DIR, optuna:FILE or wandb:DIR; repeatable.",
            ),
            shared.price_option,
            click.option("--quiet", is_flag=True, help="Print nothing but errors."),
            shared.format_option("table", "json", "jsonl"),
        ]
    ):
        function = option(function)
    return function


def _check_tracks(context: click.Context, parameter: click.Parameter, tracks: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what cannot be tracked before a run is made."""
    if tracks:
        from evo_tune.integrations.converting import check_track

        for text in tracks:
            check_track(text)
    return tracks


def run_search(
    search: Search,
    quiet: bool,
    output_format: str,
    no_report: bool,
    tracks: Sequence[str] = (),
    price: float | None = None,
    began: float | None = None,
    again: str | None = None,
) -> int:
    """Run, show progress, write a report and print the result.

    Args:
        search: Search to run.
        quiet: Whether to print nothing but errors.
        output_format: 'table', 'json', 'jsonl', or 'none' for nothing on standard output.
        no_report: Whether to write no report.
        tracks: Values of `--track`.
        price: Price of an hour; None for no price.
        began: Beginning of the command, in seconds of `time.monotonic`: `--hours` includes the time since then.
        again: How to continue after an interrupt, in words; None: `evo-tune resume`.

    Returns:
        Exit code: 1 if no trial has a value, 130 after an interrupt.
    """
    import time
    from contextlib import ExitStack

    from evo_tune.cli.output import Stream, ignore_after_error, print_summary, show_progress
    from evo_tune.cli.training.final_training import read_wish, time_for_model, train_final_model
    from evo_tune.cli.training.for_scale import write_recipe_at_target
    from evo_tune.forecast.timing import TIMING
    from evo_tune.report.data import run_summary
    from evo_tune.store.places import as_typed

    if not quiet:
        if not search.saved.candidates:  # a resumed run has said them
            shared.print_remarks(search.evaluator, search.space.default(), search.space)
        for line in search.choices:
            shared.echo(line, err=output_format != "table")
    before = len(search.saved.outcomes)
    silent = quiet or output_format != "table"
    forecast = not silent and TIMING in search.evaluator.plugin.supports
    stream = Stream(search) if output_format == "jsonl" else None
    with ExitStack() as beside:
        if tracks:
            from evo_tune.integrations.converting import tracking

            beside.enter_context(tracking(search.saved.folder, tracks))
        watch = beside.enter_context(show_progress(silent, search.saved, price))
        look = watch if stream is None else ignore_after_error(stream.look)
        try:
            here = search.seconds - search.saved.resumed[-1]  # of this session
            planning = 0.0 if began is None else max(0.0, time.monotonic() - began - here)
            after = time_for_model(search) if read_wish(search.saved) is not None else lambda training: 0.0
            clock = time.monotonic() - search.seconds - planning  # as if all sessions were one
            search.run(look, forecast=forecast, planning=planning, after=after)
        finally:
            if stream is not None:
                look(search)
    run = search.saved
    write_recipe_at_target(run, search.evaluator)
    report = None if no_report else _report(run)
    code = 130 if search.stopping else 0 if search.best is not None else 1
    if stream is not None:
        stream.end(run_summary(run, search.status, report), code)
    elif output_format == "json" or (output_format == "table" and not quiet):
        short = None if run.outcomes or search.deadline is None or search.stopping else search.deadline
        needed = None if short is None else short.needed(run.manifest.population)
        print_summary(run, output_format, search.status, report, needed)
    kept = train_final_model(search, lambda: time.monotonic() - clock, err=output_format != "table")
    if kept is not None and not quiet:
        shared.echo(f"the model is in {kept}", err=output_format != "table")
    if search.stopping:
        if not quiet:
            again = again or f"evo-tune resume {as_typed(run.folder)}"
            shared.echo(f"Interrupted. Continue with: {again}", err=True)
    elif len(run.outcomes) == before > 0 and not quiet:
        shared.echo(f"Nothing was left to do: {run.ended}; limits are totals over all sessions", err=True)
    return code


def _report(run: Run) -> Path | None:
    """Write a run's report; an error while writing it is a warning, and never ends the run."""
    from evo_tune.report.page import write_beside
    from evo_tune.store.places import as_typed

    try:
        return write_beside(run)
    except Exception as error:
        again = f"the run is saved, and `evo-tune report {as_typed(run.folder)}` tries again"
        shared.echo(f"Warning: no report was written ({type(error).__name__}: {error}); {again}", err=True)
        return None
