"""Results against their cost in parameters, FLOPs, time and memory, with the front of each."""

import math
from typing import Any

import numpy as np

from evo_tune.report import charts
from evo_tune.report.charts import Color, Part, Spec
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData

POSITION = 90

# Metrics of the bundled evaluators that are resources, with their descriptions.
RESOURCES = {
    "params": "parameters",
    "flops": "FLOPs of the training",
    "seconds": "seconds of the training",
    "peak_memory": "peak memory, bytes",
    "gpu_memory": "GPU memory, bytes",
}


def amounts(data: RunData, resource: str) -> np.ndarray:
    """Return the use of a resource by each ranked genome, shape (ranked,); NaN if unknown."""
    outcomes = [trial.outcome for trial in data.ranked_trials]
    defaults = [outcome.seconds if resource == "seconds" else math.nan for outcome in outcomes]
    values = [outcome.metrics.get(resource, default) for outcome, default in zip(outcomes, defaults, strict=True)]
    return np.array([value if 0 < value < MAX_ABSOLUTE_LOSS else math.nan for value in values])


def varying_resources(data: RunData) -> list[str]:
    """Return the resources that differ between genomes."""
    names = []
    has_gpu = any(trial.outcome.device.startswith("cuda") for trial in data.ranked_trials)
    for resource in RESOURCES:
        if resource == "gpu_memory" and not has_gpu:
            continue  # that of a GPU which no training used
        values = amounts(data, resource)
        is_known = resource != data.metric and np.isfinite(values).sum() > 3
        if is_known and np.nanmax(values) > 1.02 * np.nanmin(values):
            names.append(resource)
    return names


def cheapest(values: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the indices of results that no cheaper one equals, cheapest first. NaN values do not count."""
    order = np.lexsort((losses, values))
    order = order[~np.isnan(values[order])]
    return np.asarray(order[np.diff(np.minimum.accumulate(losses[order]), prepend=np.inf) < 0])


def draw(data: RunData, resource: str | None = None) -> Spec | None:
    """Return the figure of one resource; None if genomes do not differ in it.

    Args:
        data: The run.
        resource: Name of a metric, or 'seconds'; by default the first that differs between genomes.
    """
    resource = resource or next(iter(varying_resources(data)), None)
    if resource is None:
        return None
    x, y = amounts(data, resource), data.chart_values(data.ranked_losses)
    results = np.flatnonzero(~np.isnan(x))
    if not len(results):
        return None
    results = results[charts.spread_indices(len(results), charts.MOST_MARKS)]
    front = cheapest(x, data.ranked_losses)
    ids = np.array([trial.id for trial in data.ranked_trials])
    hover, marker = "trial %{customdata}<br>%{y:.5g} at %{x:.4g}", {"size": 7, "color": Color.BEST}
    marks: dict[str, Any] = {"customdata": ids[front], "marker": marker, "mode": "lines+markers"}
    traces = [
        charts.points(x[results], y[results], "results", Color.FAINT, hover, customdata=ids[results]),
        charts.line(x[front], y[front], "front", Color.BEST, 1.5, hover, line={"shape": "hv"}, **marks),
    ]
    low, high = np.nanmin(x), np.nanmax(x)
    scale = charts.log_axis(low, high) if high > 8 * low else {}
    x_axis = charts.axis(charts.escape_label(RESOURCES.get(resource, resource)), **scale)
    return charts.figure(traces, x_axis, charts.escape_label(data.metric), height=260, showlegend=False)


def part(data: RunData) -> Part | None:
    """Return the part; None if genomes differ in no resource."""
    figures = charts.side_by_side((RESOURCES[name], draw(data, name)) for name in varying_resources(data))
    if not figures:
        return None
    return Part(
        "Cost",
        "Each point is a full training. The line is the front: no cheaper training is as good.",
        figures,
        note=charts.omission_note(charts.MOST_MARKS, len(data.ranked_trials), "results"),
    )
