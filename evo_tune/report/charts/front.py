"""The Pareto front of two or more objectives, and the growth of its hypervolume during the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.report import charts as plot
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import dominates, pareto_front
from evo_tune.text import show_value

PLACE = 80

LOOKS = 60
"""Number of points at which the hypervolume is computed along a run."""

MOST_FRONT = 60
"""Most points of a front of three or more objectives for the hypervolume, whose cost grows fast."""


def draw(data: RunData, x: int = 0, y: int = 1) -> Spec | None:
    """Return the figure of two objectives, given by their indices; None for one objective, or without a value."""
    goals = data.run.objectives
    if len(goals) < 2 or not data.ranked:
        return None
    losses, pair, signs = _losses(data.ranked), [x, y], [goals[i].sign for i in (x, y)]
    limits = np.quantile(losses[:, pair], 0.75, axis=0)
    limits = limits + 3 * (limits - losses[:, pair].min(axis=0))
    shown = np.minimum(losses[:, pair], limits) * signs
    kept = plot.spread_indices(len(losses), plot.MOST_MARKS)
    ids = np.array([trial.id for trial in data.ranked])[kept]
    hover = "trial %{customdata}<br>%{x:.5g}, %{y:.5g}<extra></extra>"
    more: dict[str, Any] = {"customdata": ids, "hovertemplate": hover, "meta": {"kind": "result"}}
    traces = [plot.points(shown[kept, 0], shown[kept, 1], "dominated", Color.FAINT, **more)]
    best = sorted(pareto_front(data.run), key=lambda trial: (trial.losses or ())[x])
    if best:
        own = np.minimum(_losses(best)[:, pair], limits) * signs
        more = {"customdata": [trial.id for trial in best], "hovertemplate": hover, "meta": {"kind": "front"}}
        more |= {"line": {"shape": "hv", "color": Color.BEST, "width": 1.5}, "marker": {"size": 9}}
        more |= {"mode": "lines+markers"} if len(goals) == 2 else {}
        traces.append(plot.points(own[:, 0], own[:, 1], "Pareto front", Color.BEST, **more))
    titles = [f"{goals[i].metric} ({'lower' if goals[i].sign > 0 else 'higher'} is better)" for i in (x, y)]
    return plot.figure(traces, _axis(titles[0], shown[:, 0]), _axis(titles[1], shown[:, 1]), height=360)


def _axis(title: str, values: np.ndarray) -> dict[str, Any]:
    """Return an axis, logarithmic if the values span more than two powers of ten."""
    wide = values.min() > 0 and math.log10(values.max()) - math.log10(values.min()) > 2
    return plot.axis(plot.escape_label(title), **(plot.log_axis(values.min(), values.max()) if wide else {}))


def _losses(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([trial.losses for trial in trials if trial.losses], dtype=float)


def hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume that some points dominate, up to a reference point.

    It slices along the last objective (While et al., A faster algorithm for calculating hypervolume, IEEE Transactions
    on Evolutionary Computation 10, 2006): exact, and fast for two or three objectives.

    Args:
        losses: Losses of the points, shape (points, objectives).
        reference: Reference point, shape (objectives,); points beyond it add nothing.
    """
    inside = losses[(losses < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if losses.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    ends = np.append(inside[1:, -1], reference[-1])
    depths = ends - inside[:, -1]
    if losses.shape[1] == 2:
        return float((depths * (reference[0] - np.minimum.accumulate(inside[:, 0]))).sum())
    return sum(
        float(depth) * hypervolume(inside[: number + 1, :-1], reference[:-1])
        for number, depth in enumerate(depths)
        if depth > 0
    )


def growth(data: RunData) -> tuple[np.ndarray, np.ndarray]:
    """Return some numbers of evaluations, and the share of the box that the front then covered, both (looks,).

    The box ranges from the best to the median of each objective.
    """
    place = {id: number for number, id in enumerate(data.run.recorded, 1)}
    came = sorted((trial for trial in data.ranked if trial.feasible), key=lambda trial: place[trial.id])
    if len(came) < 4:
        return np.zeros(0), np.zeros(0)
    losses = _losses(came)
    best, reference = losses.min(axis=0), np.median(losses, axis=0)
    if (reference <= best).any():
        return np.zeros(0), np.zeros(0)
    losses = (losses - best) / (reference - best)
    looks = plot.spread_indices(len(came), LOOKS) + 1
    kept: list[np.ndarray] = []
    volumes, done = [], 0
    for look in looks:
        for row in losses[done:look]:
            if (row < 1).all() and not any(dominates(other.tolist(), row.tolist()) for other in kept):
                kept = [other for other in kept if not dominates(row.tolist(), other.tolist())] + [row]
        done = int(look)
        few = kept if losses.shape[1] == 2 else kept[:MOST_FRONT]
        volumes.append(hypervolume(np.array(few), np.ones(losses.shape[1])) if few else 0.0)
    return np.array([place[came[look - 1].id] for look in looks]), np.array(volumes)


def part(data: RunData) -> Part | None:
    """Return the part; None for one objective, or without a value."""
    goals = data.run.objectives
    pairs = list(combinations(range(min(len(goals), 4)), 2))
    drawn = [CaptionedFigure(found, narrow=len(pairs) > 1) for x, y in pairs if (found := draw(data, x, y)) is not None]
    if not drawn:
        return None
    at, volumes = growth(data)
    if len(at):
        more: dict[str, Any] = {"hovertemplate": "%{y:.1%}<extra></extra>", "meta": {"kind": "volume"}}
        trace = plot.steps(at, volumes, "hypervolume", plot.SERIES[0], **more)
        share = plot.share_axis("share of the box", rangemode="tozero")
        caption = "Hypervolume: share of the box between best and median of each objective that the front dominates"
        drawn.append(CaptionedFigure(plot.figure([trace], "evaluations", share, height=240), caption))
    rows = []
    for trial in pareto_front(data.run)[:50]:
        values = {goal.metric: goal.value(goal.loss(trial.outcome.metrics)) for goal in goals}
        genome = {name: show_value(value) for name, value in trial.genome.items()}
        rows.append({"trial": trial.id, **values, **genome})
    return Part(
        "Pareto front",
        "No trial is better than one on the front in every objective. Where the front bends, a small loss in one "
        "objective gains much in the other. If the hypervolume still grows at the end, more trials are likely to help.",
        drawn,
        rows=rows,
        rows_title="The front",
        note="Far outliers are drawn at the edge.",
    )
