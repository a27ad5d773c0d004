"""Results along each gene, and the prediction of the model as that gene alone varies from the best genome."""

from typing import Any

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.report import charts
from evo_tune.report.charts import SERIES, Color, Part, Spec
from evo_tune.report.run_data import RunData

POSITION = 50

# Most points drawn for one gene.
MOST = 200

# Most genes drawn.
MOST_GENES = 24


def draw(data: RunData, gene: str | None = None) -> Spec | None:
    """Return the figure of one gene; None without a full training that has a value.

    Args:
        data: The run.
        gene: Name of the gene; by default the most important one.
    """
    if not data.ranked_trials or not data.genes_by_importance:
        return None
    name = data.genes_by_importance[0] if gene is None else gene
    indices = charts.spread_indices(len(data.ranked_trials), MOST, keep=range(MOST // 4))  # the best are always drawn
    trials = [data.ranked_trials[index] for index in indices]
    ids, y = [trial.id for trial in trials], data.chart_values(data.ranked_losses[indices])
    x = charts.gene_positions(data.genes[name], (trial.genome[name] for trial in trials))
    hover, diamond = "trial %{customdata}<br>%{y:.5g}", {"size": 10, "symbol": "diamond"}
    traces = [
        *_prediction(data, name),
        charts.points(x, y, "results", Color.FAINT, hover, customdata=ids),
        charts.points(x[:1], y[:1], "best", Color.BEST, hover, customdata=ids[:1], marker=diamond),
    ]
    x_axis, y_axis = charts.gene_axis(name, data.genes[name]), charts.escape_label(data.metric)
    return charts.figure(traces, x_axis, y_axis, height=240, showlegend=False)


def _prediction(data: RunData, name: str) -> list[dict[str, Any]]:
    """Return the prediction and its bounds; nothing without a model."""
    if data.importance_model is None:
        return []
    gene, column, color, sign = data.genes[name], data.gene_indices[name], SERIES[0], data.objective.sign
    # From the best genome of the search
    mean, low, high = sign * data.importance_model.predict_along(data.ranked_units[0], column)
    if sign < 0:
        low, high = high, low
    grid_values = (gene.decode(float(unit)) for unit in data.importance_model.grids[column])
    x = np.array(charts.gene_positions(gene, grid_values))
    if isinstance(gene, Choice):
        marker = {"symbol": "line-ew", "size": 14, "line": {"width": 2.5, "color": color}}
        error = charts.bars(mean, low, high, color, thickness=1.5, width=4)
        return [charts.points(x, mean, "model", color, marker=marker, error_y=error)]
    return [
        charts.line(x, low, "low", color, 0),
        charts.line(x, high, "high", color, 0, fill="tonexty", fillcolor="rgba(0,114,178,0.18)"),
        charts.line(x, mean, "model", color),
    ]


def part(data: RunData) -> Part | None:
    """Return the part; None without a full training that has a value, or without a gene that varies."""
    genes = data.genes_by_importance
    figures = charts.side_by_side((name, draw(data, name)) for name in genes[:MOST_GENES])
    if not figures:
        return None
    explanation = "Each point is a full training; the most important genes come first."
    if data.importance_model is None:
        explanation += " The best genome is orange. A model needs 20 results or more."
    else:
        explanation += " The line is a forest's prediction as only this gene varies from the best genome (orange); the "
        explanation += "band is its 80 % interval."
    note = charts.omission_note(MOST, len(data.ranked_trials), "results")
    if len(genes) > MOST_GENES:
        note += f" The {MOST_GENES} most important of {len(genes)} genes are shown."
    return Part("Gene by gene", explanation, figures, note=note.strip())
