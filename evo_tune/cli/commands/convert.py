"""`evo-tune convert`: write a run for Optuna."""

import shlex
from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.text import one_line


@cli_command("convert", "evo-tune convert mine --to optuna", "evo-tune convert mine --to optuna -o all.log", order=76)
@shared.run_argument
@click.option("--to", "tool", type=click.Choice(["optuna"]), required=True, help="Target tool: a journal of Optuna.")
@click.option("-o", "--output", metavar="PATH", type=click.Path(), help="File to write.  [default: RUN-optuna.log]")
@shared.store_option
def command(run: str | None, tool: str, output: str | None, store: str, output_format: str) -> None:
    """Write RUN for Optuna and its dashboard.

    RUN is the latest one by default. Existing files are not overwritten. `run --track` writes for other tools live.
    """
    from evo_tune.cli.formats import ConvertedRun
    from evo_tune.integrations.tracking import convert

    opened_run = shared.open_run(run, store)
    name = one_line(opened_run.folder.resolve().name, 100)
    path = Path(f"{name}-optuna.log" if output is None else output)
    convert(opened_run, path)
    count, command = len(opened_run.outcomes), f"optuna-dashboard {shlex.quote(str(path))}"
    converted = ConvertedRun(run=opened_run.name, tool=tool, file=str(path), results=count, open=command)
    text = f"wrote {count} results to {path}; open it with: {command}"
    shared.print_json_or_text(output_format, converted, text)
