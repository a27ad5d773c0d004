"""`evo-tune coordinates`: check on this machine that a parametrisation keeps activations of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made
from evo_tune.errors import UsageError

if TYPE_CHECKING:
    from evo_tune.training.probing.coordinates import Slopes


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
    help="What trains them.",
)
@click.option(
    "--init", type=click.Choice(["normal", "fan_in"]), default="normal", show_default=True, help="How they begin."
)
@click.option("--widths", default="32,64,128,256,512", show_default=True, help="Multiples of 16.")
@click.option("--depths", default="2,4,8,16", show_default=True, help="Empty: depth is not looked at.")
@click.option("--steps", type=click.IntRange(1, 1000), default=10, show_default=True, help="Steps of each training.")
@click.option("--lr", type=float, help="Peak learning rate at the least size.  [default: a large one]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and tokens.")
@shared.format_option("table", "json")
def command(
    param: str,
    optimizer: str,
    init: str,
    widths: str,
    depths: str,
    steps: int,
    lr: float | None,
    seed: int,
    form: str,
) -> int:
    """Check that what is found small holds when large: the coordinate check of -o param=PARAM.

    Small GPTs are trained for a few steps at a large learning rate (seconds). Their activations, and what these have
    learnt, must neither grow nor vanish with the width, and with completep with the depth. `standard` is the control:
    it fails.
    """
    from evo_tune.training.probing.coordinates import check_coordinates

    found = check_coordinates(
        param,
        optimizer=optimizer,
        init=init,
        widths=_numbers("--widths", widths),
        depths=_numbers("--depths", depths),
        steps=steps,
        lr=lr,
        seed=seed,
    )
    if form == "json":
        _print_json(param, optimizer, init, found)
    else:
        for one in found:
            asked = "nothing is asked" if one.bounds is None else f"asked: {one.bounds[0]:+.1f} to {one.bounds[1]:+.1f}"
            verdict = "" if one.bounds is None else "  holds" if one.holds else "  fails"
            sizes = ", ".join(map(str, one.sizes))
            shared.echo(f"against {one.against} ({sizes}): {one.least:+.2f} to {one.most:+.2f}  ({asked}){verdict}")
    if all(one.holds for one in found):
        return 0
    told = f"{param} with {optimizer} does not keep activations of one size: what is found at one size does not hold"
    more = "; try -o param=completep" if param != "completep" else ""
    shared.echo(f"{told} at another{more}", err=True)
    return 1


def _print_json(param: str, optimizer: str, init: str, found: Sequence[Slopes]) -> None:
    from evo_tune.cli.formats import CoordinateCheck, ModelSlopes

    slopes = [
        ModelSlopes(
            against=one.against,
            sizes=one.sizes,
            least=round(one.least, 4),
            most=round(one.most, 4),
            asked=one.bounds,
            holds=one.holds,
        )
        for one in found
    ]
    shared.print_json(CoordinateCheck(param=param, optimizer=optimizer, init=init, slopes=slopes))


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{name} {text}: expected whole numbers with commas between them, such as 32,64,128") from None
