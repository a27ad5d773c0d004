"""`evo-tune report`: write a run, or several side by side, as a page that opens without a network."""

from pathlib import Path

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command("report", order=65)
@click.argument("runs", metavar="[RUN]…", nargs=-1, shell_complete=shared.complete_runs)
@click.option("-o", "--output", metavar="FILE", help="File to write.  [default: in the run's folder]")
@shared.store_option
def command(runs: tuple[str, ...], output: str | None, store: str, output_format: str) -> None:
    """Write the results of RUN as a page of charts.

    RUN is the latest one by default; several runs are shown side by side. The page opens without a network or a server.

    Opening a report executes no code of the run.
    """
    from evo_tune.cli.formats import WrittenReport
    from evo_tune.report.page import write_beside, write_report
    from evo_tune.store.run_folders import REPORT

    saved = [shared.open_run(run, store) for run in runs or (None,)]
    if output is None and len(saved) == 1:
        path = write_beside(saved[0])
    else:
        path = write_report(saved, Path(output or Path(store, REPORT)))
    report = WrittenReport(runs=[run.name for run in saved], report=str(path))
    shared.print_json_or_text(output_format, report, str(path))
