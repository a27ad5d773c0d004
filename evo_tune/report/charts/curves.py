"""Learning curves: how trainings progressed, which were pruned, and where the rungs are."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.report import charts
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData

POSITION = 70

# Most curves drawn.
MOST = 150

# Most points drawn of one curve.
MOST_POINTS = 60


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
    counts = Counter(name for trial in data.trials if trial.outcome.curve for name in trial.outcome.curve[-1][1])
    most_frequent = min(counts, key=lambda name: (-counts[name], name), default=None)
    return data.metric if data.metric in counts else most_frequent


def curves(data: RunData) -> list[Curve]:
    """Return the curves of all trainings that reported one; a promotion continues the curve of its rung."""
    metric, all_curves = curve_metric(data), []
    for trial in data.trials:
        points = [(x, metrics.get(metric or "", math.nan)) for x, metrics in trial.outcome.curve]
        points = [(x, y) for x, y in points if abs(y) < MAX_ABSOLUTE_LOSS]
        if points:
            x, y = np.array(points, dtype=float).T
            indices = charts.spread_indices(len(x), MOST_POINTS)
            all_curves.append(Curve(trial, x[indices], y[indices]))
    return all_curves


def draw(data: RunData) -> Spec | None:
    """Return the figure; None if no training reported a curve."""
    all_curves = curves(data)
    if all(len(curve.x) < 2 for curve in all_curves):
        return None
    best = data.result.best.id if data.result.best else None
    named = [index for index, curve in enumerate(all_curves) if curve.trial.id in (best, 0)]
    shown = [all_curves[index] for index in charts.spread_indices(len(all_curves), MOST, named)]
    pruned = [curve for curve in shown if curve.trial.outcome.status == "pruned"]
    unnamed = [curve for curve in shown if curve.trial.outcome.status != "pruned" and curve.trial.id not in (0, best)]
    default = [curve for curve in shown if curve.trial.id == 0 != best]
    traces = [
        *_trace(unnamed, "trained", Color.FAINT, 1.2),
        *_trace(pruned, "pruned", Color.PRUNED, 1.2),
        *_trace(default, "default", Color.DEFAULT, 2.5),
        *_trace([curve for curve in shown if curve.trial.id == best], "best", Color.BEST, 3.0),
    ]
    if pruned:
        cross = {"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": Color.PRUNED}}
        x, y = [curve.x[-1] for curve in pruned], [curve.y[-1] for curve in pruned]
        traces.append(charts.points(x, y, "end", Color.PRUNED, marker=cross, showlegend=False))
    y_axis = charts.axis(charts.escape_label(curve_metric(data) or ""))
    values = np.concatenate([curve.y for curve in shown])
    low, high = np.quantile(values, [0.0, 0.97])
    if data.objective.sign > 0 and values.max() > high + (high - low) > values.min():
        y_axis["range"] = [low - 0.05 * (high - low), high + 0.1 * (high - low)]
    dashed = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": Color.DEFAULT, "dash": "dash"}}
    shapes = [{**dashed, "x0": rung, "x1": rung} for rung in data.run.manifest.settings.rungs if rung < 1]
    x_axis = charts.axis("share of a full training", tickformat=".0%", range=[0, 1.02])
    return charts.figure(traces, x_axis, y_axis, height=340, shapes=shapes)


def _trace(group: Sequence[Curve], name: str, color: str, width: float) -> list[dict[str, Any]]:
    """Return one trace of several curves, with a gap after each; no trace without curves."""
    if not group:
        return []
    x = np.concatenate([np.append(curve.x, np.nan) for curve in group])
    y = np.concatenate([np.append(curve.y, np.nan) for curve in group])
    texts = [f"trial {curve.trial.id}" for curve in group for _ in range(len(curve.x) + 1)]
    return [charts.line(x, y, name, color, width, "%{text}<br>%{y:.5g} at %{x:.0%}", text=texts)]


def part(data: RunData) -> Part | None:
    """Return the part; None if no training reported a curve."""
    figure = draw(data)
    if figure is None:
        return None
    explanation = "Each line is a training. The result of a trial may be an earlier value of its line, or be measured "
    explanation += "once more at the end. "
    explanation += "If lines cross late, early results mislead, and rungs or --prune stop good trials."
    if any(rung < 1 for rung in data.run.manifest.settings.rungs):
        explanation += " A dashed line is a rung: only promising trainings are promoted beyond it."
    note = charts.omission_note(MOST, len(curves(data)), "curves")
    return Part("Learning curves", explanation, [CaptionedFigure(figure)], note=note)
