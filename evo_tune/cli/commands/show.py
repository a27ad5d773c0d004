"""`evo-tune show`: the best of a run, its course and its failures. Needs the manifest only, no evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 50

MOST_FAILURES = 5
"""Errors printed, the commonest first."""


@made("show")
@shared.run_argument
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many of the best to show.")
@shared.store_option
@shared.format_option("table", "json", "csv")
def command(run: str | None, top: int, store: str, form: str) -> None:
    """Show the best of RUN, its course and its failures.

    RUN left out means the latest one.

    As CSV: every evaluation, one a row, with the columns of the Parquet files.
    """
    from evo_tune.report.data import run_details
    from evo_tune.store.files import table_of
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    if form == "csv":
        shared.print_frame(table_of(saved, saved.trials()).to_pandas())
    elif form == "json":
        shared.print_json(run_details(saved, top))
    else:
        _print_run(saved, top)


def _print_run(run: Any, top: int) -> None:
    from evo_tune.report import summary as report
    from evo_tune.report.calibration import calibrated, reported
    from evo_tune.report.charts.next_steps import ends_of
    from evo_tune.report.words import spread

    manifest = run.manifest
    shared.echo(
        f"{run.name}: {manifest.evaluator}, strategy {manifest.strategy}, seed {manifest.seed}, "
        f"{', '.join(manifest.objectives)}, {len(run.outcomes)} evaluations in {shared.show_seconds(run.seconds)}"
    )
    rules = _rules(manifest)
    if rules:
        shared.echo(f"{', '.join(rules)}: the cost of {report.spent(run):.1f} full trainings so far")
    metrics = [objective.metric for objective in run.objectives]
    several = len(metrics) > 1
    fresh = {row.id: row for row in calibrated(run)}
    over = "over fresh seeds" if reported(run).metric == metrics[0] else f"{reported(run).metric} over fresh seeds"
    bounded = [one.metric for one in run.constraints if one.metric not in metrics]
    trials = report.front(run) if several else report.leaders(run, top)
    shared.print_rows(
        [
            {
                "trial": trial.id,
                **({over: spread(fresh.get(trial.id))} if fresh else {}),
                "generation": trial.candidate.generation,
                **{metric: trial.outcome.metrics.get(metric) for metric in (*metrics, *bounded)},
                **({"within": "yes" if trial.feasible else "no"} if bounded else {}),
                **trial.genome,
                "seconds": trial.outcome.seconds,
                "operator": trial.candidate.operator,
            }
            for trial in trials
        ],
        "table",
        "Pareto front" if several else _title(run, top, trials, bool(fresh)),
        "no full training gave a value",
        ("operator", "generation", "seconds", *reversed(run.genes)),
    )
    steps = report.best_so_far(run)
    if steps:
        course = "  ".join(f"{count}: {value:.5g}" for count, value, _ in steps)
        shared.echo(f"best {metrics[0]} so far, by evaluations: {course}")
    counts = "  ".join(f"{count} {status}" for status, count in report.statuses(run).items())
    shared.echo(f"results: {counts or 'none yet'}")
    for text, ids in report.failures(run)[:MOST_FAILURES]:
        shared.echo(f"  {len(ids)} x {text} (trial {ids[0]}{', …' if ids[1:] else ''})")
    shares = report.importances(run)
    if shares:
        told = "  ".join(f"{name} {share:.0%}" for name, share in shares.items())
        shared.echo(f"spread in {metrics[0]} that a gene explains by itself: {told}")
    for line in ends_of(run):
        shared.echo(line)
    waiting = len(run.candidates) - len(run.outcomes)
    if waiting:
        shared.echo(f"{waiting} born without a result yet: they are in flight, or run again on resume")


def _title(run: Any, top: int, trials: Sequence[Any], calibrated: bool) -> str:
    several = any(candidate.replicate for candidate in run.candidates)
    seeds = "the mean over seeds, where there are several" if several else "one seed each"
    return f"the best {top} ({seeds}{'; first, what fresh seeds recommend' if calibrated else _first(run, trials)})"


def _first(run: Any, trials: Sequence[Any]) -> str:
    """Return why the recommended trial stands before one that was seen to be better; '' where it does not."""
    seen = [(trial.violation, trial.losses) for trial in trials]
    if not seen or seen[0] == min(seen):
        return ""
    if run.manifest.by_worth:
        return "; first, what is expected to be the best with other seeds"
    return f"; first, the best that has had all {run.manifest.replicates}"


def _rules(manifest: Any) -> list[str]:
    """Return the rules that a run goes by beside its strategy, as they are typed."""
    found = [f"--subject-to '{text}'" for text in manifest.subject_to]
    if len(manifest.fidelity) > 1:
        found.insert(0, f"--fidelity {','.join(f'{rung:.3g}' for rung in manifest.fidelity)}")
    if manifest.prune:
        found.append("--prune")
    if manifest.by_worth:
        found.append("--replicates auto")
    elif manifest.replicates > 1:
        found.append(f"--replicates {manifest.replicates}")
    if manifest.own_seeds != manifest.by_worth:  # else it is as it is by default
        found.append(f"--seeds {'own' if manifest.own_seeds else 'shared'}")
    return found
