"""Results against their cost in parameters, FLOPs, time and memory, with the front of each."""

from __future__ import annotations

import math

import numpy as np

from evo_tune.report import charts as plot
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import LARGEST, RunData

PLACE = 90

RESOURCES = {
    "params": "parameters",
    "flops": "FLOPs of the training",
    "seconds": "seconds of the training",
    "peak_memory": "peak memory, bytes",
    "gpu_memory": "GPU memory, bytes",
}
"""Metrics of the bundled evaluators that are resources, with their descriptions."""


def amounts(data: RunData, resource: str) -> np.ndarray:
    """Return the use of a resource by each ranked genome, shape (ranked,); NaN if unknown."""
    found = []
    for trial in data.ranked:
        value = trial.outcome.metrics.get(resource, trial.outcome.seconds if resource == "seconds" else math.nan)
        found.append(value if 0 < value < LARGEST else math.nan)
    return np.array(found, dtype=float)


def known(data: RunData) -> list[str]:
    """Return the resources that differ between genomes."""
    objectives = {goal.metric for goal in data.run.objectives[:1]}
    found = []
    for resource in RESOURCES:
        values = amounts(data, resource)
        values = values[~np.isnan(values)]
        if resource not in objectives and len(values) > 3 and bool(values.max() > 1.02 * values.min()):
            found.append(resource)
    return found


def cheapest(values: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the indices of results that no cheaper one equals, cheapest first. NaN values do not count."""
    order = np.lexsort((losses, values))
    order = np.asarray(order[~np.isnan(values[order])])
    if not len(order):
        return order
    reached = np.minimum.accumulate(losses[order])
    return np.asarray(order[np.diff(reached, prepend=np.inf) < 0])


def draw(data: RunData, resource: str | None = None) -> Spec | None:
    """Return the figure of one resource; None if genomes do not differ in it.

    Args:
        data: The run.
        resource: Name of a metric, or 'seconds'; by default the first that differs between genomes.
    """
    if resource is None:
        resource = next(iter(known(data)), None)
    if resource is None:
        return None
    values, sign = amounts(data, resource), data.objective.sign
    there = np.flatnonzero(~np.isnan(values))
    if not len(there):
        return None
    there = there[plot.spread_indices(len(there), plot.MOST_MARKS)]
    shown = sign * np.minimum(data.losses, data.edge_loss)
    ids = np.array([trial.id for trial in data.ranked])
    best = cheapest(values, data.losses)
    hover = {"hovertemplate": "trial %{customdata}<br>%{y:.5g} at %{x:.4g}<extra></extra>"}
    results = {"customdata": ids[there], "meta": {"kind": "result"}, "showlegend": False, **hover}
    front = {"customdata": ids[best], "meta": {"kind": "front"}, "mode": "lines+markers", **hover}
    front |= {"marker": {"size": 7, "color": Color.BEST}}
    traces = [
        plot.points(values[there], shown[there], "results", Color.FAINT, **results),
        {**plot.steps(values[best], shown[best], "front", Color.BEST, 1.5), **front},
    ]
    low, high = np.nanmin(values), np.nanmax(values)
    scale = plot.log_axis(low, high) if high > 8 * low else {}
    x = plot.axis(plot.escape_label(RESOURCES.get(resource, resource)), **scale)
    return plot.figure(traces, x, plot.escape_label(data.metric), height=260, showlegend=False)


def part(data: RunData) -> Part | None:
    """Return the part; None if genomes differ in no resource."""
    drawn = [
        CaptionedFigure(found, RESOURCES[name], narrow=True) for name in known(data) if (found := draw(data, name))
    ]
    if not drawn:
        return None
    return Part(
        "Cost",
        "Each point is a full training. The line is the front: no cheaper training is as good. Where it is flat, a "
        "higher cost gains nothing.",
        drawn,
        note=plot.omission_note(plot.MOST_MARKS, len(data.ranked), "results"),
    )
