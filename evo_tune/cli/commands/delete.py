"""`evo-tune delete`: delete saved runs."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import UsageError


@cli_command("delete", "evo-tune delete first-try --yes", order=72)
@click.argument("runs", metavar="RUN…", nargs=-1, required=True, shell_complete=shared.complete_runs)
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared.store_option
def command(runs: tuple[str, ...], yes: bool, store: str, output_format: str) -> None:
    """Delete runs with all their files.

    A run that is in progress is refused.
    """
    from evo_tune.cli.formats import DeletedRuns
    from evo_tune.store.run_folders import delete_run, find_run

    ask, deleted = shared.ask_function(), []
    for folder in [find_run(Path(store), run) for run in runs]:  # a wrong name deletes nothing
        question = f"Delete {folder} with all its results?"
        if not yes and ask is None:
            raise UsageError(f"cannot ask whether to delete {folder}, without a terminal: give --yes")
        if yes or (ask is not None and ask(question)):
            delete_run(folder)
            deleted.append(folder)
    names = [folder.name for folder in deleted]
    shared.print_json_or_text(output_format, DeletedRuns(runs=names), *(f"deleted {folder}" for folder in deleted))
