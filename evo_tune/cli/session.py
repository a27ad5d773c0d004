"""The session that `run`, `resume` and `auto` start: the loop, its progress, its result, and the model of `auto`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from evo_tune.cli import shared

if TYPE_CHECKING:
    from evo_tune.loop.search import Search


def run_search(search: Search, output: shared.OutputFlags, began: float, continue_hint: str | None = None) -> int:
    """Run a search, show its progress, write its report, print its result, and train the model that `auto` asks for.

    Args:
        search: Search to run.
        output: What to print and to write.
        began: Beginning of the command, in seconds of `time.monotonic`: `--hours` includes the time since then.
        continue_hint: How to continue after an interrupt, in words; None: `evo-tune resume`.

    Returns:
        Exit code: 1 if no trial has a value, 130 after an interrupt.
    """
    from evo_tune.cli.output import print_result
    from evo_tune.cli.training.final_training import train_final_model
    from evo_tune.store.places import run_arguments

    run, err = search.saved, output.output_format != "table"  # only a table has standard output for itself
    old_results = len(run.outcomes)
    if not output.quiet:
        if not run.candidates:  # a resumed run has printed them
            shared.print_remarks(search.evaluator, search.space.default(), search.space)
        shared.echo(*search.choices, err=err)

    # Two times count towards `--hours` beside that of the search: what this command took before the search's clock
    # began (planning), and the final training after it.
    session_seconds = search.seconds - run.resumed[-1]
    planning = max(0.0, time.monotonic() - began - session_seconds)
    began_in_one_session = time.monotonic() - search.seconds - planning
    _run_with_progress(search, output, planning)

    if run.manifest.settings.for_scale:
        from evo_tune.cli.training.scaling import write_recipe_at_target

        write_recipe_at_target(run, search.evaluator)
    report = None
    if not output.no_report:
        from evo_tune.report.page import write_beside

        try:
            report = write_beside(run)
        except Exception as error:  # it never ends the run
            remedy = f"the run is saved, and `evo-tune report {run_arguments(run.folder)}` tries again"
            shared.echo(f"Warning: no report was written ({type(error).__name__}: {error}); {remedy}", err=True)
    exit_code = 130 if search.stopping else 0 if search.best is not None else 1
    print_result(search, output, report, exit_code)

    model = train_final_model(search, lambda: time.monotonic() - began_in_one_session, err)
    if output.quiet:
        return exit_code
    if model is not None:
        shared.echo(f"the model is in {model}", err=err)
    if search.stopping:
        continue_hint = continue_hint or f"evo-tune resume {run_arguments(run.folder)}"
        shared.echo(f"Interrupted. Continue with: {continue_hint}", err=True)
    elif len(run.outcomes) == old_results > 0:
        shared.echo(f"Nothing was left to do: {run.ended}; limits are totals over all sessions", err=True)
    return exit_code


def _run_with_progress(search: Search, output: shared.OutputFlags, planning: float) -> None:
    """Run a search; show a table or lines, print events, and write for other tools at the same time.

    Args:
        search: Search to run.
        output: What to print and to write.
        planning: Seconds before the session began that `--hours` includes.
    """
    from evo_tune.cli.output import EventStream, ignore_after_error, show_progress
    from evo_tune.cli.training.final_training import time_for_model
    from evo_tune.forecast.timing import TIMING

    silent = output.quiet or output.output_format != "table"
    events = EventStream(search) if output.output_format == "jsonl" else None
    with ExitStack() as contexts:
        if output.tracks:
            from evo_tune.integrations.converting import tracking

            contexts.enter_context(tracking(search.saved.folder, output.tracks))
        watch = contexts.enter_context(show_progress(silent, search.saved, output.price_per_hour))
        if events is not None:
            watch = ignore_after_error(events.print_new)
        forecast = not silent and TIMING in search.evaluator.plugin.supports
        try:
            search.run(watch, forecast=forecast, planning=planning, after=time_for_model(search))
        finally:
            if events is not None:  # those since the last call
                watch(search)
