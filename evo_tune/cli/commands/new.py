"""`evo-tune new`: write the file of a new evaluator."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 100


@made("new", "evo-tune new mytask", "evo-tune new mytask --from train.py")
@click.argument("name")
@click.option(
    "--from",
    "script",
    metavar="SCRIPT.py",
    shell_complete=shared.complete_files,
    help="Call this training script, with genes guessed from its flags and constants; it is not executed.",
)
@shared.format_option("table", "json")
def command(name: str, script: str | None, form: str) -> None:
    """Write ./evaluators/NAME.py, an evaluator to edit.

    The file runs as it is. With --from, it calls your script.
    """
    from evo_tune.cli.formats import NewEvaluator
    from evo_tune.plugins.find import bundled_evaluators
    from evo_tune.plugins.new import check_name, guessed, write

    check_name(name)
    guess = None if script is None else guessed(name, Path(script), Path("evaluators"))
    path = write(name, Path("evaluators"), None if guess is None else guess.text)
    if form == "json":
        shared.print_json(NewEvaluator(evaluator=name, file=str(path), genes=list(guess.genes) if guess else []))
    else:
        shared.echo(f"wrote {path}")
    if guess is not None and form == "table":
        others = f", and {len(guess.others)} more in comments of the file" if guess.others else ""
        shared.echo(f"genes guessed from the script: {', '.join(guess.genes)}; check them{others}")
    if guess is not None and guess.needed:
        shared.echo(f"Warning: {script} needs {', '.join(guess.needed)}: add it to ALWAYS in {path}", err=True)
    if (bundled_evaluators() / path.name).is_file():
        shared.echo(
            f"Warning: {path} hides the bundled evaluator {name} in this folder: rename it, or type bundled:{name} "
            "for that one",
            err=True,
        )
    if form == "table":
        shared.echo(f"try it: evo-tune evaluate {name}   |   evo-tune run {name} --trials 30")
