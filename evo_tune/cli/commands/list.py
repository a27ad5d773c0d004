"""`evo-tune list`: list the saved runs, from their folders alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.report.data import ListedRun


@cli_command("list", order=30)
@shared.store_option
@shared.format_option("table", "json", "csv")
def command(store: str, output_format: str) -> None:
    """List the saved runs, the latest last."""
    from msgspec import structs

    from evo_tune.errors import StoreError
    from evo_tune.report.data import run_row
    from evo_tune.store.run import Run
    from evo_tune.store.run_folders import list_runs

    runs: list[ListedRun] = []
    for folder in list_runs(Path(store)):
        try:
            runs.append(run_row(Run.open(folder)))
        except StoreError as error:
            shared.echo(f"Warning: {error}", err=True)
    if output_format == "json":
        shared.print_json(runs)
        return
    rows = [structs.asdict(run) for run in runs]
    if output_format == "table":
        for row in rows:
            row["ended"] = row["ended"] or "not yet, or killed"
            row["wall time"] = shared.show_seconds(row.pop("seconds"))
            row["ended"], row["created"] = row.pop("ended"), row.pop("created")  # the last columns
    shared.print_rows(
        rows,
        output_format,
        empty=f"there is no saved run in {store}: start one with `evo-tune run`",
        spare=("created", "ended", "strategy", "failed", "wall time", "evaluator"),
    )
