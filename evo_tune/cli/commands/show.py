"""`evo-tune show`: print the best trials, the improvements and the failures of a run, from its folder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.store.run import Run

# Most genes to print with the spread that they explain, the largest share first.
MOST_SHARES = 20


@cli_command("show", order=50, formats=("table", "json", "csv"))
@shared.run_argument
@click.option("--top", type=shared.COUNT, default=10, show_default=True, help="Number of best trials to show.")
@click.option("--predict", multiple=True, metavar="GENOME", help="Genome whose value is predicted: 'lr=3e-3 depth=4'.")
@shared.store_option
def command(run: str | None, top: int, predict: tuple[str, ...], store: str, output_format: str) -> None:
    """Show the best trials, improvements and failures of RUN.

    RUN is the latest one by default.

    With --format csv, print one row for each evaluation, with the columns of the Parquet files.
    """
    from evo_tune.cli.flags import parse_genome
    from evo_tune.report.data import run_details
    from evo_tune.store.table import table_of

    saved = shared.open_run(run, store)
    genomes = [parse_genome(text, saved.genes) for text in predict]
    if output_format == "csv":
        shared.print_rows(table_of(saved, saved.trials()).to_pylist(), output_format)
    elif output_format == "json":
        from evo_tune.loop.code import patch_set_of

        patches = patch_set_of(saved)
        shared.print_json(run_details(saved, top, genomes, () if patches is None else patches.conflicts()))
    else:
        _print_run(saved, top)
        _print_predictions(saved, genomes)


def _print_predictions(run: Run, genomes: list[dict[str, Any]]) -> None:
    from evo_tune.report.predictions import predict_genomes

    for row in predict_genomes(run, genomes):
        value = "no prediction from so few results"
        if row.value is not None:
            interval = f"80 % interval {shared.show_value(row.low)} to {shared.show_value(row.high)}"
            better = f"better than the best with a probability of {row.chance:.0%}"
            value = f"predicted {run.objectives[0].metric} {shared.show_value(row.value)} ({interval}), {better}"
        shared.echo(f"{shared.show_genome(row.genome)}: {value}")


def _print_run(run: Run, top: int) -> None:
    from evo_tune.report import summary as report
    from evo_tune.report.charts.history import best_so_far
    from evo_tune.report.charts.next_steps import range_end_lines
    from evo_tune.report.predictions import gene_effects
    from evo_tune.report.run_data import RunData
    from evo_tune.text import with_plural

    manifest, metric = run.manifest, run.objectives[0].metric
    evaluations = with_plural(len(run.outcomes), "evaluation")
    shared.echo(
        f"{run.name}: {manifest.evaluator}, strategy {manifest.strategy}, seed {manifest.settings.seed}, "
        f"{', '.join(manifest.objectives)}, {evaluations} in {shared.show_seconds(run.seconds)}"
    )
    if len(manifest.settings.rungs) > 1:
        shared.echo(f"cost so far: {report.total_cost(run):.1f} full trainings")
    shared.echo(*filter(None, [report.pruning_line(run)]))
    _print_trials(run, top)
    if steps := best_so_far(run):
        improvements = "  ".join(f"{count}: {value:.5g}" for count, value, _ in steps)
        shared.echo(f"best {metric} so far, by evaluations: {improvements}")
    counts = "  ".join(f"{count} {status}" for status, count in report.status_counts(run).items())
    shared.echo(f"results: {counts or 'none yet'}")
    shared.echo(*report.failure_lines(run), *report.unusual_time_lines(run))
    if shares := {name: effect.share for name, effect in gene_effects(RunData(run)).items()}:
        shares_text = "  ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:MOST_SHARES])
        shares_text += f"  and {hidden_count} others less" if (hidden_count := len(shares) - MOST_SHARES) > 0 else ""
        shared.echo(f"share of the spread in {metric} that each gene explains by itself: {shares_text}")
    shared.echo(*report.range_lines(run), *range_end_lines(run))
    if pending := len(run.candidates) - len(run.outcomes):
        shared.echo(f"{pending} pending trials have no result yet: they are running, or `resume` runs them again")


def _print_trials(run: Run, top: int) -> None:
    """Print the Pareto front, or the best trials, as a table."""
    from evo_tune.report.recommendation import comparison_objective, fresh_values
    from evo_tune.report.summary import best_trials, pareto_front, show_fresh_values

    metrics = [objective.metric for objective in run.objectives]
    bounded = [constraint.metric for constraint in run.constraints if constraint.metric not in metrics]
    fresh_rows = {row.id: row for row in fresh_values(run)}
    reported_metric = comparison_objective(run).metric
    fresh_column = "over fresh seeds" if reported_metric == metrics[0] else f"{reported_metric} over fresh seeds"
    trials = pareto_front(run) if len(metrics) > 1 else best_trials(run, top)
    rows = [
        {
            "trial": trial.id,
            **({fresh_column: show_fresh_values(fresh_rows.get(trial.id))} if fresh_rows else {}),
            "generation": trial.candidate.generation,
            **{metric: trial.outcome.metrics.get(metric) for metric in (*metrics, *bounded)},
            **({"within": "yes" if trial.feasible else "no"} if bounded else {}),
            **trial.genome,
            "seconds": trial.outcome.seconds,
            "operator": trial.candidate.operator,
        }
        for trial in trials
    ]
    title = "Pareto front"
    if len(metrics) == 1:
        has_extra_seeds = any(candidate.extra_seed for candidate in run.candidates)
        seeds = "means over seeds where there are several" if has_extra_seeds else "one seed each"
        ranks = [(trial.violation, trial.losses) for trial in trials]
        first = "; the recommended one is first" if ranks and ranks[0] != min(ranks) else ""
        title = f"best trials, at most {top} ({metrics[0]}: {seeds}{first})"
    spare = ("operator", "generation", "seconds", *reversed(run.genes))
    shared.print_rows(rows, "table", title, "no full training gave a value", spare)
