"""Results along two genes at once, over the prediction of the model as these two vary from the best genome."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from evo_tune.report import charts
from evo_tune.report.charts import Part, Spec
from evo_tune.report.run_data import RunData

# Order on the page; see `charts`.
POSITION = 55

# Most points drawn for one pair.
MAX_POINTS = 200

# Most genes of which all pairs are drawn.
MAX_GENES = 3

# Colours that differ in brightness too, so that they can be told apart with any kind of colour vision.
COLOR_SCALE = "Viridis"


def draw(data: RunData, x: str | None = None, y: str | None = None) -> Spec | None:
    """Return the figure of two genes; None without a full training that has a value, or with fewer than two genes.

    Args:
        data: The run.
        x: Name of the horizontal gene; by default the most important one.
        y: Name of the vertical gene; by default the most important other one.
    """
    names = data.genes_by_importance
    # Each default is the most important gene that is not on the other axis.
    x = next((name for name in names if name != y), None) if x is None else x
    y = next((name for name in names if name != x), None) if y is None else y
    if not data.ranked_trials or x is None or y is None:
        return None
    # `ranked_trials` is best first.
    indices = charts.spread_indices(len(data.ranked_trials), MAX_POINTS, keep=range(MAX_POINTS // 4))
    trials = [data.ranked_trials[index] for index in indices]
    values = data.chart_values(data.ranked_losses[indices])
    # Sorted, because a maximised objective's values are negated losses.
    low, high = sorted(data.chart_values(np.array([data.ranked_losses.min(), data.edge_loss])))
    color_scale = {"colorscale": COLOR_SCALE, "reversescale": data.objective.sign > 0}  # good values are bright
    color_bar = {"thickness": 10, "outlinewidth": 0, "nticks": 5, "tickfont": {"size": charts.SIZE}, "len": 1.0}
    edge = {"width": 1, "color": "rgba(255,255,255,0.9)"}
    color_range = {"cmin": low, "cmax": high}
    marker = {"color": values, "size": 7, "line": edge, **color_range, "colorbar": color_bar, **color_scale}
    xs, ys = (charts.gene_positions(data.genes[name], (trial.genome[name] for trial in trials)) for name in (x, y))
    texts = [f"{charts.escape_label(data.metric)} {value:.5g}" for value in values]
    ids, hover = [trial.id for trial in trials], "trial %{customdata}<br>%{text}"
    results = charts.points(xs, ys, "results", color="", hover=hover, customdata=ids, text=texts, marker=marker)
    traces = [*_prediction_traces(data, x, y, {"zmin": low, "zmax": high, **color_scale}), results]
    if (best := data.recommended_trial) is not None:
        best_x, best_y = (charts.gene_positions(data.genes[name], [best.genome[name]]) for name in (x, y))
        star_marker = {"line": {"width": 1, "color": "#fff"}}
        traces.append(charts.star(best_x, best_y, 15, f"recommended: trial {best.id}", marker=star_marker))
    x_axis, y_axis = ({**charts.gene_axis(name, data.genes[name]), "showgrid": False} for name in (x, y))
    margin = {"l": 56, "r": 8, "t": 16, "b": 52}
    return charts.figure(traces, x_axis, y_axis, height=280, showlegend=False, margin=margin)


def _prediction_traces(data: RunData, x: str, y: str, color_options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the prediction as a coloured background; nothing without a model."""
    if data.importance_model is None:
        return []
    # Those of the first trial of `ranked_trials`; `data.recommended_trial` may be another.
    best_found_units = data.ranked_units[0]
    gene_indices = [data.gene_indices[name] for name in (x, y)]
    predictions = data.objective.sign * data.importance_model.predict_grid(best_found_units, *gene_indices)
    positions = []
    for name, gene_index in zip((x, y), gene_indices, strict=True):
        gene = data.genes[name]
        grid_values = (gene.decode(float(unit)) for unit in data.importance_model.grids[gene_index])
        positions.append(charts.gene_positions(gene, grid_values))
    # Several points of a grid may decode to the same value, of which the first is drawn. Predictions are (y, x).
    (xs, x_indices), (ys, y_indices) = (np.unique(axis, return_index=True) for axis in positions)
    z = predictions[np.ix_(y_indices, x_indices)].round(6)
    return [{"type": "heatmap", "x": xs, "y": ys, "z": z, "showscale": False, "hoverinfo": "skip", **color_options}]


def part(data: RunData) -> Part | None:
    """Return the part; None without a full training that has a value, or with fewer than two genes that vary."""
    pairs = combinations(data.genes_by_importance[:MAX_GENES], 2)
    figures = charts.side_by_side((f"{x} and {y}", draw(data, x, y)) for x, y in pairs)
    if not figures:
        return None
    explanation = f"Each point is a full training, coloured by {data.metric}; the star is the recommended trial."
    if data.importance_model is not None:
        explanation += " The background is a forest's prediction while all other genes are those of the best genome."
    note = charts.omission_note(MAX_POINTS, len(data.ranked_trials), "results")
    if len(data.genes_by_importance) > MAX_GENES:
        note += f" These are the pairs of the {MAX_GENES} most important genes; "
        note += "in Python `run.plot.pairs(x, y)` draws any."
    return Part("Two genes at once", explanation, figures, note=note.strip())
