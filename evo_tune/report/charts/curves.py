"""Learning curves: how trainings progressed, which were pruned, and where the rungs are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.report import charts as plot
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import LARGEST, RunData

PLACE = 70

MOST = 150
"""Most curves drawn."""

POINTS = 60
"""Most points drawn of one curve."""


@dataclass(frozen=True)
class Curve:
    """The learning curve of a training.

    Args:
        trial: Trial of the training.
        x: Shares of a full training at the points, shape (points,).
        y: Values of the shown metric, shape (points,).
    """

    trial: Trial
    x: np.ndarray
    y: np.ndarray


def curve_metric(data: RunData) -> str | None:
    """Return the metric that is drawn: the first objective, else the most frequent one; None without curves."""
    counts = Counter(name for trial in data.trials for name in (trial.outcome.curve or [(0, {})])[-1][1])
    if not counts:
        return None
    return data.metric if data.metric in counts else min(counts, key=lambda name: (-counts[name], name))


def curves(data: RunData) -> list[Curve]:
    """Return the curves of all trainings that reported one; a promotion continues the curve of its rung."""
    metric, found = curve_metric(data), []
    for trial in data.trials:
        here = [(x, m[metric]) for x, m in trial.outcome.curve if metric in m] if metric else []
        here = [(x, y) for x, y in here if math.isfinite(y) and abs(y) < LARGEST]
        if here:
            x, y = np.array(here, dtype=float).T
            kept = plot.spread_indices(len(x), POINTS)
            found.append(Curve(trial, x[kept], y[kept]))
    return found


def draw(data: RunData) -> Spec | None:
    """Return the figure; None if no training reported a curve."""
    every = curves(data)
    if all(len(one.x) < 2 for one in every):
        return None
    best = data.best.id if data.best else None
    named = [i for i, one in enumerate(every) if one.trial.id in (best, 0)]
    kept = [every[i] for i in plot.spread_indices(len(every), MOST, named)]
    pruned = [one for one in kept if one.trial.outcome.status == "pruned"]
    whole = [one for one in kept if one.trial.outcome.status != "pruned" and one.trial.id not in (0, best)]
    groups = [
        _together(whole, "trained", Color.FAINT, 1.2),
        _together(pruned, "pruned", Color.PRUNED, 1.2),
        _together([one for one in kept if one.trial.id == 0 != best], "default", Color.DEFAULT, 2.5),
        _together(_chain(every, best), "best", Color.BEST, 3.0),
    ]
    traces = [trace for trace in groups if trace is not None]
    if pruned:
        cross = {"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": Color.PRUNED}}
        x, y = [one.x[-1] for one in pruned], [one.y[-1] for one in pruned]
        traces.append(plot.points(x, y, "end", Color.PRUNED, hoverinfo="skip", marker=cross, showlegend=False))
    up = plot.axis(plot.escape_label(curve_metric(data) or ""))
    values = np.concatenate([one.y for one in kept])
    low, high = np.quantile(values, [0.0, 0.97])
    if data.better_direction == "lower" and values.max() > high + (high - low) > values.min():
        up["range"] = [low - 0.05 * (high - low), high + 0.1 * (high - low)]
    rungs = [rung for rung in data.run.manifest.settings.rungs if 0 < rung < 1]
    return plot.figure(traces, plot.TRAINED, up, height=340, shapes=plot.vertical_lines(rungs))


def _chain(every: list[Curve], id: int | None) -> list[Curve]:
    """Return a trial's curve after those of the trainings that it resumed, in order."""
    by_id = {one.trial.id: one for one in every}
    found: list[Curve] = []
    while id is not None and id in by_id:
        found.insert(0, by_id[id])
        id = by_id[id].trial.candidate.resumes
    return found


def _together(some: Sequence[Curve], name: str, color: str, width: float) -> dict[str, Any] | None:
    """Return one trace of several curves, with a gap after each; None without curves."""
    if not some:
        return None
    x, y = (np.concatenate([np.append(v, np.nan) for v in vs]) for vs in ([c.x for c in some], [c.y for c in some]))
    texts = [f"trial {one.trial.id}" for one in some for _ in range(len(one.x) + 1)]
    hover = "%{text}<br>%{y:.5g} at %{x:.0%}<extra></extra>"
    return plot.line(x, y, name, color, width, text=texts, hovertemplate=hover, meta={"kind": "curve"})


def part(data: RunData) -> Part | None:
    """Return the part; None if no training reported a curve."""
    found = draw(data)
    if found is None:
        return None
    said = "Each line is a training. If lines cross late, early results mislead, and rungs or --prune stop good trials."
    rows: list[dict[str, Any]] = []
    if any(rung < 1 for rung in data.run.manifest.settings.rungs):
        said += " A dashed line is a rung: only promising trainings are promoted beyond it."
        budgets = Counter(round(trial.candidate.budget, 6) for trial in data.trials)
        rows = [{"trained up to": f"{budget:.0%}", "trials": number} for budget, number in sorted(budgets.items())]
    note = plot.omission_note(MOST, len(curves(data)), "curves")
    return Part("Learning curves", said, [CaptionedFigure(found)], rows=rows, rows_title="Trials by rung", note=note)
