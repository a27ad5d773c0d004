"""Parallel coordinates: a line for each genome over all genes to its value; the page filters them by range."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.report.drawing import BEST, OTHERS, Drawn, Part, Spec, figure, safe
from evo_tune.report.material import Material
from evo_tune.report.words import show_value

PLACE = 40

MOST = 600
"""Lines drawn at most."""

MOST_AXES = 16

TOP = 0.1
"""Share of the genomes that is called the best."""

TICKS = 6


def axes(material: Material) -> list[str]:
    """Return the genes that have an axis: all that vary, or those that matter most."""
    return material.by_importance[:MOST_AXES]


def lines(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the ranked genomes are drawn, and their places on the axes, the objective's last.

    All of the best tenth are there as far as there is room, then an even choice of the others. Places are in [0, 1],
    shape (lines, axes + 1); on the last axis 1 is the best.
    """
    count = len(material.ranked)
    top = min(max(1, round(TOP * count)), MOST // 2)
    kept = np.arange(count)
    if count > MOST:
        kept = np.unique(np.append(np.arange(top), np.linspace(top, count - 1, MOST - top).round().astype(int)))
    genes = list(material.genes)
    columns = [genes.index(name) for name in axes(material)]
    low, high = float(material.losses.min()), material.worst_shown
    reach = (np.minimum(material.losses[kept], high) - low) / ((high - low) or 1.0)
    return kept, np.column_stack([material.units[kept][:, columns], 1.0 - reach])


def draw(material: Material) -> Spec | None:
    """Return the figure; None for fewer than two genomes with a value, or no gene that varies."""
    names = axes(material)
    if len(material.ranked) < 2 or not names:
        return None
    kept, places = lines(material)
    top = min(max(1, round(TOP * len(material.ranked))), MOST // 2)
    best = kept < top
    traces = [
        _lines(places[~best], kept[~best], material, "others", OTHERS, 0.35, 1.0),
        _lines(places[best], kept[best], material, f"best {best.sum()}", BEST, 0.8, 1.6),
    ]
    count = len(names) + 1
    ticks = [_ticks(material, name) for name in names] + [_value_ticks(material)]
    x = [number for number, (at, _) in enumerate(ticks) for _ in at]
    marks: dict[str, Any] = {
        "type": "scatter", "mode": "markers+text", "x": x, "y": [y for at, _ in ticks for y in at],
        "text": [text for _, texts in ticks for text in texts], "textposition": "middle left",
        "textfont": {"size": 11}, "cliponaxis": False, "hoverinfo": "skip", "showlegend": False, "name": "ticks",
        "marker": {"symbol": "line-ew", "size": 7, "line": {"width": 1, "color": "#8a8f98"}},
    }  # fmt: skip
    titles = [safe(name, 18) for name in names] + [safe(material.metric, 18)]
    rules = [
        {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": {"color": "#8a8f98", "width": 1}}
        for place in range(count)
    ]
    return figure(
        [*traces, marks],
        {
            "tickmode": "array", "tickvals": list(range(count)), "ticktext": titles, "side": "top",
            "range": [-0.65, count - 0.85], "showgrid": False, "fixedrange": True,
            "ticklabeloverflow": "allow", "tickangle": -20 if count > 7 else 0,
        },
        {"range": [-0.06, 1.06], "visible": False, "fixedrange": True},
        height=400,
        shapes=rules,
        dragmode="select",
        margin={"l": 16, "r": 48, "t": 84, "b": 36},  # a slanting title reaches beyond its axis
        legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top"},
    )  # fmt: skip


def _lines(
    places: np.ndarray, ranks: np.ndarray, material: Material, name: str, color: str, opacity: float, width: float
) -> dict[str, Any]:
    """Return a trace of many lines, with a gap after each."""
    count = places.shape[1]
    x = np.tile(np.append(np.arange(float(count)), np.nan), len(places))
    y = np.column_stack([places, np.full(len(places), np.nan)]).ravel()
    texts = [f"trial {material.ranked[rank].id}: {material.values[rank]:.5g}" for rank in ranks]
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y.round(4), "name": name, "opacity": opacity,
        "line": {"color": color, "width": width}, "text": [text for text in texts for _ in range(count + 1)],
        "hovertemplate": "%{text}<extra></extra>", "meta": {"kind": "lines", "axes": count},
    }  # fmt: skip


def _ticks(material: Material, name: str) -> tuple[list[float], list[str]]:
    """Return places and labels along a gene's axis."""
    gene = material.genes[name]
    if gene.size <= TICKS:
        count = int(gene.size)
        values = (
            list(gene.values) if isinstance(gene, Choice) else [gene.decode((i + 0.5) / count) for i in range(count)]
        )
        return [gene.encode(value) for value in values], [safe(show_value(value), 10) for value in values]
    units = [0.0, 0.5, 1.0]
    values = [gene.decode(unit) for unit in units]
    return [gene.encode(value) for value in values], [
        safe(f"{value:.3g}" if isinstance(value, float) else show_value(value), 10) for value in values
    ]


def _value_ticks(material: Material) -> tuple[list[float], list[str]]:
    best, worst = float(material.losses.min()), material.worst_shown
    sign = material.objective.sign
    return [1.0, 0.0], [f"{sign * best:.4g}", f"{sign * worst:.4g}"]


def part(material: Material) -> Part | None:
    """Return the part; None where there is nothing to draw."""
    found = draw(material)
    if found is None:
        return None
    kept, _ = lines(material)
    count, names = len(material.ranked), axes(material)
    notes = [f"{len(kept)} of {count} genomes are drawn: the best, and an even choice of the others."]
    notes = notes if len(kept) < count else []
    varying = sum(gene.size > 1 for gene in material.genes.values())
    if varying > len(names):
        notes.append(f"The {len(names)} most important of {varying} genes have an axis.")
    return Part(
        "Parallel coordinates",
        "Each line is a genome. Where the best run close together, a gene's value matters; where they spread, it does "
        "not. Drag along an axis to keep the lines that pass there (with Shift for more ranges; a double click frees "
        "all), or use the sliders below.",
        [Drawn(found, axes=(*names, material.metric))],
        note=" ".join(notes),
    )
