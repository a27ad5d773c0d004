"""`evo-tune new`: write an evaluator to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 100


@made("new")
@click.argument("name")
def command(name: str) -> None:
    """Write ./evaluators/NAME.py, an evaluator that runs as it is."""
    from evo_tune.plugins.find import bundled_evaluators
    from evo_tune.plugins.template import write

    path = write(name, Path("evaluators"))
    shared.echo(f"wrote {path}")
    if (bundled_evaluators() / path.name).is_file():
        shared.echo(
            f"Warning: {path} hides the bundled evaluator {name} in this folder: rename it, or type bundled:{name} "
            "for that one",
            err=True,
        )
    shared.echo(f"try it: evo-tune evaluate {name}   |   evo-tune run {name} --trials 30")
