"""`evo-tune best`: the genome to take, or the Pareto front. Needs the manifest only, no evaluator."""

from __future__ import annotations

from pathlib import Path

import click

from evo_tune.cli import _shared as shared

PLACE = 60


@click.command("best")
@shared.run_argument
@shared.store_option
@shared.format_option("table", "json", "csv")
def command(run: str | None, store: str, form: str) -> None:
    """Print the best genome of RUN, or its Pareto front.

    After a calibration it is the one that is best over fresh seeds.

    `evo-tune best RUN --format json` gives it to a program, and to `--warm-start` of another run.
    """
    from evo_tune.errors import StoreError
    from evo_tune.report.calibration import recommended
    from evo_tune.report.data import trial_as_data
    from evo_tune.report.summary import front
    from evo_tune.store.places import as_typed, find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    best = recommended(saved)
    if best is None:
        raise StoreError(
            f"run {saved.name} has no full training with a value: `evo-tune show {as_typed(saved.folder)}` tells why"
        )
    if not best.feasible:
        shared.echo(f"Warning: no full training keeps to {', '.join(saved.manifest.subject_to)}", err=True)
    trials = front(saved) if len(saved.objectives) > 1 else [best]
    if form == "json":
        data = [{"run": saved.name, **(trial_as_data(trial) or {})} for trial in trials]
        shared.print_json(data if len(saved.objectives) > 1 else data[0])
        return
    metrics = [objective.metric for objective in saved.objectives]
    rows = [
        {"trial": trial.id, **{name: trial.outcome.metrics[name] for name in metrics}, **trial.genome}
        for trial in trials
    ]
    if form == "csv" or len(rows) > 1:
        shared.print_rows(rows, form, f"Pareto front of {saved.name}")
        return
    shared.echo(f"{metrics[0]} {best.outcome.metrics[metrics[0]]:.6g} (trial {best.id} of run {saved.name})")
    for name, value in best.genome.items():
        shared.echo(f"  {name:<12} {value}")
