"""`evo-tune status`: what a run is doing, seen from outside: its folder is all that is read."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

if TYPE_CHECKING:
    from evo_tune.store.heartbeat import Beat, Busy
    from evo_tune.store.run import Run

PLACE = 40


@made("status")
@shared.run_argument
@shared.store_option
@shared.price_option
@shared.format_option("table", "json")
def command(run: str | None, store: str, price_per_hour: float | None, form: str) -> None:
    """Say what RUN is doing, from any terminal that sees its folder.

    RUN left out means the latest one.
    """
    from evo_tune.forecast.ahead import as_line
    from evo_tune.loop.opening import forecast
    from evo_tune.report.data import trial_summary
    from evo_tune.report.words import fixed
    from evo_tune.store.heartbeat import last_beat
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    beat = None if saved.ended is not None else last_beat(saved.folder)
    state, best = _state(saved, beat), saved.leader
    statuses = [outcome.status for outcome in saved.outcomes.values()]
    pruned = statuses.count("pruned")
    failed = len(statuses) - pruned - statuses.count("ok")
    quiet = time.time() - saved.last_event
    slots = beat.slots if beat is not None and beat.alive else ()
    ahead = forecast(saved.manifest, saved.sessions[-1], len(slots), run=saved) if slots else None
    if form == "json":
        from evo_tune.cli.formats import RunStatus

        shared.print_json(
            RunStatus(
                run=saved.name,
                state=state,
                running=beat is not None and beat.alive,
                births=len(saved.candidates),
                results=len(saved.outcomes),
                failed=failed,
                pruned=pruned,
                best=None if best is None else trial_summary(best),
                seconds_since_last_event=quiet,
                forecast=ahead and ahead.priced(price_per_hour),
                slots=beat.slots if beat else (),
            )
        )
        return
    metric = saved.objectives[0].metric
    value = "no value yet" if best is None else f"best {metric} {fixed(best.outcome.metrics[metric])} (trial {best.id})"
    counts = f"{failed} failed" + (f", {pruned} pruned" if pruned else "")
    shared.echo(f"{saved.name}: {state}")
    shared.echo(f"{len(saved.outcomes)} of {len(saved.candidates)} births have a result, {counts}; {value}")
    shared.echo(f"last event {shared.show_seconds(quiet)} ago")
    if beat is not None and beat.alive and not beat.slots:
        shared.echo("no slot is at work: it begins, or is driven by hand (ask and tell)")
    elif beat is not None and beat.alive:
        shared.echo("forecast: after three trainings" if ahead is None else as_line(ahead.priced(price_per_hour)))
        shared.print_table([_row(busy, beat.age) for busy in beat.slots])


def _row(busy: Busy, age: float) -> dict[str, Any]:
    return {
        "slot": busy.slot,
        "device": busy.device,
        "at work on": busy.what or "waits",
        "for": shared.show_seconds(busy.seconds + age),
        "memory": None if busy.memory is None else f"{busy.memory / 2**20:.0f} MiB",
    }


def _state(saved: Run, beat: Beat | None) -> str:
    """Say in a few words whether a run lives."""
    from evo_tune.store.places import as_typed

    if saved.ended is not None:
        return f"ended: {saved.ended}"
    again = f"`evo-tune resume {as_typed(saved.folder)}` goes on with it"
    if beat is None:
        return f"not running, and not ended by itself; {again}"
    ago = f"last sign of life {shared.show_seconds(beat.age)} ago on {beat.host}, process {beat.pid}"
    if beat.alive:
        return f"running ({ago})"
    by_hand = "" if beat.slots or beat.host == platform.node() else ", or driven by hand and at work on a result"
    return f"killed, or its machine is away{by_hand} ({ago}); if it is dead, {again}"
