"""`evo-tune note`: write a note on a run."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("note", "evo-tune note mine 'wider batches, old data #paper'", order=75)
@click.argument("run", shell_complete=shared.complete_runs)
@click.argument("text", required=False)
@shared.store_option
def command(run: str, text: str | None, store: str, output_format: str) -> None:
    """Write TEXT as the note on RUN, or print its note.

    `list` and the report show it, and `list --filter '#paper'` finds it. An empty TEXT removes the note. RUN may be in
    progress.
    """
    from evo_tune.cli.formats import RunNote
    from evo_tune.store.run_folders import find_run, read_note, write_note

    folder = find_run(Path(store), run)
    if text is not None:
        write_note(folder, text)
    note = read_note(folder)
    shared.print_json_or_text(output_format, RunNote(run=folder.name, note=note), note or f"{folder.name} has no note")
