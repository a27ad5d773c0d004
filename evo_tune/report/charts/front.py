"""The Pareto front of two or more objectives, and the hypervolume that it covered as the run went on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.report.drawing import (
    BEST,
    FAINT,
    MOST_MARKS,
    SERIES,
    Drawn,
    Part,
    Spec,
    figure,
    log_axis,
    points,
    safe,
    steps,
    thinned,
)
from evo_tune.report.material import Material
from evo_tune.report.summary import dominates, front
from evo_tune.report.words import show_value

PLACE = 80

LOOKS = 60
"""Times that the hypervolume is worked out along a run."""

MOST_FRONT = 60
"""Points of a front of three or more objectives of which the hypervolume is worked out: the cost grows fast."""


def draw(material: Material, x: int = 0, y: int = 1) -> Spec | None:
    """Return the figure of two of the objectives, by their places; None for one objective, or no value."""
    goals = material.run.objectives
    if len(goals) < 2 or not material.ranked:
        return None
    losses = _losses(material.ranked)
    limits = [np.quantile(losses[:, i], 0.75) for i in (x, y)]
    limits = [limit + 3 * (limit - losses[:, i].min()) for limit, i in zip(limits, (x, y), strict=True)]
    kept = thinned(len(losses), MOST_MARKS)
    shown = [goals[i].sign * np.minimum(losses[:, i], limit) for i, limit in zip((x, y), limits, strict=True)]
    ids = np.array([trial.id for trial in material.ranked])
    hover = "trial %{customdata}<br>%{x:.5g}, %{y:.5g}<extra></extra>"
    traces = [points(shown[0][kept], shown[1][kept], "dominated", FAINT, customdata=ids[kept], hovertemplate=hover,
                     meta={"kind": "result"})]  # fmt: skip
    best = sorted(front(material.run), key=lambda trial: (trial.losses or ())[x])
    values = [[(trial.losses or ())[i] for i in (x, y)] for trial in best]
    own = np.minimum(np.array(values).reshape(len(best), 2), limits) * [goals[i].sign for i in (x, y)]
    if len(own):
        ids_own = [trial.id for trial in best]
        trace = points(own[:, 0], own[:, 1], "Pareto front", BEST, customdata=ids_own, hovertemplate=hover)
        trace["marker"]["size"] = 9
        trace |= {"mode": "lines+markers"} if len(goals) == 2 else {}
        traces.append({**trace, "line": {"shape": "hv", "color": BEST, "width": 1.5}, "meta": {"kind": "front"}})
    titles = [safe(f"{goals[i].metric} ({'lower' if goals[i].sign > 0 else 'higher'} is better)") for i in (x, y)]
    return figure(traces, _axis(titles[0], shown[0]), _axis(titles[1], shown[1]), height=360)


def _axis(title: str, values: np.ndarray) -> dict[str, Any]:
    """Return an axis, logarithmic where values span more than two powers of ten."""
    wide = values.min() > 0 and math.log10(values.max()) - math.log10(values.min()) > 2
    return {"title": {"text": title}, **(log_axis(values.min(), values.max()) if wide else {})}


def _losses(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([trial.losses for trial in trials if trial.losses], dtype=float)


def hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume that some points dominate, up to a reference point.

    By slices along the last objective (While et al., A faster algorithm for calculating hypervolume, IEEE
    Transactions on Evolutionary Computation 10, 2006): exact, and quick for two or three.

    Args:
        losses: To be minimised, shape (points, objectives).
        reference: Shape (objectives,); points beyond it count nothing.
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


def growth(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many evaluations the front covered which share of the box of all results, both (looks,).

    The box reaches from the best to the median of each objective.
    """
    place = {id: number for number, id in enumerate(material.run.recorded, 1)}
    came = sorted((trial for trial in material.ranked if trial.feasible), key=lambda trial: place[trial.id])
    if len(came) < 4:
        return np.zeros(0), np.zeros(0)
    losses = _losses(came)
    best, reference = losses.min(axis=0), np.median(losses, axis=0)
    if (reference <= best).any():
        return np.zeros(0), np.zeros(0)
    losses = (losses - best) / (reference - best)
    looks = thinned(len(came), LOOKS) + 1
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


def part(material: Material) -> Part | None:
    """Return the part; None for one objective, or no value."""
    goals = material.run.objectives
    pairs = list(combinations(range(min(len(goals), 4)), 2))
    drawn = [Drawn(found, narrow=len(pairs) > 1) for x, y in pairs if (found := draw(material, x, y)) is not None]
    if not drawn:
        return None
    at, volumes = growth(material)
    if len(at):
        trace = steps(
            at, volumes, "hypervolume", SERIES[0], hovertemplate="%{y:.1%}<extra></extra>", meta={"kind": "volume"}
        )
        share = {"title": {"text": "share of the box"}, "tickformat": ".0%", "rangemode": "tozero"}
        caption = "Hypervolume: what the front dominates of the box between the best and the median of each objective"
        drawn.append(Drawn(figure([trace], "evaluations", share, height=240), caption))
    rows = [
        {"trial": trial.id, **{goal.metric: goal.value(goal.loss(trial.outcome.metrics)) for goal in goals},
         **{name: show_value(value) for name, value in trial.genome.items()}}
        for trial in front(material.run)[:50]
    ]  # fmt: skip
    return Part(
        "Pareto front",
        "No trial is better than one on the front in everything. Where the front bends, a little of one objective buys "
        "much of the other. A hypervolume that still grows at the end says that going on pays.",
        drawn,
        rows=rows,
        rows_title="The front",
        note="Far outliers are drawn at the edge.",
    )
