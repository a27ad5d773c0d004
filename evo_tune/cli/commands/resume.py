"""`evo-tune resume`: continue a run."""

from typing import Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("resume", settings="session_flags", order=20, formats=("table", "json", "jsonl"))
@shared.run_argument
@shared.output_flags
@shared.store_option
@click.option("--as", "copy_as", metavar="NAME", help="Name of a copy to continue instead of the run.")
@click.option("--accept-changes", is_flag=True, help="Continue although evaluator, data or strategy changed.")
@shared.evaluator_option
@click.option("--strategy", metavar="PATH", help="New path of the strategy's file, if it has moved.")
@click.option(
    "--gene", "genes", multiple=True, metavar="NAME=GENE", help="Wider range of a gene for new trials: lr=log(1e-5,1)."
)
@shared.trust_option
def command(run: str | None, output: shared.OutputFlags, genes: tuple[str, ...], **flags: Any) -> int:
    """Continue RUN, after a stop or beyond its limit.

    RUN is the latest one by default.

    Limits are totals: `--generations 8` continues a run of 5 generations for 3 more.
    """
    import time

    began = time.monotonic()

    from evo_tune.cli.session import run_search
    from evo_tune.loop.search import Search

    given_flags = {name: value for name, value in flags.items() if value is not None}
    search = Search.resume(run, genes=shared.read_genes(genes), ask=shared.ask_function(), **given_flags)
    return run_search(search, output, began)
