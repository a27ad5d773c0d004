"""`evo-tune new`: write an evaluator to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared

PLACE = 100


@click.command("new")
@click.argument("name")
@click.option(
    "--from", "script", metavar="SCRIPT.py", help="Guess it from a training script's flags and constants, unexecuted."
)
def command(name: str, script: str | None) -> None:
    """Write ./evaluators/NAME.py, an evaluator that runs as it is, or that calls a script of yours."""
    from evo_tune.plugins.find import bundled_evaluators
    from evo_tune.plugins.scripts.writing import guessed
    from evo_tune.plugins.template import check_name, write

    check_name(name)
    made = None if script is None else guessed(name, Path(script), Path("evaluators"))
    path = write(name, Path("evaluators"), None if made is None else made.text)
    shared.echo(f"wrote {path}")
    if made is not None:
        genes, others = ", ".join(made.genes), len(made.others)
        shared.echo(f"genes, guessed: {genes}; look at them, and at what stands beside as comments ({others})")
        if made.needed:
            shared.echo(f"Warning: {script} needs {', '.join(made.needed)}: put it into ALWAYS in {path}", err=True)
    if (bundled_evaluators() / path.name).is_file():
        shared.echo(
            f"Warning: {path} hides the bundled evaluator {name} in this folder: rename it, or type bundled:{name} "
            "for that one",
            err=True,
        )
    shared.echo(f"try it: evo-tune evaluate {name}   |   evo-tune run {name} --trials 30")
