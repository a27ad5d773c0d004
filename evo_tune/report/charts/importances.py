"""Which genes mattered: for the loss all over the space, and for being among the best; with their uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.report.drawing import SERIES, Drawn, Part, Spec, figure, safe
from evo_tune.report.material import Material

PLACE = 60

MOST = 24
"""Genes drawn at most."""

VIEWS = (("anova", "over the whole space", SERIES[0]), ("ped", "among the best", SERIES[1]))


def shares(material: Material) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return for each gene, the most important first, by each view: its share, and bounds of four fifths of the
    bootstraps."""  # noqa: D205, D209
    if material.model is None:
        return {}
    names = list(material.genes)
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for name in material.by_importance:
        found[name] = {}
        for view, _, _ in VIEWS:
            column = getattr(material.model, view)[:, names.index(name)]
            low, high = np.quantile(column, [0.1, 0.9])
            found[name][view] = (float(column.mean()), float(low), float(high))
    return found


def draw(material: Material) -> Spec | None:
    """Return the figure; None for fewer than 20 results."""
    found = dict(list(shares(material).items())[:MOST])
    if not found:
        return None
    traces: list[dict[str, Any]] = []
    for number, (view, title, color) in enumerate(VIEWS):
        mean, low, high = (np.array([row[view][i] for row in found.values()]) for i in range(3))
        bars = {"type": "data", "symmetric": False, "array": np.maximum(high - mean, 0), "thickness": 1.5, "width": 3}
        bars |= {"arrayminus": np.maximum(mean - low, 0), "color": color}
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": mean, "y": np.arange(len(found)) + 0.16 * (2 * number - 1),
                "name": title, "error_x": bars,
                "marker": {"color": color, "size": 9, "symbol": ("circle", "diamond")[number]},
                "hovertemplate": "%{x:.0%}<extra></extra>", "meta": {"kind": "share"},
            }
        )  # fmt: skip
    y = {
        "automargin": True, "tickmode": "array", "tickvals": list(range(len(found))),
        "ticktext": [safe(name, 24) for name in found],
        "range": [len(found) - 0.4, -0.6],
    }  # fmt: skip
    x = {"title": {"text": "share"}, "tickformat": ".0%", "rangemode": "tozero"}
    return figure(traces, x, y, height=110 + 34 * len(found))


def part(material: Material) -> Part | None:
    """Return the part; None for fewer than 20 results."""
    found = draw(material)
    if found is None or material.model is None:
        return None
    alone = material.model.anova.sum(axis=1).mean()
    return Part(
        "What mattered",
        "Over the whole space: the share of the spread in predicted results that a gene explains alone (functional "
        f"ANOVA on the forest; {alone:.0%} in all, the rest lies in how genes work together). Among the best: what "
        "sets the best tenth apart from all (PED-ANOVA). A bar holds four fifths of the bootstraps; where bars "
        "overlap, the order of two genes is not known.",
        [Drawn(found)],
        rows=[
            {
                "gene": name,
                **{title: f"{row[view][0]:.0%} ({row[view][1]:.0%} to {row[view][2]:.0%})" for view, title, _ in VIEWS},
            }
            for name, row in shares(material).items()
        ],
    )
