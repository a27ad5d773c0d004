"""`evo-tune watch`: serve the report of a run as a page that follows it, or a page of all runs."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("watch", order=55)
@shared.run_argument
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the page.  [default: a free one]")
@shared.store_option
def command(run: str | None, port: int, store: str, output_format: str) -> None:
    """Serve a page that follows RUN, or a page of all runs.

    Without RUN, the page has a link to each run of the store.
    RUN may be in progress in another process, or on another machine with a shared folder. `watch` locks nothing, writes
    nothing, and does not slow the run. Only this machine can open the page, and its address contains a token. Ctrl-C
    ends it.
    """
    from evo_tune.cli.formats import WatchedRun
    from evo_tune.report.serving import LiveReport, LiveStore, serve
    from evo_tune.store.run_folders import find_run

    folder = find_run(Path(store), run)

    def show(address: str) -> None:
        watched = WatchedRun(run=folder.name, address=address)
        shared.print_json_or_text(output_format, watched, f"open {address}   (Ctrl-C ends it)")

    serve(LiveStore(Path(store)) if run is None else LiveReport(folder), port, show)
