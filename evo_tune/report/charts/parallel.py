"""Parallel coordinates: one line for each genome across all genes and its value. The page filters lines by range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec, escape_label, figure, line, points
from evo_tune.report.run_data import RunData
from evo_tune.text import show_value

POSITION = 40

# Most lines drawn.
MOST = 600

# Most of them that are among the best: hundreds would be one area.
MOST_BEST = 60

# Most genes with an axis.
MOST_AXES = 16

# Share of the genomes called the best.
TOP = 0.1

# Most values of a gene that each get a tick.
TICKS = 6


@dataclass(frozen=True)
class Lines:
    """The lines that are drawn.

    Args:
        ranks: Ranks of their genomes, shape (lines,).
        positions: Positions on the axes in [0, 1], shape (lines, axes); on the last axis, the objective's, 1 is best.
        best: Whether each is among the best genomes, shape (lines,).
    """

    ranks: np.ndarray
    positions: np.ndarray
    best: np.ndarray


def axes(data: RunData) -> list[str]:
    """Return the genes that have an axis: all that vary, or the most important ones."""
    return data.genes_by_importance[:MOST_AXES]


def lines(data: RunData) -> Lines:
    """Return the lines: those of the best tenth, at most `MOST_BEST`, and an even choice of the others."""
    count = len(data.ranked_trials)
    top = min(max(1, round(TOP * count)), MOST_BEST)
    ranks = np.arange(count)
    if count > MOST:
        ranks = np.unique(np.append(np.arange(top), np.linspace(top, count - 1, MOST - top).round().astype(int)))
    return Lines(ranks, _positions(data, ranks), ranks < top)


def _positions(data: RunData, ranks: np.ndarray) -> np.ndarray:
    """Return the positions of genomes on the axes, shape (ranks, axes)."""
    columns = [data.gene_indices[name] for name in axes(data)]
    low, high = float(data.ranked_losses.min()), data.edge_loss
    losses = (np.minimum(data.ranked_losses[ranks], high) - low) / ((high - low) or 1.0)
    return np.column_stack([data.ranked_units[ranks][:, columns], 1.0 - losses])


def draw(data: RunData) -> Spec | None:
    """Return the figure; None for fewer than two genomes with a value, or without a gene that varies."""
    names = axes(data)
    if len(data.ranked_trials) < 2 or not names:
        return None
    shown, count = lines(data), len(names) + 1
    top = f"best {shown.best.sum()} in the search"
    groups = (~shown.best, "others", Color.OTHERS, 1.0, 0.35), (shown.best, top, SERIES[1], 1.6, 0.8)
    traces = []
    for mask, name, color, width, opacity in groups:  # one trace of many lines, with a gap after each
        ranks, gaps = shown.ranks[mask], np.full((mask.sum(), 1), np.nan)
        x = np.tile(np.append(np.arange(float(count)), np.nan), len(ranks))
        y = np.column_stack([shown.positions[mask], gaps]).ravel().round(4)
        labels = [f"trial {data.ranked_trials[rank].id}: {data.ranked_values[rank]:.5g}" for rank in ranks]
        texts = [label for label in labels for _ in range(count + 1)]
        marks: dict[str, Any] = {"text": texts, "opacity": opacity, "meta": {"kind": "lines", "axes": count}}
        traces.append(line(x, y, name, color, width, "%{text}", **marks))
    traces.append(_ticks(data, names))
    for rank, trial in enumerate(data.ranked_trials):
        # No filter hides the line of the recommended genome.
        if data.recommended_trial and trial.id == data.recommended_trial.id:
            y, name = np.round(_positions(data, np.array([rank]))[0], 4), f"recommended (trial {trial.id})"
            hover = f"trial {trial.id}, recommended: {data.ranked_values[rank]:.5g}"
            traces.append(line(np.arange(float(count)), y, name, Color.BEST, 3.0, hover))
    texts = [escape_label(name, 18) for name in (*names, data.metric)]
    titles: dict[str, Any] = {"tickmode": "array", "tickvals": list(range(count)), "ticktext": texts, "side": "top"}
    slanted = count > 7  # steeply, so that no title reaches into the next one where 17 axes share a page of paper
    titles |= {"ticklabeloverflow": "allow", "tickangle": -45 if slanted else 0}
    vertical = {"type": "line", "y0": 0, "y1": 1, "line": {"color": Color.DEFAULT, "width": 1}}
    return figure(
        traces,
        {**titles, "range": [-0.65, count - 0.85], "showgrid": False, "fixedrange": True},
        {"range": [-0.06, 1.06], "visible": False, "fixedrange": True},
        height=432 if slanted else 356,
        shapes=[{**vertical, "x0": x, "x1": x} for x in range(count)],
        dragmode="select",
        margin={"l": 16, "r": 64, "t": 116 if slanted else 40, "b": 36},  # a slanted title extends beyond its axis
        legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top"},
    )


def _ticks(data: RunData, names: list[str]) -> dict[str, Any]:
    """Return a trace of the ticks along all axes."""
    ticks: list[tuple[float, float, str]] = []  # number of the axis, position on it, label
    for number, name in enumerate(names):
        gene = data.genes[name]
        if gene.size <= TICKS:
            units = [(index + 0.5) / gene.size for index in range(int(gene.size))]
            values = list(gene.values) if isinstance(gene, Choice) else [gene.decode(unit) for unit in units]
            texts = [show_value(value) for value in values]
        else:
            values = [gene.decode(unit) for unit in (0.0, 0.5, 1.0)]
            texts = [f"{value:.3g}" if isinstance(value, float) else show_value(value) for value in values]
        for value, text in zip(values, texts, strict=True):
            ticks.append((number, gene.encode(value), escape_label(text, 10)))
    best, worst = data.chart_values(np.array([data.ranked_losses.min(), data.edge_loss]))
    ticks += [(len(names), 1.0, f"{best:.4g}"), (len(names), 0.0, f"{worst:.4g}")]
    x, y, labels = zip(*ticks, strict=True)
    marker = {"symbol": "line-ew", "size": 7, "line": {"width": 1, "color": Color.DEFAULT}}
    style: dict[str, Any] = {"mode": "markers+text", "textfont": {"size": 11}, "textposition": "middle left"}
    style |= {"text": labels, "cliponaxis": False, "showlegend": False}
    return points(x, y, "ticks", Color.DEFAULT, marker=marker, **style)


def part(data: RunData) -> Part | None:
    """Return the part; None without a figure."""
    coordinates = draw(data)
    if coordinates is None:
        return None
    drawn, count, names = len(lines(data).ranks), len(data.ranked_trials), axes(data)
    varying = sum(gene.size > 1 for gene in data.genes.values())
    note = f"{drawn} of {count} genomes are drawn: the best, and an even choice of the others." if drawn < count else ""
    if varying > len(names):
        note += f" The {len(names)} most important of {varying} genes have an axis."
    return Part(
        "Parallel coordinates",
        "Each line is a genome; the thick one is the recommended one. If the best lines are close together on an axis, "
        "that gene's value matters. Drag along an axis to keep only the lines that pass there (with Shift for further "
        "ranges; a double click shows all), or use the sliders below.",
        [CaptionedFigure(coordinates, axes=(*names, data.metric))],
        note=note.strip(),
    )
