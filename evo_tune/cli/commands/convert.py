"""`evo-tune convert`: write a run for another tool."""

import shlex
from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("convert", "evo-tune convert mine --to optuna", "evo-tune convert mine --to tensorboard -o logs", order=76)
@shared.run_argument
@click.option(
    "--to",
    "tool",
    type=click.Choice(["optuna", "tensorboard", "mlflow", "wandb"]),
    required=True,
    help="Target tool. optuna: a journal file; tensorboard: a folder of event files; mlflow: an SQLite database; "
    "wandb: a folder of offline runs.",
)
@click.option(
    "-o", "--output", metavar="PATH", type=click.Path(), help="File or folder to write.  [default: RUN-optuna.log, …]"
)
@shared.store_option
def command(run: str | None, tool: str, output: str | None, store: str, output_format: str) -> None:
    """Write RUN for Optuna, TensorBoard, MLflow or W&B.

    RUN is the latest one by default. Existing files are not overwritten.
    """
    from evo_tune.cli.formats import ConvertedRun
    from evo_tune.integrations.converting import TOOLS, convert, default_path

    opened_run = shared.open_run(run, store)
    path = default_path(opened_run, tool) if output is None else Path(output)
    convert(opened_run, tool, path)
    count, command = len(opened_run.outcomes), TOOLS[tool].opened.format(shlex.quote(str(path)))
    converted = ConvertedRun(run=opened_run.name, tool=tool, file=str(path), results=count, open=command)
    text = f"wrote {count} results to {path}; open it with: {command}"
    shared.print_json_or_text(output_format, converted, text)
