"""`evo-tune status`: print the present state of a run, from its folder alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.cli.output import RunStatus
    from evo_tune.store.run import Run


@cli_command("status", order=40)
@shared.run_argument
@shared.store_option
@shared.price_option
def command(run: str | None, store: str, price_per_hour: float | None, output_format: str) -> None:
    """Print the state of RUN.

    RUN is the latest one by default. Any machine that sees its folder may be used.
    """
    from evo_tune.cli.output import RunStatus
    from evo_tune.forecast import forecast_run
    from evo_tune.forecast.clock import Clock
    from evo_tune.report.data import trial_summary
    from evo_tune.report.summary import present_beat, pruning_savings, state_in_words
    from evo_tune.store.inbox import waiting_files

    saved = shared.open_run(run, store)
    beat = present_beat(saved)
    running = beat is not None and beat.alive
    statuses = [outcome.status for outcome in saved.outcomes.values()]
    slots = beat.slots if beat is not None else ()
    run_forecast = forecast_run(saved.manifest, saved.session, len(slots), Clock(saved)) if running and slots else None
    status = RunStatus(
        run=saved.name,
        state=state_in_words(saved, beat),
        running=running,
        proposed=len(saved.candidates),
        results=len(statuses),
        failed=len(statuses) - statuses.count("pruned") - statuses.count("ok"),
        pruned=statuses.count("pruned"),
        saved_by_pruning=pruning_savings(saved),
        best=None if saved.leader is None else trial_summary(saved.leader),
        waiting=len(waiting_files(saved)),
        seconds_since_last_event=max(0.0, time.time() - saved.last_event),
        forecast=run_forecast and run_forecast.with_cost(price_per_hour),
        slots=slots,
    )
    if output_format == "json":
        shared.print_json(status)
    else:
        _print_status(status, saved, 0.0 if beat is None else beat.age)


def _print_status(status: RunStatus, run: Run, age: float) -> None:
    """Print a status for people.

    Args:
        status: State of the run.
        run: The run.
        age: Seconds since its last sign of life.
    """
    from evo_tune.forecast import forecast_line
    from evo_tune.report.summary import pruning_line, results_in_words, resume_command
    from evo_tune.text import show_decimals, with_plural

    best, metric = run.leader, run.objectives[0].metric
    value = "no value yet"
    if best is not None:
        value = f"best {metric} {show_decimals(best.outcome.metrics[metric])} in the search (trial {best.id})"
    counts = f"{status.failed} failed" + (f", {status.pruned} pruned" if status.pruned else "")
    last_event = f"last event {shared.show_seconds(status.seconds_since_last_event)} ago"
    shared.echo(f"{status.run}: {status.state}", f"{results_in_words(run)}; {counts}; {value}", last_event)
    shared.echo(*filter(None, [pruning_line(run)]))
    if status.waiting:
        more = "" if status.running else f": `{resume_command(run)}` trains them"
        shared.echo(
            f"{with_plural(status.waiting, 'proposed genome')} waiting, to be trained next, within the limits{more}"
        )
    if not status.running:
        return
    if not status.slots:
        shared.echo("no slot is open: the run is starting, or a program drives it (ask and tell)")
        return
    shared.echo(forecast_line(status.forecast))
    rows = []
    for slot in status.slots:
        memory = None if slot.memory is None else f"{slot.memory / 2**20:.0f} MiB"
        row = {"slot": slot.slot, "device": slot.device, "work": slot.work or "none"}
        rows.append({**row, "for": shared.show_seconds(slot.seconds + age), "memory": memory})
    shared.print_rows(rows, "table")
