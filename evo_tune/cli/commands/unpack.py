"""`evo-tune unpack`: add a run that was packed to the saved runs."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("unpack", "evo-tune unpack mine.zip --as theirs", order=74)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--as", "name", metavar="NAME", help="Name of the run.  [default: that of the file]")
@shared.store_option
def command(file: str, name: str | None, store: str, output_format: str) -> None:
    """Add the run in FILE to the saved runs.

    FILE is what `evo-tune pack` wrote.
    Looking at it executes nothing. Its code runs only if you began it yourself, or with --trust.
    """
    from evo_tune.cli.formats import RunFolder
    from evo_tune.store.archive import unpack_run
    from evo_tune.store.run_folders import run_reference

    folder = unpack_run(Path(file), Path(store), name or Path(file).stem)
    result = RunFolder(run=folder.name, folder=str(folder))
    shared.print_json_or_text(output_format, result, f"{folder}: look at it by evo-tune show {run_reference(folder)}")
