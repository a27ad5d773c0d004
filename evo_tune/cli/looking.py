"""`list`, `show`, `best`, `verify`: read saved runs. All but `verify` need the manifest only, not the evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evo_tune.cli import _shared as shared


@click.command("list")
@shared.store_option
@shared.format_option("table", "json", "csv")
def list_command(store: str, form: str) -> None:
    """List the saved runs, the latest last."""
    from evo_tune.errors import StoreError
    from evo_tune.report.summary import closing
    from evo_tune.store.places import list_runs
    from evo_tune.store.run import Run

    rows = []
    for folder in list_runs(Path(store)):
        try:
            run = Run.open(folder)
        except StoreError as error:
            click.echo(f"Warning: {error}", err=True)
            continue
        end = closing(run)
        rows.append(
            {
                "run": run.name,
                "evaluator": run.manifest.evaluator,
                "strategy": run.manifest.strategy,
                "evaluations": end.evaluations,
                "failed": end.failures,
                "objective": end.metric,
                "best": end.best.outcome.metrics[end.metric] if end.best else None,
                "wall time": shared.show_seconds(end.seconds),
                "ended": run.ended or "not yet, or killed",
                "created": run.manifest.created,
            }
        )
    shared.print_rows(
        rows,
        form,
        empty=f"there is no saved run in {store}: start one with `evo-tune run`",
        spare=("created", "ended", "strategy", "failed", "wall time", "evaluator"),
    )


@click.command("show")
@shared.run_argument
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many of the best to show.")
@shared.store_option
@shared.format_option("table", "json", "csv")
def show_command(run: str | None, top: int, store: str, form: str) -> None:
    """Show the best of RUN, its course and its failures.

    RUN left out means the latest one.

    As CSV: every evaluation, one a row, with the columns of the Parquet files.
    """
    from evo_tune.cli.closing import trial_as_data
    from evo_tune.report import summary as report
    from evo_tune.store.files import table_of
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    if form == "csv":
        click.echo(table_of(saved, saved.trials()).to_pandas().to_csv(index=False), nl=False)
    elif form == "json":
        shared.print_json(
            {
                "run": saved.name,
                "evaluator": saved.manifest.evaluator,
                "options": saved.manifest.options,
                "objectives": saved.manifest.objectives,
                "strategy": saved.manifest.strategy,
                "seed": saved.manifest.seed,
                "fidelity": saved.manifest.fidelity,
                "prune": saved.manifest.prune,
                "replicates": saved.manifest.replicates,
                "inherit": saved.manifest.inherit,
                "subject_to": saved.manifest.subject_to,
                "trainings": round(report.spent(saved), 6),
                "ended": saved.ended,
                "seconds": saved.seconds,
                "evaluations": len(saved.outcomes),
                "statuses": report.statuses(saved),
                "best": [trial_as_data(trial) for trial in saved.ranked()[:top]],
                "front": [trial_as_data(trial) for trial in report.front(saved)],
                "best_so_far": report.best_so_far(saved),
                "importances": report.importances(saved),
            }
        )
    else:
        _print_run(saved, top)


def _print_run(run: Any, top: int) -> None:
    from evo_tune.report import summary as report

    manifest = run.manifest
    click.echo(
        f"{run.name}: {manifest.evaluator}, strategy {manifest.strategy}, seed {manifest.seed}, "
        f"{', '.join(manifest.objectives)}, {len(run.outcomes)} evaluations in {shared.show_seconds(run.seconds)}"
    )
    rules = _rules(manifest)
    if rules:
        click.echo(f"{', '.join(rules)}: the cost of {report.spent(run):.1f} full trainings so far")
    metrics = [objective.metric for objective in run.objectives]
    several = len(metrics) > 1
    bounded = [one.metric for one in run.constraints if one.metric not in metrics]
    shared.print_rows(
        [
            {
                "trial": trial.id,
                "generation": trial.candidate.generation,
                **{metric: trial.outcome.metrics.get(metric) for metric in (*metrics, *bounded)},
                **({"within": "yes" if trial.feasible else "no"} if bounded else {}),
                **trial.genome,
                "seconds": trial.outcome.seconds,
                "operator": trial.candidate.operator,
            }
            for trial in (report.front(run) if several else run.ranked()[:top])
        ],
        "table",
        "Pareto front" if several else f"the best {top}",
        "no full training gave a value",
        ("operator", "generation", "seconds", *reversed(run.manifest.genes())),
    )
    steps = report.best_so_far(run)
    if steps:
        course = "  ".join(f"{count}: {value:.5g}" for count, value, _ in steps)
        click.echo(f"best {metrics[0]} so far, by evaluations: {course}")
    counts = "  ".join(f"{count} {status}" for status, count in report.statuses(run).items())
    click.echo(f"results: {counts or 'none yet'}")
    _print_failures(run)
    shares = report.importances(run)
    if shares:
        told = "  ".join(f"{name} {share:.0%}" for name, share in shares.items())
        click.echo(f"spread in {metrics[0]} that a gene explains by itself: {told}")
    waiting = len(run.candidates) - len(run.outcomes)
    if waiting:
        click.echo(f"{waiting} born without a result yet: they are in flight, or run again on resume")


def _rules(manifest: Any) -> list[str]:
    """Return the rules that a run goes by beside its strategy, as they are typed."""
    found = [f"--subject-to '{text}'" for text in manifest.subject_to]
    if len(manifest.fidelity) > 1:
        found.insert(0, f"--fidelity {','.join(f'{rung:.3g}' for rung in manifest.fidelity)}")
    if manifest.prune:
        found.append("--prune")
    if manifest.replicates > 1:
        found.append(f"--replicates {manifest.replicates}")
    if manifest.inherit:
        found.append(f"--inherit {manifest.inherit:.3g}")
    return found


def _print_failures(run: Any, most: int = 5) -> None:
    """Print the commonest errors, each once, with the number of trials and one of them."""
    groups: dict[str, list[int]] = {}
    for id, outcome in run.outcomes.items():
        if outcome.status not in ("ok", "pruned"):
            groups.setdefault(f"{outcome.status}: {outcome.error}", []).append(id)
    for text, ids in sorted(groups.items(), key=lambda item: -len(item[1]))[:most]:
        click.echo(f"  {len(ids)} x {text} (trial {ids[0]}{', …' if ids[1:] else ''})")


@click.command("best")
@shared.run_argument
@shared.store_option
@shared.format_option("table", "json", "csv")
def best_command(run: str | None, store: str, form: str) -> None:
    """Print the best genome of RUN, or its Pareto front.

    After a calibration it is the one that is best over fresh seeds.

    `evo-tune best RUN --format json` gives it to a program, and to `--warm-start` of another run.
    """
    from evo_tune.cli.closing import trial_as_data
    from evo_tune.errors import StoreError
    from evo_tune.report.calibration import winner
    from evo_tune.report.summary import front
    from evo_tune.store.places import as_typed, find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    best = winner(saved)
    if best is None:
        raise StoreError(
            f"run {saved.name} has no full training with a value: `evo-tune show {as_typed(saved.folder)}` tells why"
        )
    if not best.feasible:
        click.echo(f"Warning: no full training keeps to {', '.join(saved.manifest.subject_to)}", err=True)
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
    click.echo(f"{metrics[0]} {best.outcome.metrics[metrics[0]]:.6g} (trial {best.id} of run {saved.name})")
    for name, value in best.genome.items():
        click.echo(f"  {name:<12} {value}")


@click.command("verify")
@shared.run_argument
@shared.store_option
@click.option("--evaluator", metavar="PATH", help="Where the evaluator's file is now, if it has moved.")
@shared.trust_option
@shared.format_option("table", "json")
def verify_command(run: str | None, store: str, evaluator: str | None, trust: bool, form: str) -> int:
    """Replay every proposal of RUN; say whether they agree."""
    from evo_tune.loop.replay import verify
    from evo_tune.loop.strategy import ruled
    from evo_tune.plugins.find import find_again
    from evo_tune.store.manifest import space_of
    from evo_tune.store.places import find_run
    from evo_tune.store.run import Run

    saved = Run.open(find_run(Path(store), run))
    shared.check_own(saved.folder, evaluator, trust)
    manifest = saved.manifest
    plugin = find_again(manifest.evaluator, evaluator)
    found = verify(saved, space_of(manifest, plugin.space(manifest.options)), ruled(manifest, plugin))
    if form == "json":
        rows = [
            {"id": row.id, "recorded": vars(row.recorded), "replayed": row.replayed and vars(row.replayed)}
            for row in found
        ]
        shared.print_json({"run": saved.name, "proposals": len(saved.candidates), "disagreements": rows})
    elif not found:
        click.echo(f"{saved.name}: all {len(saved.candidates)} proposals agree with the recorded ones")
    else:
        for row in found[:5]:
            click.echo(f"trial {row.id}: recorded {shared.show_genome(row.recorded.genome)}", err=True)
            told = shared.show_genome(row.replayed.genome) if row.replayed else "nothing"
            click.echo(f"  but replayed {told}", err=True)
        click.echo(f"{saved.name}: {len(found)} of {len(saved.candidates)} proposals do not agree", err=True)
    return 1 if found else 0
