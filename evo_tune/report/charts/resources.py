"""Parameter, task, resource: what a result costs in parameters, arithmetic, time and memory, with each one's front."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evo_tune.report.drawing import (
    BEST,
    FAINT,
    MOST_MARKS,
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
from evo_tune.report.material import LARGEST, Material

PLACE = 90

RESOURCES = {
    "params": "parameters",
    "flops": "FLOPs of the training",
    "seconds": "seconds of the training",
    "peak_memory": "peak memory, bytes",
    "gpu_memory": "GPU memory, bytes",
}
"""Metrics that are resources, by the names that the bundled evaluators give them, and what they are."""


def amounts(material: Material, resource: str) -> np.ndarray:
    """Return what each ranked genome took of a resource; NaN where it is not known. Shape (ranked,)."""
    found = []
    for trial in material.ranked:
        value = trial.outcome.metrics.get(resource, trial.outcome.seconds if resource == "seconds" else math.nan)
        found.append(value if 0 < value < LARGEST else math.nan)
    return np.array(found, dtype=float)


def known(material: Material) -> list[str]:
    """Return the resources that genomes differ in."""
    objectives = {goal.metric for goal in material.run.objectives[:1]}
    found = []
    for resource in RESOURCES:
        values = amounts(material, resource)
        values = values[~np.isnan(values)]
        if resource not in objectives and len(values) > 3 and bool(values.max() > 1.02 * values.min()):
            found.append(resource)
    return found


def cheapest(values: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return which results no cheaper one equals, by amount: the front. Values that are NaN are none."""
    order = np.lexsort((losses, values))
    order = np.asarray(order[~np.isnan(values[order])])
    if not len(order):
        return order
    reached = np.minimum.accumulate(losses[order])
    return np.asarray(order[np.diff(reached, prepend=np.inf) < 0])


def draw(material: Material, resource: str | None = None) -> Spec | None:
    """Return the figure of one resource; None where genomes do not differ in it.

    Args:
        material: The run.
        resource: Name of a metric, or 'seconds'; by default the first that is known.
    """
    if resource is None:
        resource = next(iter(known(material)), None)
    if resource is None:
        return None
    values, sign = amounts(material, resource), material.objective.sign
    there = np.flatnonzero(~np.isnan(values))
    if not len(there):
        return None
    there = there[thinned(len(there), MOST_MARKS)]
    shown = sign * np.minimum(material.losses, material.worst_shown)
    ids = np.array([trial.id for trial in material.ranked])
    hover = "trial %{customdata}<br>%{y:.5g} at %{x:.4g}<extra></extra>"
    best = cheapest(values, material.losses)
    traces = [
        points(values[there], shown[there], "results", FAINT, customdata=ids[there], hovertemplate=hover,
               showlegend=False, meta={"kind": "result"}),
        {**steps(values[best], shown[best], "front", BEST, customdata=ids[best], hovertemplate=hover,
                 line={"width": 1.5}, meta={"kind": "front"}),
         "mode": "lines+markers", "marker": {"size": 7, "color": BEST}},
    ]  # fmt: skip
    wide = np.nanmax(values) > 8 * np.nanmin(values)
    x: dict[str, Any] = {"title": {"text": safe(RESOURCES.get(resource, resource))}}
    x |= log_axis(np.nanmin(values), np.nanmax(values)) if wide else {}
    return figure(traces, x, safe(material.metric), height=260, showlegend=False)


def part(material: Material) -> Part | None:
    """Return the part; None where genomes differ in no resource."""
    drawn = [Drawn(found, RESOURCES[name], narrow=True) for name in known(material) if (found := draw(material, name))]
    if not drawn:
        return None
    count = len(material.ranked)
    return Part(
        "What it costs",
        "Each point is a full training. The line is the front: no cheaper training is as good. Where it is flat, what "
        "is dearer buys nothing.",
        drawn,
        note=f"{MOST_MARKS} of {count} results are drawn." if count > MOST_MARKS else "",
    )
