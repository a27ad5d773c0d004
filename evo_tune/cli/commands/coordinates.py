"""`evo-tune coordinates`: check that a parametrisation keeps the size of activations when a model grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made
from evo_tune.errors import UsageError

if TYPE_CHECKING:
    from evo_tune.cli.formats import ModelSlopes

PLACE = 135


@made(
    "coordinates",
    "evo-tune coordinates completep",
    "evo-tune coordinates mup --optimizer muon",
)
@click.argument("param", type=click.Choice(["standard", "mup", "completep"]), default="completep")
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "muon", "sgd"]),
    default="adamw",
    show_default=True,
    help="Optimizer of the trainings.",
)
@click.option(
    "--init",
    type=click.Choice(["normal", "fan_in"]),
    default="normal",
    show_default=True,
    help="Initialisation of the weights.",
)
@click.option("--untied", is_flag=True, help="Give the output head weights of its own.")
@click.option("--widths", default="32,64,128,256,512", show_default=True, help="Widths to train, multiples of 16.")
@click.option("--depths", default="2,4,8,16", show_default=True, help="Depths to train; '' skips the depth.")
@click.option("--steps", type=click.IntRange(1, 1000), default=10, show_default=True, help="Steps of each training.")
@click.option("--lr", type=float, help="Peak learning rate at the smallest size.  [default: a large one]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of weights and tokens.")
@shared.format_option("table", "json")
def command(
    param: str, optimizer: str, init: str, untied: bool, widths: str, depths: str, form: str, **training: Any
) -> int:
    """Run the coordinate check of a parametrisation.

    A parametrisation is a value of -o param=. The check trains small GPTs for a few steps at a large learning rate,
    which takes seconds. The sizes of their residual stream, of their logits and of the changes of both must not depend
    on the width. With completep, the residual stream must not depend on the depth either. `standard` is the control,
    which fails.
    """
    from evo_tune.cli.formats import CoordinateCheck, ModelSlopes
    from evo_tune.training.probing.coordinates import check_coordinates

    found = check_coordinates(
        param,
        optimizer=optimizer,
        init=init,
        tied=not untied,
        widths=_numbers("--widths", widths),
        depths=_numbers("--depths", depths),
        **training,
    )
    slopes = [
        ModelSlopes(
            of=one.of,
            against=one.against,
            sizes=one.sizes,
            least=round(one.least, 4),
            most=round(one.most, 4),
            bounds=one.bounds,
            passed=one.passed,
        )
        for one in found
    ]
    if form == "json":
        shared.print_json(CoordinateCheck(param=param, optimizer=optimizer, init=init, slopes=slopes))
    else:
        for one in slopes:
            shared.echo(_line(one))
    if all(one.passed for one in slopes):
        return 0
    mend = "" if param == "completep" else "; try -o param=completep"
    shared.echo(
        f"{param} with {optimizer} does not keep the size of activations: a genome that is good at one size may not be "
        f"good at another{mend}",
        err=True,
    )
    return 1


def _line(one: ModelSlopes) -> str:
    sizes = ", ".join(map(str, one.sizes))
    text = f"{one.of} against {one.against} ({sizes}): {one.least:+.2f} to {one.most:+.2f}"
    if one.bounds is None:
        return f"{text}  (no bounds)"
    return f"{text}  (bounds: {one.bounds[0]:+.2f} to {one.bounds[1]:+.2f})  {'passes' if one.passed else 'fails'}"


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{flag} {text}: expected whole numbers separated by commas, such as 32,64,128") from None
