"""The Pareto front of two or more objectives."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.report import charts
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import pareto_front
from evo_tune.text import show_value

POSITION = 80


def draw(data: RunData, x: int = 0, y: int = 1) -> Spec | None:
    """Return the figure of two objectives, given by their indices; None for one objective, or without a value."""
    objectives = data.run.objectives
    if len(objectives) < 2 or not data.ranked_trials:
        return None
    pair = [objectives[index] for index in (x, y)]
    signs = [objective.sign for objective in pair]
    losses = _losses(data.ranked_trials)[:, [x, y]]
    quartiles = np.quantile(losses, 0.75, axis=0)
    limits = quartiles + 3 * (quartiles - losses.min(axis=0))  # far outliers are drawn here
    values = np.minimum(losses, limits) * signs
    shown = charts.spread_indices(len(losses), charts.MOST_MARKS)
    ids = np.array([trial.id for trial in data.ranked_trials])[shown]
    hover = "trial %{customdata}<br>%{x:.5g}, %{y:.5g}"
    traces = [charts.points(values[shown, 0], values[shown, 1], "dominated", Color.FAINT, hover, customdata=ids)]
    best = sorted(pareto_front(data.run), key=lambda trial: (trial.losses or ())[x])
    if best:
        front_values = np.minimum(_losses(best)[:, [x, y]], limits) * signs
        marks: dict[str, Any] = {"customdata": [trial.id for trial in best], "marker": {"size": 9}}
        if len(objectives) == 2:
            marks |= {"mode": "lines+markers", "line": {"shape": "hv", "color": Color.BEST, "width": 1.5}}
        traces.append(charts.points(front_values[:, 0], front_values[:, 1], "Pareto front", Color.BEST, hover, **marks))
    axes = []
    for objective, column in zip(pair, values.T, strict=True):
        title = f"{objective.metric} ({'lower' if objective.sign > 0 else 'higher'} is better)"
        low, high = column.min(), column.max()
        is_wide = low > 0 and math.log10(high) - math.log10(low) > 2
        axes.append(charts.axis(charts.escape_label(title), **(charts.log_axis(low, high) if is_wide else {})))
    return charts.figure(traces, axes[0], axes[1], height=360)


def _losses(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([trial.losses for trial in trials if trial.losses], dtype=float)


def part(data: RunData) -> Part | None:
    """Return the part; None for one objective, or without a value."""
    objectives = data.run.objectives
    pairs = list(combinations(range(min(len(objectives), 4)), 2))
    drawn = [figure for x, y in pairs if (figure := draw(data, x, y)) is not None]
    figures = [CaptionedFigure(figure, narrow=len(pairs) > 1) for figure in drawn]
    if not figures:
        return None
    rows = []
    for trial in pareto_front(data.run)[:50]:
        values = {objective.metric: objective.value(objective.loss(trial.outcome.metrics)) for objective in objectives}
        genome = {name: show_value(value) for name, value in trial.genome.items()}
        rows.append({"trial": trial.id, **values, **genome})
    return Part(
        "Pareto front",
        "No trial is better than one on the front in every objective.",
        figures,
        rows=rows,
        rows_title="The front",
        note="Far outliers are drawn at the edge.",
    )
