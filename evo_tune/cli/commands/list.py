"""`evo-tune list`: list the saved runs, from their folders alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import StoreError
from evo_tune.text import one_line

if TYPE_CHECKING:
    from evo_tune.report.data import ListedRun

# What `--sort` names: keys of `ListedRun`.
KEYS = ("created", "run", "evaluator", "strategy", "state", "results", "failed", "best", "seconds")


@cli_command(
    "list",
    "evo-tune list --sort best",
    "evo-tune list --filter tabular --filter '#paper'  # both",
    order=30,
    formats=("table", "json", "csv"),
)
@click.option("--filter", "texts", multiple=True, metavar="TEXT", help="Only runs with TEXT in a column or the note.")
@click.option("--sort", type=click.Choice(KEYS), default="created", show_default=True, help="Order, the lowest first.")
@shared.store_option
def command(texts: tuple[str, ...], sort: str, store: str, output_format: str) -> None:
    """List the saved runs, the latest last."""
    from msgspec import structs

    from evo_tune.report.data import run_row
    from evo_tune.store.run import Run
    from evo_tune.store.run_folders import list_runs

    if store != shared.STORE and not Path(store).is_dir():
        raise StoreError(f"--store {store}: there is no such folder; give the folder of saved runs")
    runs: list[ListedRun] = []
    for folder in list_runs(Path(store)):
        try:
            runs.append(run_row(Run.open(folder)))
        except StoreError as error:
            shared.echo(f"Warning: {error}", err=True)
    for text in texts:
        runs = [run for run in runs if any(text.casefold() in str(value).casefold() for value in structs.astuple(run))]
    runs.sort(key=lambda run: (getattr(run, sort) is None, getattr(run, sort), run.created))
    rows = [_table_row(run) for run in runs] if output_format == "table" else runs
    matching = " that matches" if texts else ""
    shared.print_rows(
        rows,
        output_format,
        empty=f"there is no saved run{matching} in {store}: start one with `evo-tune run`",
        spare=("strategy", "wall time", "seeds", "failed", "note"),
    )


def _table_row(run: "ListedRun") -> dict[str, Any]:
    """Return the columns of a table: the first ones fit a narrow terminal."""
    return {
        "run": run.run,
        "began": run.created[:16].replace("T", " "),
        "evaluator": one_line(run.evaluator.removeprefix("bundled:").removeprefix("command:"), 24),
        "state": run.state,
        "trials": run.results,
        "best": run.best_text,
        "seeds": (run.seeds or "").partition(", ")[0],
        "failed": run.failed,
        "wall time": shared.show_seconds(run.seconds),
        "strategy": run.strategy,
        "note": one_line(run.note, 40),
    }
