"""How a run ended: the closing table, or the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import click

from evo_tune.cli import _shared as shared
from evo_tune.genome.trial import Trial
from evo_tune.report.calibration import Calibrated
from evo_tune.report.summary import Closing, caveats, closing, front, inheritance, spent
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run


def print_closing(run: Run, form: str, status: str = "") -> None:
    """Print best against default, evaluations, wall time, where it is saved and what to type next.

    Args:
        run: The run.
        form: 'table' or 'json'.
        status: Where its strategy says that it stands.
    """
    end = closing(run)
    if form == "json":
        shared.print_json({**_as_data(run, end), "status": status})
        return
    click.echo()
    rows = [row for row in (_row("best", end.best, end), _row("default", end.default, end)) if row]
    if rows:
        shared.print_table(rows)
    if end.best is not None:
        click.echo(f"best genome: {shared.show_genome(end.best.genome)}")
    if len(run.objectives) > 1:
        click.echo(f"Pareto front: {len(front(run))} trials (evo-tune best {as_typed(run.folder)} shows them)")
    click.echo("".join(f"{line}\n" for line in _rules_met(run, end)), nl=False)
    click.echo(_verdict(end))
    if status:
        click.echo(status)
    pruned = f", {end.pruned} pruned" if end.pruned else ""
    took = shared.show_seconds(end.seconds)
    click.echo(f"{end.evaluations} evaluations, {end.failures} of them failed{pruned}, in {took}")
    reasons = caveats(run)
    if reasons:
        click.echo(f"not repeatable to the bit: {'; '.join(reasons)}; `evo-tune verify` holds all the same")
    click.echo(f"saved in {run.folder}")
    name = as_typed(run.folder)
    more = f"evo-tune resume {name} --generations {_next_generations(run)}"
    click.echo(f"next: evo-tune show {name}   |   {more}   |   evo-tune best {name} --format json")


def _row(name: str, trial: Trial | None, end: Closing) -> dict[str, Any] | None:
    if trial is None:
        return None
    row: dict[str, Any] = {"": name, "trial": trial.id, end.metric: trial.outcome.metrics[end.metric]}
    calibration = end.calibrated_best if name == "best" else end.calibrated_default
    if end.calibrated_best or end.calibrated_default:
        row["over fresh seeds"] = _spread(calibration)
    return row


def _spread(row: Calibrated | None) -> str:
    if row is None:
        return "-"
    if not row.values:
        return f"all {row.failures} failed"
    failed = f" ({row.failures} failed)" if row.failures else ""
    spread = f" ± {row.error:.5f}" if len(row.values) > 1 else ""
    return f"{row.mean:.5f}{spread} (n={len(row.values)}){failed}"


def _rules_met(run: Run, end: Closing) -> Iterator[str]:
    """Yield what rungs, inheritance and constraints made of the run, a line each."""
    if len(run.manifest.fidelity) > 1:
        full = sum(candidate.budget == 1.0 for candidate in run.candidates)
        born = sum(candidate.fresh for candidate in run.candidates)
        yield f"{born} genomes, {full} of them trained in full: the cost of {spent(run):.1f} full trainings"
    if run.manifest.inherit:
        heirs = sum(candidate.inherits is not None for candidate in run.candidates)
        correlation, count = inheritance(run.trials())
        told = "" if math.isnan(correlation) else f", rank correlation {correlation:.2f}"
        yield f"{heirs} genomes began with weights of others, {count} of them were trained from scratch too{told}"
        yield f"the cost of {spent(run):.1f} full trainings; best and default are from scratch"
    limits = ", ".join(run.manifest.subject_to)
    if end.best is not None and not end.best.feasible:
        yield f"no full training keeps to {limits}: the best is the one that comes nearest"
    elif end.default is not None and not end.default.feasible:
        yield f"the default does not keep to {limits}, so it is no fair opponent"


def _verdict(end: Closing) -> str:
    if not end.evaluations:
        return "no evaluation was finished"
    if end.best is None and end.partial:
        return f"{end.partial} evaluations gave a value, and none is trained in full yet: go on with `evo-tune resume`"
    if end.best is None:
        return "no evaluation gave a value: see the errors with `evo-tune show`"
    if end.default is None:
        return "the default genome gave no value, so there is nothing to compare with"
    if end.best.id == end.default.id:
        return "nothing beat the default genome"
    if end.beaten is None:
        seeds = "fresh seed" if end.calibrated else "seed"
        return f"difference: {end.gain:.5f} on one {seeds} each: it may be luck"
    word = "beats" if end.beaten else "does not clearly beat"
    errors = f"{end.gain / end.gain_error:.1f} standard errors" if end.gain_error else "no spread between seeds"
    return f"difference: {end.gain:.5f} ± {end.gain_error:.5f}: the best {word} the default ({errors})"


def _next_generations(run: Run) -> int:
    born = sum(candidate.fresh for candidate in run.candidates)
    return max(2, -(-born // run.manifest.population) + 3)


def _as_data(run: Run, end: Closing) -> dict[str, Any]:
    return {
        "run": run.name,
        "folder": str(run.folder),
        "ended": run.ended,
        "metric": end.metric,
        "direction": end.direction,
        "best": trial_as_data(end.best),
        "default": trial_as_data(end.default),
        "gain": end.gain,
        "gain_error": end.gain_error,
        "beaten": end.beaten,
        "calibration": {
            name: {"mean": row.mean, "error": row.error, "values": row.values, "failures": row.failures}
            for name, row in (("best", end.calibrated_best), ("default", end.calibrated_default))
            if row is not None
        },
        "evaluations": end.evaluations,
        "failures": end.failures,
        "pruned": end.pruned,
        "trainings": round(spent(run), 6),
        "seconds": round(end.seconds, 3),
    }


def trial_as_data(trial: Trial | None) -> dict[str, Any] | None:
    """Return a trial as plain data for JSON."""
    if trial is None:
        return None
    return {
        "id": trial.id,
        "generation": trial.candidate.generation,
        "operator": trial.candidate.operator,
        "genome": trial.genome,
        "metrics": trial.outcome.metrics,
        "seconds": trial.outcome.seconds,
    }
