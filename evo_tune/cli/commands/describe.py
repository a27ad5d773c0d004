"""`evo-tune describe`: say what an evaluator reads of its data. Nothing is trained or written."""

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("describe", "evo-tune describe tabular -o data=table.csv -o target=kind", order=85)
@click.argument("evaluator", type=click.Path())
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the evaluator.")
def command(evaluator: str, options: tuple[str, ...], output_format: str) -> None:
    """Describe an evaluator's data, with the kind of each column.

    Sizes, classes and the reason for each kind are printed too.
    """
    from evo_tune.cli.formats import DescribedData
    from evo_tune.loop.code import load_named_evaluator
    from evo_tune.options.binding import split_assignments

    option_values = split_assignments(options, "-o")
    bound = load_named_evaluator(evaluator, None, option_values).bind(option_values)
    lines = bound.describe()
    if output_format == "json":  # the fingerprint takes a pass over the data, and refuses data that is too short
        shared.print_json(DescribedData(evaluator=bound.plugin.name, fingerprint=bound.fingerprint(), lines=lines))
        return
    for line in lines or [f"{bound.plugin.name} says nothing of its data"]:
        shared.echo(line)
