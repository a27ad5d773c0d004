"""Results along each gene, and the prediction of the model as that gene alone varies from the best genome."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.report import charts as plot
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import RunData

PLACE = 50

MOST = 200
"""Most points drawn for one gene."""

MOST_GENES = 24
"""Most genes drawn."""


def draw(data: RunData, gene: str | None = None) -> Spec | None:
    """Return the figure of one gene; None without a full training that has a value.

    Args:
        data: The run.
        gene: Name of the gene; by default the most important one.
    """
    if not data.ranked or not data.genes_by_importance:
        return None
    name = data.genes_by_importance[0] if gene is None else gene
    genes = data.genes
    kept = [data.ranked[place] for place in plot.spread_indices(len(data.ranked), MOST, range(MOST // 4))]
    ids = [trial.id for trial in kept]
    losses = np.array([trial.losses[0] for trial in kept if trial.losses])
    shown = data.objective.sign * np.minimum(losses, data.edge_loss)
    x = plot.gene_positions(genes[name], (trial.genome[name] for trial in kept))
    more: dict[str, Any] = {"hovertemplate": plot.TRIAL, "showlegend": False}
    mark = {"size": 10, "symbol": "diamond"}
    traces = [
        *_model(data, name),
        plot.points(x, shown, "results", Color.FAINT, customdata=ids, meta={"kind": "result"}, **more),
        plot.points(x[:1], shown[:1], "best", Color.BEST, customdata=ids[:1], marker=mark, **more),
    ]
    return plot.figure(traces, plot.gene_axis(name, genes[name]), plot.escape_label(data.metric), 240, showlegend=False)


def _model(data: RunData, name: str) -> list[dict[str, Any]]:
    """Return the prediction and its bounds; nothing without a model."""
    if data.model is None:
        return []
    place = list(data.genes).index(name)
    gene, color = data.genes[name], SERIES[0]
    skip: dict[str, Any] = {"hoverinfo": "skip"}
    band, sign = data.model.predict_along(data.units[0], place), data.objective.sign
    mean, ends = sign * band.mean, (sign * band.low, sign * band.high)
    low, high = np.minimum(*ends), np.maximum(*ends)
    x = np.array(plot.gene_positions(gene, (gene.decode(float(unit)) for unit in data.model.grids[place])))
    if isinstance(gene, Choice):
        mark = {"symbol": "line-ew", "size": 14, "line": {"width": 2.5, "color": color}}
        error = plot.bars(mean, low, high, color, thickness=1.5, width=4)
        return [plot.points(x, mean, "model", color, marker=mark, error_y=error, **skip)]
    return [
        plot.line(x, low, "low", color, 0, **skip),
        plot.line(x, high, "high", color, 0, fill="tonexty", fillcolor="rgba(0,114,178,0.18)", **skip),
        plot.line(x, mean, "model", color, meta={"kind": "model"}, **skip),
    ]


def part(data: RunData) -> Part | None:
    """Return the part; None without a full training that has a value, or without a gene that varies."""
    genes = data.genes_by_importance
    drawn = [CaptionedFigure(found, name, narrow=True) for name in genes[:MOST_GENES] if (found := draw(data, name))]
    if not drawn:
        return None
    model = "The best genome is orange. A model needs 20 results or more."
    if data.model is not None:
        model = (
            "The line is the prediction of a forest as only this gene varies from the best genome (orange). The band "
            "is its 80 % interval over bootstraps: where it is wide, little is known."
        )
    left = [plot.omission_note(MOST, len(data.ranked), "results")]
    if len(genes) > MOST_GENES:
        left.append(f"The {MOST_GENES} most important of {len(genes)} genes are shown.")
    said = f"Each point is a full training; the most important genes come first. {model}"
    return Part("Gene by gene", said, drawn, note=" ".join(filter(None, left)))
