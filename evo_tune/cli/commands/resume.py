"""`evo-tune resume`: go on with a run."""

from __future__ import annotations

from typing import Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made
from evo_tune.cli.session import go, session_options

PLACE = 20


@made("resume")
@shared.run_argument
@session_options()
@shared.store_option
@click.option("--as", "copy_as", metavar="NAME", help="Copy the run first, and go on with the copy.")
@click.option("--accept-changes", is_flag=True, help="Go on although evaluator, data or strategy changed.")
@click.option("--evaluator", metavar="PATH", help="Where the evaluator's file is now, if it has moved.")
@click.option("--strategy", metavar="PATH", help="Where the strategy's file is now, if it has moved.")
@click.option(
    "--gene",
    "genes",
    multiple=True,
    metavar="NAME=GENE",
    help="A gene's wider range from the next birth on: lr=log(1e-5,1e0).",
)
@shared.trust_option
def command(
    run: str | None,
    store: str,
    quiet: bool,
    no_report: bool,
    tracks: tuple[str, ...],
    form: str,
    price_per_hour: float | None,
    copy_as: str | None,
    accept_changes: bool,
    evaluator: str | None,
    strategy: str | None,
    genes: tuple[str, ...],
    trust: bool,
    **session: Any,
) -> int:
    """Go on with RUN, after a stop or beyond its limit.

    RUN left out means the latest one.

    Limits are totals: a run of 5 generations goes on to 8 with `--generations 8`.
    """
    from evo_tune.loop.search import Search

    wider = shared.read_genes(genes)
    changes = {name: value for name, value in session.items() if value is not None}
    search = Search.resume(
        run,
        store=store,
        copy_as=copy_as,
        accept_changes=accept_changes,
        evaluator=evaluator,
        strategy=strategy,
        genes=wider,
        trust=trust,
        ask=shared.asking(),
        **changes,
    )
    return go(search, quiet, form, no_report, tracks, price_per_hour)
