"""`evo-tune rename`: give a saved run another name."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("rename", "evo-tune rename first-try baseline", order=71)
@click.argument("run", shell_complete=shared.complete_runs)
@click.argument("name")
@shared.store_option
def command(run: str, name: str, store: str, output_format: str) -> None:
    """Rename RUN to NAME.

    A run that is in progress is refused.
    """
    from evo_tune.cli.formats import RunFolder
    from evo_tune.store.run_folders import find_run, rename_run

    folder = rename_run(find_run(Path(store), run), name)
    result = RunFolder(run=folder.name, folder=str(folder))
    shared.print_json_or_text(output_format, result, f"{run} is now {folder}")
