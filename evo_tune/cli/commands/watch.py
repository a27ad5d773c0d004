"""`evo-tune watch`: a run's report as a page that follows it."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 55


@made("watch")
@shared.run_argument
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where the page is.  [default: a free one]")
@shared.store_option
@shared.format_option("table", "json")
def command(run: str | None, port: int, store: str, form: str) -> None:
    """Serve RUN's report as a page that follows it.

    RUN left out means the latest one. It may be the run of another process, or of another machine over a shared folder:
    nothing is locked and nothing written, and the run waits for nobody. The page is for this machine alone, and its
    address holds a token; Ctrl-C ends it.
    """
    from evo_tune.report.serving import serve
    from evo_tune.store.places import find_run

    folder = find_run(Path(store), run)

    def tell(address: str) -> None:
        if form == "json":
            from evo_tune.cli.formats import WatchedRun

            shared.print_json(WatchedRun(run=folder.name, address=address))
        else:
            shared.echo(f"open {address}   (Ctrl-C ends it)")

    serve(folder, port, tell)
