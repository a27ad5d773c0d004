"""Slices: results along each gene, and what the model predicts where that gene alone moves away from the best."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.report.drawing import BEST, FAINT, SERIES, Drawn, Part, Spec, figure, gene_axis, points, safe, thinned
from evo_tune.report.material import Material

PLACE = 50

MOST = 400
"""Points drawn at most for one gene."""

MOST_GENES = 24


def draw(material: Material, gene: str | None = None) -> Spec | None:
    """Return the figure of one gene; None if there is no full training with a value.

    Args:
        material: The run.
        gene: Its name; by default the most important one.
    """
    if not material.ranked or not material.by_importance:
        return None
    name = material.by_importance[0] if gene is None else gene
    sign = material.objective.sign
    kept = thinned(len(material.ranked), MOST, range(MOST // 4))
    shown = sign * np.minimum(material.losses[kept], material.worst_shown)
    hover = {"hovertemplate": "trial %{customdata}<br>%{y:.5g}<extra></extra>"}
    ids = [material.ranked[place].id for place in kept]
    traces = _model(material, name)
    traces.append(
        points(
            _places(material, name, kept), shown, "results", FAINT,
            customdata=ids, showlegend=False, meta={"kind": "result"}, **hover,
        )
    )  # fmt: skip
    traces.append(
        points(
            _places(material, name, [0]), shown[:1], "best", BEST,
            customdata=ids[:1], showlegend=False, marker={"size": 10, "symbol": "diamond"}, **hover,
        )
    )  # fmt: skip
    y = {"title": {"text": safe(material.metric)}}
    return figure(traces, gene_axis(name, material.genes[name]), y, height=240, showlegend=False)


def _places(material: Material, name: str, ranks: Any) -> list[float]:
    """Return where genomes stand along a gene's axis."""
    gene = material.genes[name]
    values = [material.ranked[int(rank)].genome[name] for rank in ranks]
    if isinstance(gene, Choice):
        index = {value: place for place, value in enumerate(_keys(gene.values))}
        return [float(index[key]) for key in _keys(values)]
    return [float(value) for value in values]


def _keys(values: Any) -> list[tuple[str, object]]:
    """Return values that tell True from 1 and 1 from 1.0."""
    return [(type(value).__name__, value) for value in values]


def _model(material: Material, name: str) -> list[dict[str, Any]]:
    """Return the prediction and its bounds; nothing where there is no model."""
    if material.model is None:
        return []
    place = list(material.genes).index(name)
    gene, sign = material.genes[name], material.objective.sign
    mean, low, high = (sign * found for found in material.model.along(material.units[0], place))
    values = [gene.decode(float(unit)) for unit in material.model.grids[place]]
    if isinstance(gene, Choice):
        order = {key: number for number, key in enumerate(_keys(gene.values))}
        x = np.array([float(order[key]) for key in _keys(values)])
        bars = {"type": "data", "symmetric": False, "array": np.abs(high - mean), "arrayminus": np.abs(mean - low)}
        bars |= {"color": SERIES[0], "thickness": 1.5, "width": 4}
        return [
            points(x, mean, "model", SERIES[0], marker={"symbol": "line-ew", "size": 14,
                   "line": {"width": 2.5, "color": SERIES[0]}}, error_y=bars, hoverinfo="skip")
        ]  # fmt: skip
    x = np.array([float(value) for value in values])
    band = {"type": "scatter", "mode": "lines", "line": {"width": 0, "color": SERIES[0]}, "hoverinfo": "skip"}
    return [
        {**band, "x": x, "y": low, "name": "low"},
        {**band, "x": x, "y": high, "name": "high", "fill": "tonexty", "fillcolor": "rgba(0,114,178,0.18)"},
        {
            "type": "scatter", "mode": "lines", "x": x, "y": mean, "name": "model", "hoverinfo": "skip",
            "line": {"color": SERIES[0], "width": 2}, "meta": {"kind": "model"},
        },
    ]  # fmt: skip


def part(material: Material) -> Part | None:
    """Return the part; None if there is no full training with a value, or no gene that varies."""
    names = material.by_importance[:MOST_GENES]
    found = [(name, draw(material, name)) for name in names]
    drawn = [Drawn(one, name, narrow=True) for name, one in found if one is not None]
    if not drawn:
        return None
    count = len(material.ranked)
    model = (
        " The line is what a forest predicts where only this gene moves away from the best genome (orange), the band "
        "where four fifths of its bootstraps lie: a wide one says that little is known there."
        if material.model is not None
        else " The best is orange. Fewer than 20 results are too few for a model."
    )
    left = [f"{MOST} of {count} results are drawn for each gene."] if count > MOST else []
    if len(material.by_importance) > MOST_GENES:
        left.append(f"The {MOST_GENES} most important of {len(material.by_importance)} genes are shown.")
    return Part(
        "Gene by gene",
        f"Each point is a full training, genes that matter most first.{model}",
        drawn,
        note=" ".join(left),
    )
