"""Learning curves: how each training went, which were stopped on the way, and where the rungs are."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.report.drawing import BEST, DEFAULT, FAINT, PRUNED, Drawn, Part, Spec, figure, points, safe, thinned
from evo_tune.report.material import LARGEST, Material

PLACE = 70

MOST = 150
"""Curves drawn at most."""

POINTS = 60
"""Points drawn of one curve at most."""


@dataclass(frozen=True)
class Curve:
    """A training's course.

    Args:
        trial: It.
        x: Fraction of a full training, shape (points,).
        y: The metric, shape (points,).
    """

    trial: Trial
    x: np.ndarray
    y: np.ndarray


def shown_metric(material: Material) -> str | None:
    """Return the metric that is drawn: the first objective, or what most curves have; None if there are no curves."""
    counts = Counter(name for trial in material.trials for name in (trial.outcome.curve or [(0, {})])[-1][1])
    if not counts:
        return None
    return material.metric if material.metric in counts else min(counts, key=lambda name: (-counts[name], name))


def curves(material: Material) -> list[Curve]:
    """Return the curves of every training that reported one; a resumed one goes on where the one before ended."""
    metric, found = shown_metric(material), []
    for trial in material.trials:
        here = [(x, m[metric]) for x, m in trial.outcome.curve if metric in m] if metric else []
        here = [(x, y) for x, y in here if math.isfinite(y) and abs(y) < LARGEST]
        if here:
            x, y = np.array(here, dtype=float).T
            kept = thinned(len(x), POINTS)
            found.append(Curve(trial, x[kept], y[kept]))
    return found


def draw(material: Material) -> Spec | None:
    """Return the figure; None if no training reported a curve."""
    every = curves(material)
    if not every or all(len(one.x) < 2 for one in every):
        return None
    best = material.best.id if material.best else None
    kept = [
        every[i] for i in thinned(len(every), MOST, [i for i, one in enumerate(every) if one.trial.id in (best, 0)])
    ]
    pruned = [one for one in kept if one.trial.outcome.status == "pruned"]
    whole = [one for one in kept if one.trial.outcome.status != "pruned" and one.trial.id not in (0, best)]
    traces = [_together(whole, "trained", FAINT, 1.2), _together(pruned, "stopped as hopeless", PRUNED, 1.2)]
    traces += [_together([one for one in kept if one.trial.id == 0 != best], "default", DEFAULT, 2.5)]
    traces += [_together(_chain(every, best), "best", BEST, 3.0)]
    if pruned:
        ends = {"marker": {"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": PRUNED}}, "showlegend": False}
        traces.append(
            points(
                [one.x[-1] for one in pruned], [one.y[-1] for one in pruned], "end", PRUNED, hoverinfo="skip", **ends
            )
        )
    rungs = [rung for rung in material.run.manifest.fidelity if 0 < rung < 1]
    rules = [{"type": "line", "x0": r, "x1": r, "yref": "paper", "y0": 0, "y1": 1,
              "line": {"color": "#8a8f98", "width": 1, "dash": "dash"}} for r in rungs]  # fmt: skip
    across = {"title": {"text": "share of a full training"}, "tickformat": ".0%", "range": [0, 1.02]}
    up: dict[str, Any] = {"title": {"text": safe(shown_metric(material) or "")}}
    low, high = np.quantile(np.concatenate([one.y for one in kept]), [0.0, 0.97])
    least = min(float(one.y.min()) for one in kept)
    top = max(float(one.y.max()) for one in kept)
    if material.better == "lower" and top > high + (high - low) > least:
        up["range"] = [low - 0.05 * (high - low), high + 0.1 * (high - low)]
    return figure([trace for trace in traces if trace], across, up, height=340, shapes=rules)


def _chain(every: list[Curve], id: int | None) -> list[Curve]:
    """Return a trial's curve and those of the trainings that it went on from, the first first."""
    by_id = {one.trial.id: one for one in every}
    found: list[Curve] = []
    while id is not None and id in by_id:
        found.insert(0, by_id[id])
        id = by_id[id].trial.candidate.resumes
    return found


def _together(some: list[Curve], name: str, color: str, width: float) -> dict[str, Any]:
    """Return one trace of several curves, with a gap after each; {} for none."""
    if not some:
        return {}
    gap = [np.nan]
    return {
        "type": "scatter", "mode": "lines", "name": name, "line": {"color": color, "width": width},
        "x": np.concatenate([np.append(one.x, gap) for one in some]),
        "y": np.concatenate([np.append(one.y, gap) for one in some]),
        "text": [f"trial {one.trial.id}" for one in some for _ in range(len(one.x) + 1)],
        "hovertemplate": "%{text}<br>%{y:.5g} at %{x:.0%}<extra></extra>", "meta": {"kind": "curve"},
    }  # fmt: skip


def part(material: Material) -> Part | None:
    """Return the part; None if no training reported a curve."""
    found = draw(material)
    if found is None:
        return None
    count = len(curves(material))
    rungs = [rung for rung in material.run.manifest.fidelity if rung < 1]
    said = (
        "Each line is a training. Where lines cross late, early results mislead, and rungs or --prune stop the wrong "
    )
    said += "ones."
    rows: list[dict[str, Any]] = []
    if rungs:
        said += " A dashed rule is a rung: only the promising go on beyond it."
        budgets = Counter(round(trial.candidate.budget, 6) for trial in material.trials)
        rows = [{"trained up to": f"{budget:.0%}", "trials": number} for budget, number in sorted(budgets.items())]
    return Part(
        "Learning curves",
        said,
        [Drawn(found)],
        rows=rows,
        rows_title="Trials by rung",
        note=f"{MOST} of {count} curves are drawn, evenly spread." if count > MOST else "",
    )
