"""`evo-tune new`: write the file of a new evaluator."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("new", "evo-tune new mytask", order=100)
@click.argument("name")
def command(name: str, output_format: str) -> None:
    """Write ./evaluators/NAME.py, an evaluator to edit.

    The file runs as it is.
    """
    from evo_tune.cli.formats import NewEvaluator
    from evo_tune.plugins.find import bundled_folder, write

    path = write(name, Path("evaluators"))
    shared.print_json_or_text(output_format, NewEvaluator(evaluator=name, file=str(path)), f"wrote {path}")
    if (bundled_folder() / path.name).is_file():
        shared.echo(f"Warning: {path} hides the bundled evaluator {name}, which is bundled:{name} now", err=True)
    if output_format == "table":
        shared.echo(f"try it: evo-tune evaluate {name}   |   evo-tune run {name} --trials 30")
