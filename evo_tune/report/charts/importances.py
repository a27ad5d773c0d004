"""Which genes mattered, for the loss over the whole space and for being among the best, with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.report.drawing import SERIES, Drawn, Part, Spec, bars, figure, names_axis, points, share_axis
from evo_tune.report.material import Material

PLACE = 60

MOST = 24
"""Most genes drawn."""


@dataclass(frozen=True)
class Importance:
    """The importance of some genes in one view.

    Args:
        title: Name of the view.
        mean: Share of each gene, mean over bootstraps, shape (genes,).
        low: Lower bounds of 80 % intervals over the bootstraps, shape (genes,).
        high: Upper bounds, shape (genes,).
    """

    title: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def importances(material: Material) -> list[Importance]:
    """Return the importance of the genes, ordered as in `by_importance`, over the whole space and among the best."""
    model = material.model
    if model is None:
        return []
    places = [list(material.genes).index(name) for name in material.by_importance]
    views = {"over the whole space": model.anova, "among the best": model.ped}
    return [
        Importance(title, shares.mean(axis=0)[places], *np.quantile(shares, [0.1, 0.9], axis=0)[:, places])
        for title, shares in views.items()
    ]


def draw(material: Material) -> Spec | None:
    """Return the figure; None for fewer than 20 results."""
    names = material.by_importance[:MOST]
    traces: list[dict[str, Any]] = []
    for number, view in enumerate(importances(material)):
        color, y = SERIES[number], np.arange(len(names)) + 0.16 * (2 * number - 1)
        mean, low, high = view.mean[:MOST], view.low[:MOST], view.high[:MOST]
        more = {"error_x": bars(mean, low, high, color, thickness=1.5, width=3), "meta": {"kind": "share"}}
        mark = {"size": 9, "symbol": ("circle", "diamond")[number]}
        traces.append(points(mean, y, view.title, color, marker=mark, hovertemplate="%{x:.0%}<extra></extra>", **more))
    if not traces or not names:
        return None
    x = share_axis("share", rangemode="tozero")
    return figure(traces, x, names_axis(names, 24), height=110 + 34 * len(names))


def part(material: Material) -> Part | None:
    """Return the part; None for fewer than 20 results."""
    found = draw(material)
    if found is None or material.model is None:
        return None
    alone = material.model.anova.sum(axis=1).mean()
    views = importances(material)
    return Part(
        "What mattered",
        "Over the whole space: the share of the variance of predicted results that a gene explains alone (functional "
        f"ANOVA of a forest). It is {alone:.0%} in all; the rest comes from combinations of genes. Among the best: how "
        "the best tenth differ from all trials (PED-ANOVA). A bar is an 80 % interval over bootstraps; where bars "
        "overlap, the order of two genes is uncertain.",
        [Drawn(found)],
        rows=[
            {
                "gene": name,
                **{view.title: f"{view.mean[i]:.0%} ({view.low[i]:.0%} to {view.high[i]:.0%})" for view in views},
            }
            for i, name in enumerate(material.by_importance)
        ],
    )
