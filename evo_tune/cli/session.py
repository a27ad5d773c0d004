"""Parts shared by `run` and `resume`: flags that are no settings, and the loop that they start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evo_tune.cli import shared

if TYPE_CHECKING:
    from pathlib import Path

    from evo_tune.cli.output import EventStream
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
    continue_hint: str | None = None,
) -> int:
    """Run a search, show its progress, write its report, print its result, and train the model that `auto` asks for.

    Args:
        search: Search to run.
        quiet: Whether to print nothing but errors.
        output_format: 'table', 'json', 'jsonl', or 'none' for nothing on standard output.
        no_report: Whether to write no report.
        tracks: Values of `--track`.
        price: Price of an hour; None for no price.
        began: Beginning of the command, in seconds of `time.monotonic`: `--hours` includes the time since then.
        continue_hint: How to continue after an interrupt, in words; None: `evo-tune resume`.

    Returns:
        Exit code: 1 if no trial has a value, 130 after an interrupt.
    """
    from evo_tune.cli.output import print_result
    from evo_tune.cli.training.final_training import train_final_model
    from evo_tune.store.places import as_typed

    run, err = search.saved, output_format != "table"  # only a table has standard output for itself
    old_results = len(run.outcomes)
    if not quiet:
        if not run.candidates:  # a resumed run has printed them
            shared.print_remarks(search.evaluator, search.space.default(), search.space)
        for line in search.choices:
            shared.echo(line, err=err)

    # Two times count towards `--hours` beside that of the search: what this command took before the search's clock
    # began (planning), and the final training after it.
    session_seconds = search.seconds - run.resumed[-1]
    planning = 0.0 if began is None else max(0.0, time.monotonic() - began - session_seconds)
    began_in_one_session = time.monotonic() - search.seconds - planning
    events = _run_with_progress(search, quiet, output_format, tracks, price, planning)

    if run.manifest.settings.for_scale:
        from evo_tune.cli.training.scaling import write_recipe_at_target

        write_recipe_at_target(run, search.evaluator)
    report = None if no_report else _write_report(run)
    exit_code = 130 if search.stopping else 0 if search.best is not None else 1
    print_result(search, quiet, output_format, report, exit_code, events)

    model = train_final_model(search, lambda: time.monotonic() - began_in_one_session, err)
    if quiet:
        return exit_code
    if model is not None:
        shared.echo(f"the model is in {model}", err=err)
    if search.stopping:
        continue_hint = continue_hint or f"evo-tune resume {as_typed(run.folder)}"
        shared.echo(f"Interrupted. Continue with: {continue_hint}", err=True)
    elif len(run.outcomes) == old_results > 0:
        shared.echo(f"Nothing was left to do: {run.ended}; limits are totals over all sessions", err=True)
    return exit_code


def _run_with_progress(
    search: Search, quiet: bool, output_format: str, tracks: Sequence[str], price: float | None, planning: float
) -> EventStream | None:
    """Run a search; show a table or lines, print events, and write for other tools at the same time.

    Args:
        search: Search to run.
        quiet: See `run_search`.
        output_format: See `run_search`.
        tracks: See `run_search`.
        price: See `run_search`.
        planning: Seconds before the session began that `--hours` includes.

    Returns:
        The stream of events with `--format jsonl`; its last line is still to come.
    """
    from evo_tune.cli.output import EventStream, ignore_after_error, show_progress
    from evo_tune.cli.training.final_training import time_for_model
    from evo_tune.forecast.timing import TIMING

    silent = quiet or output_format != "table"
    events = EventStream(search) if output_format == "jsonl" else None
    with ExitStack() as contexts:
        if tracks:
            from evo_tune.integrations.converting import tracking

            contexts.enter_context(tracking(search.saved.folder, tracks))
        watch = contexts.enter_context(show_progress(silent, search.saved, price))
        if events is not None:
            watch = ignore_after_error(events.print_new)
        forecast = not silent and TIMING in search.evaluator.plugin.supports
        try:
            search.run(watch, forecast=forecast, planning=planning, after=time_for_model(search))
        finally:
            if events is not None:  # those since the last call
                watch(search)
    return events


def _write_report(run: Run) -> Path | None:
    """Write a run's report and return its file; an error while writing it is a warning, and never ends the run."""
    from evo_tune.report.page import write_beside
    from evo_tune.store.places import as_typed

    try:
        return write_beside(run)
    except Exception as error:
        remedy = f"the run is saved, and `evo-tune report {as_typed(run.folder)}` tries again"
        shared.echo(f"Warning: no report was written ({type(error).__name__}: {error}); {remedy}", err=True)
        return None
