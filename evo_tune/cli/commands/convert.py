"""`evo-tune convert`: a run for other people's tools."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared

PLACE = 125


@click.command("convert")
@shared.run_argument
@click.option(
    "--to",
    "tool",
    type=click.Choice(["optuna", "tensorboard", "mlflow"]),
    required=True,
    help="optuna: a journal file; tensorboard: a folder of event files; mlflow: an SQLite database.",
)
@click.option(
    "-o", "--output", metavar="PATH", help="File or folder to make.  [default: RUN-optuna.log, RUN-tensorboard, …]"
)
@shared.store_option
def command(run: str | None, tool: str, output: str | None, store: str) -> None:
    """Write RUN for another tool: Optuna's dashboard, TensorBoard or MLflow.

    RUN left out means the latest one. Nothing that exists is overwritten.
    """
    from evo_tune.integrations.converting import convert, opened_by, usual_path
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    path = usual_path(saved, tool) if output is None else Path(output)
    convert(saved, tool, path)
    shared.echo(f"{len(saved.outcomes)} results written to {path}; open it with: {opened_by(tool, path)}")
