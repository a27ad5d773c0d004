"""How a run ended: the closing table, or the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from evo_tune.cli import _shared as shared
from evo_tune.genome.trial import Trial
from evo_tune.report import summary as report
from evo_tune.report.calibration import Calibrated
from evo_tune.report.data import closing_as_data
from evo_tune.report.racing import Standing
from evo_tune.report.summary import Closing
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run


def print_closing(run: Run, form: str, status: str = "") -> None:
    """Print best against default, evaluations, wall time, where it is saved and what to type next.

    Args:
        run: The run.
        form: 'table' or 'json'.
        status: Where its strategy says that it stands.
    """
    if form == "json":
        shared.print_json({**closing_as_data(run), "status": status})
        return
    end = report.closing(run)
    shared.echo()
    rows = [row for row in (_row("best", end.best, end), _row("default", end.default, end)) if row]
    if rows:
        shared.print_table(rows)
    if end.best is not None:
        shared.echo(f"best genome: {shared.show_genome(end.best.genome)}")
    if len(run.objectives) > 1:
        shared.echo(f"Pareto front: {len(report.front(run))} trials (evo-tune best {as_typed(run.folder)} shows them)")
    for line in _rules_met(run, end):
        shared.echo(line)
    shared.echo(verdict(end))
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


def _row(name: str, trial: Trial | None, end: Closing) -> dict[str, Any] | None:
    if trial is None:
        return None
    row: dict[str, Any] = {"": name, "trial": trial.id}
    if end.calibrated_best or end.calibrated_default:
        row[f"{end.reported} over fresh seeds"] = spread(
            end.calibrated_best if name == "best" else end.calibrated_default
        )
    return {**row, f"{end.metric}, {end.seeded}": trial.outcome.metrics[end.metric]}


def spread(row: Calibrated | None) -> str:
    """Return a value over fresh seeds in words: mean, standard error and number of seeds."""
    if row is None:
        return "-"
    if not row.values:
        return f"all {row.failures} failed"
    failed = f" ({row.failures} failed)" if row.failures else ""
    error = f" ± {row.error:.5f}" if len(row.values) > 1 else ""
    return f"{row.mean:.5f}{error} (n={len(row.values)}){failed}"


def _rules_met(run: Run, end: Closing) -> Iterator[str]:
    """Yield what rungs, inheritance and constraints made of the run, a line each."""
    if len(run.manifest.fidelity) > 1:
        counts = f"{report.born(run)} genomes, {report.trained_in_full(run)} of them trained in full"
        yield f"{counts}: the cost of {report.spent(run):.1f} full trainings"
    if run.manifest.inherit:
        heirs = report.heirs(run)
        correlation, count = report.inheritance(run.trials())
        told = "" if math.isnan(correlation) else f", rank correlation {correlation:.2f}"
        yield f"{heirs} genomes began with weights of others, {count} of them were trained from scratch too{told}"
        yield f"the cost of {report.spent(run):.1f} full trainings; best and default are from scratch"
    limits = ", ".join(run.manifest.subject_to)
    if end.best is not None and not end.best.feasible:
        yield f"no full training keeps to {limits}: the best is the one that comes nearest"
    elif end.default is not None and not end.default.feasible:
        yield f"the default does not keep to {limits}, so it is no fair opponent"


def verdict(end: Closing) -> str:
    """Return in one line whether the best beats the default."""
    if not end.evaluations:
        return "no evaluation was finished"
    if end.best is None and end.partial:
        return f"{end.partial} evaluations gave a value, and none is trained in full yet: go on with `evo-tune resume`"
    if end.best is None:
        return "no evaluation gave a value: see the errors with `evo-tune show`"
    if end.default is None:
        return "the default genome gave no value, so there is nothing to compare with"
    if end.race is not None:
        return _outcome(end.race, end.best.id, end)
    if end.best.id == end.default.id:
        return "nothing beat the default genome"
    if end.beaten is None:
        seeds = "fresh seed" if end.calibrated else "seed"
        return f"difference: {end.gain:.5f} on one {seeds} each: it may be luck"
    return _difference(end)


def _outcome(race: Standing, best: int, end: Closing) -> str:
    """Return what a race said."""
    if not race.over:
        return "the calibration is not at its end, so the best is known by the search alone: `evo-tune resume` goes on"
    if race.chosen is None:
        return "every finalist failed on its fresh seeds: the best is known by the search alone"
    if not race.pairs:
        return f"on {race.seeds} fresh seeds the best or the default failed each time: nothing can be compared"
    if best == race.chosen:
        return _difference(end)
    if race.gain < 0.0:
        worse = f"{-race.gain:.5f}" + ("" if math.isnan(race.error) else f" ± {race.error:.5f}")
        where = "on fresh seeds and the test set" if end.tested else "on fresh seeds"
        return f"nothing beat the default genome: {where} trial {race.chosen}, the finalist, is {worse} worse"
    return f"trial {race.chosen}, the best finalist, failed on fresh seeds where the default did not: take the default"


def _difference(end: Closing) -> str:
    word = "beats" if end.beaten else "does not clearly beat"
    if math.isnan(end.gain_error):
        return f"difference: {end.gain:.5f} on one fresh seed: the best {word} the default"
    errors = f"{end.gain / end.gain_error:.1f} standard errors" if end.gain_error else "no spread between seeds"
    paired = f", paired over {end.race.pairs} fresh seeds" if end.race else ""
    paired += ", on the test set" if end.race and end.tested else ""
    return f"difference: {end.gain:.5f} ± {end.gain_error:.5f}: the best {word} the default ({errors}{paired})"
