"""The evaluator's baseline beside the best trial: by how much the best is better, with its error.

Values over fresh seeds are compared if the final comparison has them, else those of the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from evo_tune.genome.trial import Trial
from evo_tune.report.final_comparison import student_tail
from evo_tune.report.recommendation import FreshValues, reported
from evo_tune.store.run import Run

LEVEL = 0.05
"""Highest probability of a difference this large, on either side, if best and baseline are equally good."""


@dataclass(frozen=True)
class Baseline:
    """A method that is trained once on the run's data, beside the best trial.

    Args:
        name: Name of the method.
        metric: Metric of the comparison.
        value: Its value; None if the method has none.
        best: Value of the best trial: the mean over fresh seeds, or that of the search; None without a best trial.
        gain: By how much the best is better, in the metric's unit; NaN if unknown.
        error: Standard error of `best` over fresh seeds; NaN for fewer than two. The baseline has one value.
        beaten: Whether the best is better by a t test over seeds; None if the difference is not clear.
        problem: Why there is no value; '' if there is one.
    """

    name: str
    metric: str
    value: float | None = None
    best: float | None = None
    gain: float = math.nan
    error: float = math.nan
    beaten: bool | None = None
    problem: str = ""


def baseline_of(run: Run, best: Trial | None, fresh: FreshValues | None) -> Baseline | None:
    """Return the baseline of a run; None if none was trained.

    Args:
        run: The run.
        best: The recommended trial.
        fresh: Its values over fresh seeds.
    """
    if run.baseline is None:
        return None
    name, outcome = run.baseline
    goal, again = run.objectives[0], fresh is not None and bool(fresh.values)
    metric = reported(run).metric if again else goal.metric
    if outcome.status != "ok":
        return Baseline(name, metric, problem=outcome.error or outcome.status)
    value = outcome.metrics.get(metric, math.nan)
    if not math.isfinite(value):
        return Baseline(name, metric, problem=f"it has no {metric}")
    if best is None:
        return Baseline(name, metric, value)
    if fresh is None or not again:
        found = best.outcome.metrics[metric]
        return Baseline(name, metric, value, found, goal.sign * (value - found))
    gain, count = goal.sign * (value - fresh.mean), len(fresh.values)
    error = fresh.error if count > 1 else math.nan
    return Baseline(name, metric, value, fresh.mean, gain, error, _beaten(gain, error, count))


def _beaten(gain: float, error: float, count: int) -> bool | None:
    if math.isnan(error) or gain == 0.0:
        return None
    clear = error == 0.0 or student_tail(abs(gain) / error, count - 1) <= LEVEL
    return gain > 0.0 if clear else None
