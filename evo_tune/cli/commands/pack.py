"""`evo-tune pack`: write a run as one file."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("pack", "evo-tune pack mine -o mine.zip", order=73)
@shared.run_argument
@click.option("-o", "--output", metavar="FILE", help="File to write.  [default: RUN.zip]")
@shared.store_option
def command(run: str | None, output: str | None, store: str, output_format: str) -> None:
    """Write RUN as one ZIP file, without checkpoints and logs.

    RUN is the latest one by default. `evo-tune unpack FILE` makes a run of it again, which `report`, `show`, `verify`
    and `resume` accept.
    """
    from evo_tune.cli.formats import PackedRun
    from evo_tune.store.archive import pack_run
    from evo_tune.store.run_folders import find_run

    folder = find_run(Path(store), run)
    file = Path(output or f"{folder.name}.zip")
    result = PackedRun(run=folder.name, file=str(file), bytes=pack_run(folder, file))
    shared.print_json_or_text(output_format, result, f"{file}: {result.bytes / 1e3:,.0f} kB")
