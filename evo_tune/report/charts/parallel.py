"""Parallel coordinates: one line for each genome across all genes and its value. The page filters lines by range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec, escape_label, figure, line, points
from evo_tune.report.run_data import RunData
from evo_tune.text import show_value

PLACE = 40

MOST = 600
"""Most lines drawn."""

MOST_BEST = 60
"""Most of them that are among the best: hundreds would be one area."""

MOST_AXES = 16
"""Most genes with an axis."""

TOP = 0.1
"""Share of the genomes called the best."""

TICKS = 6
"""Most values of a gene that each get a tick."""


@dataclass(frozen=True)
class Lines:
    """The lines that are drawn.

    Args:
        ranks: Ranks of their genomes, shape (lines,).
        places: Positions on the axes in [0, 1], shape (lines, axes); on the last axis, the objective's, 1 is the best.
        best: Whether each is among the best genomes, shape (lines,).
    """

    ranks: np.ndarray
    places: np.ndarray
    best: np.ndarray


def axes(data: RunData) -> list[str]:
    """Return the genes that have an axis: all that vary, or the most important ones."""
    return data.genes_by_importance[:MOST_AXES]


def lines(data: RunData) -> Lines:
    """Return the lines: those of the best tenth, at most `MOST_BEST`, and an even choice of the others."""
    count = len(data.ranked)
    top = min(max(1, round(TOP * count)), MOST_BEST)
    kept = np.arange(count)
    if count > MOST:
        kept = np.unique(np.append(np.arange(top), np.linspace(top, count - 1, MOST - top).round().astype(int)))
    genes = list(data.genes)
    columns = [genes.index(name) for name in axes(data)]
    low, high = float(data.losses.min()), data.edge_loss
    reach = (np.minimum(data.losses[kept], high) - low) / ((high - low) or 1.0)
    return Lines(kept, np.column_stack([data.units[kept][:, columns], 1.0 - reach]), kept < top)


def draw(data: RunData) -> Spec | None:
    """Return the figure; None for fewer than two genomes with a value, or without a gene that varies."""
    names = axes(data)
    if len(data.ranked) < 2 or not names:
        return None
    drawn, count = lines(data), len(names) + 1
    best = drawn.best
    ticks = [_ticks(data, name) for name in names] + [_value_ticks(data)]
    marks = points(
        [number for number, labels in enumerate(ticks) for _ in labels],
        [place for labels in ticks for place, _ in labels],
        "ticks",
        Color.DEFAULT,
        **{"mode": "markers+text", "text": [text for labels in ticks for _, text in labels], "textfont": {"size": 11}},
        **{"textposition": "middle left", "cliponaxis": False, "hoverinfo": "skip", "showlegend": False},
        marker={"symbol": "line-ew", "size": 7, "line": {"width": 1, "color": Color.DEFAULT}},
    )
    traces = [
        _trace(data, drawn, ~best, "others", Color.OTHERS, 1.0, opacity=0.35),
        _trace(data, drawn, best, f"best {best.sum()} in the search", SERIES[1], 1.6, opacity=0.8),
        marks,
        *_recommended(data, names),
    ]
    texts = [escape_label(name, 18) for name in (*names, data.metric)]
    titles: dict[str, Any] = {"tickmode": "array", "tickvals": list(range(count)), "ticktext": texts, "side": "top"}
    slanted = count > 7  # steeply, so that no title reaches into the next one where 17 axes share a page of paper
    titles |= {"ticklabeloverflow": "allow", "tickangle": -45 if slanted else 0}
    rule = {"color": Color.DEFAULT, "width": 1}
    return figure(
        traces,
        {**titles, "range": [-0.65, count - 0.85], "showgrid": False, "fixedrange": True},
        {"range": [-0.06, 1.06], "visible": False, "fixedrange": True},
        height=432 if slanted else 356,
        shapes=[{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": rule} for at in range(count)],
        dragmode="select",
        margin={"l": 16, "r": 64, "t": 116 if slanted else 40, "b": 36},  # a slanted title extends beyond its axis
        legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top"},
    )


def _recommended(data: RunData, names: list[str]) -> list[dict[str, Any]]:
    """Return the line of the recommended genome, which no filter hides; [] if it has no line."""
    rank = next((n for n, one in enumerate(data.ranked) if data.best and one.id == data.best.id), None)
    if rank is None:
        return []
    genes, low, high = list(data.genes), float(data.losses.min()), data.edge_loss
    reach = (min(data.losses[rank], high) - low) / ((high - low) or 1.0)
    y = [*data.units[rank][[genes.index(name) for name in names]], 1.0 - reach]
    text = f"trial {data.ranked[rank].id}, recommended: {data.values[rank]:.5g}"
    more = {"text": [text] * len(y), "hovertemplate": "%{text}<extra></extra>", "meta": {"kind": "recommended"}}
    name = f"recommended (trial {data.ranked[rank].id})"
    return [line(np.arange(float(len(y))), np.round(y, 4), name, Color.BEST, 3.0, **more)]


def _trace(
    data: RunData, drawn: Lines, which: np.ndarray, name: str, color: str, width: float, **more: Any
) -> dict[str, Any]:
    """Return a trace of some lines, with a gap after each."""
    places, ranks = drawn.places[which], drawn.ranks[which]
    count = places.shape[1]
    x = np.tile(np.append(np.arange(float(count)), np.nan), len(places))
    y = np.column_stack([places, np.full(len(places), np.nan)]).ravel().round(4)
    texts = [f"trial {data.ranked[rank].id}: {data.values[rank]:.5g}" for rank in ranks]
    more |= {"text": [text for text in texts for _ in range(count + 1)], "hovertemplate": "%{text}<extra></extra>"}
    return line(x, y, name, color, width, meta={"kind": "lines", "axes": count}, **more)


def _ticks(data: RunData, name: str) -> list[tuple[float, str]]:
    """Return the positions and labels of the ticks along a gene's axis."""
    gene = data.genes[name]
    few = gene.size <= TICKS
    count = int(gene.size) if few else 3
    units = [(i + 0.5) / count if few else i / 2 for i in range(count)]
    values = list(gene.values) if few and isinstance(gene, Choice) else [gene.decode(unit) for unit in units]
    texts = [f"{v:.3g}" if isinstance(v, float) and not few else show_value(v) for v in values]
    return [(gene.encode(value), escape_label(text, 10)) for value, text in zip(values, texts, strict=True)]


def _value_ticks(data: RunData) -> list[tuple[float, str]]:
    sign = data.objective.sign
    return [(1.0, f"{sign * float(data.losses.min()):.4g}"), (0.0, f"{sign * data.edge_loss:.4g}")]


def part(data: RunData) -> Part | None:
    """Return the part; None without a figure."""
    found = draw(data)
    if found is None:
        return None
    kept, count, names = len(lines(data).ranks), len(data.ranked), axes(data)
    varying = sum(gene.size > 1 for gene in data.genes.values())
    notes = [
        f"{kept} of {count} genomes are drawn: the best, and an even choice of the others." if kept < count else "",
        f"The {len(names)} most important of {varying} genes have an axis." if varying > len(names) else "",
    ]
    return Part(
        "Parallel coordinates",
        "Each line is a genome; the thick one is the recommended one. If the best lines are close together on an axis, "
        "that gene's value matters. Drag along an axis to keep only the lines that pass there (with Shift for further "
        "ranges; a double click shows all), or use the sliders below.",
        [CaptionedFigure(found, axes=(*names, data.metric))],
        note=" ".join(filter(None, notes)),
    )
