"""`evo-tune list`: what runs there are. Needs the manifests only, no evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

if TYPE_CHECKING:
    from evo_tune.report.summary import Closing

PLACE = 30


@made("list")
@shared.store_option
@shared.format_option("table", "json", "csv")
def command(store: str, form: str) -> None:
    """List the saved runs, the latest last."""
    from evo_tune.errors import StoreError
    from evo_tune.report.summary import closing
    from evo_tune.store.places import list_runs
    from evo_tune.store.run import Run

    rows: list[dict[str, Any]] = []
    for folder in list_runs(Path(store)):
        try:
            run = Run.open(folder)
        except StoreError as error:
            shared.echo(f"Warning: {error}", err=True)
            continue
        end = closing(run)
        fresh = end.calibrated_best if end.calibrated_best and end.calibrated_best.values else None
        rows.append(
            {
                "run": run.name,
                "evaluator": run.manifest.evaluator,
                "strategy": run.manifest.strategy,
                "evaluations": end.evaluations,
                "failed": end.failures,
                "objective": end.metric,
                "best": fresh.mean if fresh else end.best.outcome.metrics[end.metric] if end.best else None,
                "of": _fresh(len(fresh.values), end) if fresh else end.seeded if end.best else None,
                "seconds": round(end.seconds, 3),
                "ended": run.ended,
                "created": run.manifest.created,
            }
        )
    if form == "table":
        rows = [_for_people(row) for row in rows]
    shared.print_rows(
        rows,
        form,
        empty=f"there is no saved run in {store}: start one with `evo-tune run`",
        spare=("created", "ended", "strategy", "failed", "wall time", "evaluator"),
    )


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in row if name not in ("seconds", "ended", "created")}
    ended = row["ended"] or "not yet, or killed"
    return {**shown, "wall time": shared.show_seconds(row["seconds"]), "ended": ended, "created": row["created"]}


def _fresh(seeds: int, end: Closing) -> str:
    return f"{seeds} fresh seeds" + (f", {end.reported}" if end.tested else "")
