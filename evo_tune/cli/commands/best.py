"""`evo-tune best`: print the recommended genome, or the Pareto front, from a run folder alone."""

from typing import TYPE_CHECKING

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command

if TYPE_CHECKING:
    from evo_tune.genome.trial import Trial
    from evo_tune.store.run import Run


@cli_command("best", order=60, formats=("table", "json", "csv"))
@shared.run_argument
@shared.store_option
def command(run: str | None, store: str, output_format: str) -> None:
    """Print the best genome of RUN, or its Pareto front.

    After a final comparison, this is its winner. The value is the mean over fresh seeds, which had no part in the
    choice, on the test set if the evaluator has one. Without a comparison, this is the best trial of the search.

    `evo-tune best RUN --format json` prints it for programs and for `--warm-start` of another run.
    """
    from evo_tune.report.data import recommendations
    from evo_tune.report.summary import pareto_front

    saved = shared.open_run(run, store)
    best = shared.require_best_trial(saved)
    if not best.feasible:
        shared.echo(f"Warning: no full training satisfies {', '.join(saved.manifest.subject_to)}", err=True)
    several = len(saved.objectives) > 1
    if output_format == "json":
        recommended = recommendations(saved)
        shared.print_json(recommended if several else recommended[0])
        return
    trials = pareto_front(saved) if several else [best]
    if output_format == "table" and len(trials) == 1:
        _print_one(saved, best)
        return
    metrics = [objective.metric for objective in saved.objectives]
    rows = []
    for trial in trials:
        rows.append({"trial": trial.id, **{name: trial.outcome.metrics[name] for name in metrics}, **trial.genome})
    shared.print_rows(rows, output_format, f"Pareto front of {saved.name}")


def _print_one(run: "Run", best: "Trial") -> None:
    from evo_tune.report.summary import RunResult, seeds_text, show_fresh_values

    result = RunResult(run)
    metric, measured = result.metric, result.reported_metric
    text = f"{best.outcome.metrics[metric]:.6g} on {seeds_text(result.best_seeds)}"
    if result.predicted_value is not None:
        text += f" ({result.predicted_value:.6g} is predicted over other seeds)"
    if result.fresh_best is None:
        text = f"{metric} {text}"
    else:
        name = "" if measured == metric else f"{metric} "
        text = f"{measured} {show_fresh_values(result.fresh_best)} over fresh seeds, {name}{text} in the search"
    shared.echo(f"{text} (trial {best.id} of run {run.name})")
    width = max(map(len, best.genome))
    shared.echo(*(f"  {gene:<{width}} {value}" for gene, value in best.genome.items()))
    if typed := shared.training_command(run, best):
        shared.echo(f"train it: {typed}")
