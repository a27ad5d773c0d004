"""`evo-tune best`: the genome to take, or the Pareto front. Needs the manifest only, no evaluator."""

from __future__ import annotations

from pathlib import Path

from evo_tune.cli import _shared as shared
from evo_tune.cli.help import command as made

PLACE = 60


@made("best")
@shared.run_argument
@shared.store_option
@shared.format_option("table", "json", "csv")
def command(run: str | None, store: str, form: str) -> None:
    """Print the best genome of RUN, or its Pareto front.

    After a calibration it is the finalist that was chosen, with its value over fresh seeds that had no part in the
    choice, on the test set where the evaluator has one; without a calibration, the best of the search, with the value
    of the one seed that it was trained with.

    `evo-tune best RUN --format json` gives it to a program, and to `--warm-start` of another run.
    """
    from evo_tune.errors import StoreError
    from evo_tune.plugins.command import command_of
    from evo_tune.report.calibration import calibrated, predicted, recommended, reported
    from evo_tune.report.data import recommendations
    from evo_tune.report.summary import front, seeded
    from evo_tune.report.words import spread
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
    if form == "json":
        found = recommendations(saved)
        shared.print_json(found if len(saved.objectives) > 1 else found[0])
        return
    trials = front(saved) if len(saved.objectives) > 1 else [best]
    metrics = [objective.metric for objective in saved.objectives]
    rows = [
        {"trial": trial.id, **{name: trial.outcome.metrics[name] for name in metrics}, **trial.genome}
        for trial in trials
    ]
    if form == "csv" or len(rows) > 1:
        shared.print_rows(rows, form, f"Pareto front of {saved.name}")
        return
    hoped = predicted(saved, best)
    fresh = next((row for row in calibrated(saved) if row.id == best.id), None)
    known = f"{best.outcome.metrics[metrics[0]]:.6g} on {seeded(best, saved)}"
    known += "" if hoped is None else f" ({hoped:.6g} is expected with others)"
    searched = f"{metrics[0]} {known}"
    if fresh is not None:
        shown = known if reported(saved).metric == metrics[0] else searched
        searched = f"{reported(saved).metric} {spread(fresh)} over fresh seeds, {shown} in the search"
    shared.echo(f"{searched} (trial {best.id} of run {saved.name})")
    for name, value in best.genome.items():
        shared.echo(f"  {name:<12} {value}")
    command = command_of(saved.manifest.evaluator, best.genome, saved.manifest.options)
    if command:
        shared.echo(f"train it: {command}")
