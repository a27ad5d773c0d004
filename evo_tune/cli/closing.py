"""How a run ended: the closing table, or the same as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evo_tune.cli import _shared as shared
from evo_tune.cli.for_scale import in_lines
from evo_tune.genome.trial import Trial
from evo_tune.report import summary as report
from evo_tune.report.charts.next_steps import ends_of
from evo_tune.report.charts.scale import read_carried
from evo_tune.report.data import run_summary
from evo_tune.report.summary import DONE_BY_ITSELF, Closing, further_of, in_words
from evo_tune.report.words import spread, verdict
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run


def print_closing(run: Run, form: str, status: str = "", report_file: Path | None = None) -> None:
    """Print best against default, evaluations, wall time, where it is saved and what to type next.

    Args:
        run: The run.
        form: 'table' or 'json'.
        status: Where its strategy says that it stands.
        report_file: Where its report is; None if there is none.
    """
    if form == "json":
        shared.print_json(run_summary(run, status, report_file))
        return
    end = report.closing(run)
    shared.echo()
    rows = [row for row in (_row("best", end.best, end), _row("default", end.default, end)) if row]
    if rows:
        shared.print_table(rows)
    if end.best is not None:
        shared.echo(f"best genome: {shared.show_genome(end.best.genome)}")
    if end.expected is not None and end.calibrated_best is None:
        shared.echo(f"{end.metric} {end.expected:.6g} is expected of it with other seeds")
    if len(run.objectives) > 1:
        shared.echo(f"Pareto front: {len(report.front(run))} trials (evo-tune best {as_typed(run.folder)} shows them)")
    for line in _rules_met(run, end):
        shared.echo(line)
    shared.echo(verdict(end))
    for line in ends_of(run):
        shared.echo(line)
    if run.ended is not None and run.ended.startswith(DONE_BY_ITSELF):
        shared.echo(f"stopped, since {run.ended}")
    elif (promised := further_of(run)) is not None:
        shared.echo(f"going on: {in_words(promised)}")
    if (told := read_carried(run)) is not None:
        for line in in_lines(run, told):
            shared.echo(line)
    if status:
        shared.echo(status)
    pruned = f", {end.pruned} pruned" if end.pruned else ""
    took = shared.show_seconds(end.seconds)
    shared.echo(f"{end.evaluations} evaluations, {end.failures} of them failed{pruned}, in {took}")
    reasons = report.caveats(run)
    if reasons:
        shared.echo(f"not repeatable to the bit: {'; '.join(reasons)}; `evo-tune verify` holds all the same")
    shared.echo(f"saved in {run.folder}")
    name = as_typed(run.folder)
    more = f"evo-tune resume {name} --generations {report.further_generations(run)}"
    shared.echo(f"next: evo-tune show {name}   |   {more}   |   evo-tune best {name} --format json")
    if report_file is not None:
        shared.echo(f"report: {report_file}")


def _row(name: str, trial: Trial | None, end: Closing) -> dict[str, Any] | None:
    if trial is None:
        return None
    row: dict[str, Any] = {"": name, "trial": trial.id}
    if end.calibrated_best or end.calibrated_default:
        row[f"{end.reported} over fresh seeds"] = spread(
            end.calibrated_best if name == "best" else end.calibrated_default
        )
    return {**row, f"{end.metric}, {end.seeded}": trial.outcome.metrics[end.metric]}


def _rules_met(run: Run, end: Closing) -> Iterator[str]:
    """Yield what rungs and constraints made of the run, a line each."""
    if len(run.manifest.fidelity) > 1:
        counts = f"{report.born(run)} genomes, {report.trained_in_full(run)} of them trained in full"
        yield f"{counts}: the cost of {report.spent(run):.1f} full trainings"
    limits = ", ".join(run.manifest.subject_to)
    if end.best is not None and not end.best.feasible:
        yield f"no full training keeps to {limits}: the best is the one that comes nearest"
    elif end.default is not None and not end.default.feasible:
        yield f"the default does not keep to {limits}, so it is no fair opponent"
