"""Results along two genes at once, over the prediction of the model as these two vary from the best genome."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from evo_tune.report import charts as plot
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import RunData

PLACE = 55

MOST = 200
"""Most points drawn for one pair."""

MOST_GENES = 3
"""Most genes of which all pairs are drawn."""

SCALE = "Viridis"
"""Colours that differ in brightness too, so that they can be told apart with any kind of colour vision."""


def draw(data: RunData, x: str | None = None, y: str | None = None) -> Spec | None:
    """Return the figure of two genes; None without a full training that has a value, or with fewer than two genes.

    Args:
        data: The run.
        x: Name of the horizontal gene; by default the most important one.
        y: Name of the vertical gene; by default the most important other one.
    """
    names = data.genes_by_importance
    x = next((name for name in names if name != y), None) if x is None else x
    y = next((name for name in names if name != x), None) if y is None else y
    if not data.ranked or x is None or y is None:
        return None
    genes, sign = data.genes, data.objective.sign
    kept = [data.ranked[place] for place in plot.spread_indices(len(data.ranked), MOST, range(MOST // 4))]
    losses = np.array([trial.losses[0] for trial in kept if trial.losses])
    shown = sign * np.minimum(losses, data.edge_loss)
    low, high = np.sort(sign * np.array([data.losses.min(), data.edge_loss]))
    colors = {"cmin": low, "cmax": high, "colorscale": SCALE, "reversescale": sign > 0}
    places = {name: plot.gene_positions(genes[name], (trial.genome[name] for trial in kept)) for name in (x, y)}
    bar = {"thickness": 10, "outlinewidth": 0, "nticks": 5, "tickfont": {"size": plot.SIZE}, "len": 1.0}
    mark = {"color": shown, "size": 7, "line": {"width": 1, "color": "rgba(255,255,255,0.9)"}, **colors}
    texts = [f"{plot.escape_label(data.metric)} {value:.5g}" for value in shown]
    more: dict[str, Any] = {"showlegend": False, "hovertemplate": "trial %{customdata}<br>%{text}<extra></extra>"}
    more |= {"customdata": [trial.id for trial in kept], "text": texts}
    traces = [
        *_model(data, x, y, {"zmin": low, "zmax": high, "colorscale": SCALE, "reversescale": sign > 0}),
        plot.points(
            places[x], places[y], "results", "", marker={**mark, "colorbar": bar}, meta={"kind": "result"}, **more
        ),
        *_recommended(data, x, y),
    ]
    across, up = ({**plot.gene_axis(name, genes[name]), "showgrid": False} for name in (x, y))
    return plot.figure(traces, across, up, 280, showlegend=False, margin={"l": 56, "r": 8, "t": 16, "b": 52})


def _recommended(data: RunData, x: str, y: str) -> list[dict[str, Any]]:
    if data.best is None:
        return []
    across, up = (plot.gene_positions(data.genes[name], [data.best.genome[name]]) for name in (x, y))
    star = {"symbol": "star", "size": 15, "line": {"width": 1, "color": "#fff"}}
    text = f"recommended: trial {data.best.id}<extra></extra>"
    more: dict[str, Any] = {"marker": star, "hovertemplate": text, "showlegend": False, "meta": {"kind": "recommended"}}
    return [plot.points(across, up, "recommended", Color.BEST, **more)]


def _model(data: RunData, x: str, y: str, colors: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the prediction as a coloured background; nothing without a model."""
    if data.model is None:
        return []
    columns = [list(data.genes).index(name) for name in (x, y)]
    found = data.objective.sign * data.model.predict_across(data.units[0], *columns)
    at = []
    for name, column in zip((x, y), columns, strict=True):
        gene = data.genes[name]
        at.append(plot.gene_positions(gene, (gene.decode(float(unit)) for unit in data.model.grids[column])))
    (xs, kept_x), (ys, kept_y) = (np.unique(places, return_index=True) for places in at)
    z = found[np.ix_(kept_y, kept_x)].round(6)
    return [{"type": "heatmap", "x": xs, "y": ys, "z": z, "showscale": False, "hoverinfo": "skip", **colors}]


def part(data: RunData) -> Part | None:
    """Return the part; None without a full training that has a value, or with fewer than two genes that vary."""
    genes = data.genes_by_importance[:MOST_GENES]
    pairs = list(combinations(genes, 2))
    drawn = [CaptionedFigure(made, f"{x} and {y}", narrow=True) for x, y in pairs if (made := draw(data, x, y))]
    if not drawn:
        return None
    said = f"Each point is a full training, coloured by {data.metric}; the star is the recommended trial."
    if data.model is not None:
        said += " The background is the prediction of a forest while all other genes are those of the best genome."
    left = [plot.omission_note(MOST, len(data.ranked), "results")]
    if len(data.genes_by_importance) > MOST_GENES:
        left.append(
            f"These are the pairs of the {MOST_GENES} most important genes; in Python `run.plot.pairs(x, y)` draws any."
        )
    return Part("Two genes at once", said, drawn, note=" ".join(filter(None, left)))
