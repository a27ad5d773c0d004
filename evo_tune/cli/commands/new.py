"""`evo-tune new`: write an evaluator to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 100


@made("new")
@click.argument("name")
@click.option(
    "--from", "script", metavar="SCRIPT.py", help="Guess it from a training script's flags and constants, unexecuted."
)
@shared.format_option("table", "json")
def command(name: str, script: str | None, form: str) -> None:
    """Write ./evaluators/NAME.py, an evaluator that runs as it is, or that calls a script of yours."""
    from evo_tune.plugins.find import bundled_evaluators
    from evo_tune.plugins.scripts.writing import guessed
    from evo_tune.plugins.template import check_name, write

    check_name(name)
    made = None if script is None else guessed(name, Path(script), Path("evaluators"))
    path = write(name, Path("evaluators"), None if made is None else made.text)
    genes, others = ([], 0) if made is None else (list(made.genes), len(made.others))
    if form == "json":
        shared.print_json({"evaluator": name, "file": str(path), "genes": genes})
    else:
        shared.echo(f"wrote {path}")
        if made is not None:
            beside = f"look at them, and at what stands beside as comments ({others})"
            shared.echo(f"genes, guessed: {', '.join(genes)}; {beside}")
    if made is not None and made.needed:
        shared.echo(f"Warning: {script} needs {', '.join(made.needed)}: put it into ALWAYS in {path}", err=True)
    if (bundled_evaluators() / path.name).is_file():
        shared.echo(
            f"Warning: {path} hides the bundled evaluator {name} in this folder: rename it, or type bundled:{name} "
            "for that one",
            err=True,
        )
    if form == "table":
        shared.echo(f"try it: evo-tune evaluate {name}   |   evo-tune run {name} --trials 30")
