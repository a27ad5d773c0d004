"""What a run says, as plain data: what `--format json` prints of it. Reads a run; prints nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from evo_tune.genome.trial import Trial
from evo_tune.report import summary as report
from evo_tune.report.advice import at_ends
from evo_tune.report.calibration import Calibrated, calibrated, reported
from evo_tune.report.carried import read_carried
from evo_tune.report.further import further_of
from evo_tune.report.material import Material
from evo_tune.store.run import Run

__all__ = ["best_as_data", "closing_as_data", "run_as_data", "trial_as_data"]


def trial_as_data(trial: Trial | None) -> dict[str, Any] | None:
    """Return a trial as plain data; None as None."""
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


def fresh_as_data(row: Calibrated | None, metric: str) -> dict[str, Any] | None:
    """Return a genome's values of a metric over fresh seeds as plain data; None as None."""
    if row is None:
        return None
    return {"metric": metric, "mean": row.mean, "error": row.error, "values": row.values, "failures": row.failures}


def best_as_data(run: Run, most: int = 1) -> list[dict[str, Any]]:
    """Return the best trials, the recommended first, with their values over fresh seeds (None: one was never made).

    Their `metrics` are those of the search: of one seed, or the mean of its replicates.
    """
    rows, metric = {row.id: row for row in calibrated(run)}, reported(run).metric
    return [
        {**(trial_as_data(trial) or {}), "fresh_seeds": fresh_as_data(rows.get(trial.id), metric)}
        for trial in report.leaders(run, most)
    ]


def closing_as_data(run: Run) -> dict[str, Any]:
    """Return how a run ended up (see `summary.Closing`), and the training that went into it."""
    end = report.closing(run)
    return {
        "run": run.name,
        "folder": str(run.folder),
        "ended": run.ended,
        "metric": end.metric,
        "direction": end.direction,
        "reported": end.reported,
        "best": trial_as_data(end.best),
        "default": trial_as_data(end.default),
        "gain": end.gain,
        "gain_error": end.gain_error,
        "beaten": end.beaten,
        "calibration": {
            name: fresh_as_data(row, end.reported)
            for name, row in (("best", end.calibrated_best), ("default", end.calibrated_default))
            if row is not None
        },
        "at_ends": _wider(run),
        "further": _further(run),
        "scale": _scale(run),
        "finalist": end.race.chosen if end.race else None,
        "pairs": end.race.pairs if end.race else None,
        "evaluations": end.evaluations,
        "failures": end.failures,
        "pruned": end.pruned,
        "trainings": round(report.spent(run), 6),
        "seconds": round(end.seconds, 3),
    }


def _further(run: Run) -> dict[str, Any] | None:
    found = further_of(run)
    return None if found is None else {"chance": found.chance, "trainings": found.trainings, "noise": found.noise}


def _scale(run: Run) -> dict[str, Any] | None:
    found = read_carried(run)
    return None if found is None else {**msgspec.structs.asdict(found), "share": found.share}


def run_as_data(run: Run, top: int) -> dict[str, Any]:
    """Return a run with its rules, results, course and its best trials, `top` of them."""
    return {
        "run": run.name,
        "evaluator": run.manifest.evaluator,
        "options": run.manifest.options,
        "objectives": run.manifest.objectives,
        "strategy": run.manifest.strategy,
        "seed": run.manifest.seed,
        "fidelity": run.manifest.fidelity,
        "prune": run.manifest.prune,
        "replicates": run.manifest.replicates,
        "by_worth": run.manifest.by_worth,
        "own_seeds": run.manifest.own_seeds,
        "inherit": run.manifest.inherit,
        "subject_to": run.manifest.subject_to,
        "trainings": round(report.spent(run), 6),
        "ended": run.ended,
        "seconds": run.seconds,
        "evaluations": len(run.outcomes),
        "statuses": report.statuses(run),
        "best": best_as_data(run, top),
        "front": [trial_as_data(trial) for trial in report.front(run)],
        "best_so_far": report.best_so_far(run),
        "importances": report.importances(run),
        "at_ends": _wider(run),
    }


def _wider(run: Run) -> dict[str, str]:
    """Return the genes whose best values are at an end of their range, each as `--gene` would widen it."""
    return {name: wider for name, (_, wider) in at_ends(Material(run)).items()}
