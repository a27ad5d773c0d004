"""Which genes mattered, for the loss over the whole space and for being among the best, with their uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.report.charts import SERIES, Drawn, Part, Spec, bars, figure, names_axis, points, share_axis
from evo_tune.report.run_data import Band, Material

PLACE = 60

MOST = 24
"""Most genes drawn."""


def shares(material: Material) -> dict[str, Band]:
    """Return the shares of the genes, ordered as in `by_importance`, by view; empty without a model."""
    model = material.model
    if model is None:
        return {}
    places = [list(material.genes).index(name) for name in material.by_importance]
    views = {"over the whole space": model.anova, "among the best": model.ped}
    return {view: Band.over(found[:, places]) for view, found in views.items()}


def draw(material: Material) -> Spec | None:
    """Return the figure; None for fewer than 20 results."""
    names = material.by_importance[:MOST]
    traces: list[dict[str, Any]] = []
    for number, (view, band) in enumerate(shares(material).items()):
        color, y = SERIES[number], np.arange(len(names)) + 0.16 * (2 * number - 1)
        mean, low, high = band.mean[:MOST], band.low[:MOST], band.high[:MOST]
        more = {"error_x": bars(mean, low, high, color, thickness=1.5, width=3), "meta": {"kind": "share"}}
        mark = {"size": 9, "symbol": ("circle", "diamond")[number]}
        traces.append(points(mean, y, view, color, marker=mark, hovertemplate="%{x:.0%}<extra></extra>", **more))
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
    views = shares(material)
    return Part(
        "What mattered",
        "Over the whole space: the share of the variance of predicted results that a gene explains alone (functional "
        f"ANOVA of a forest). It is {alone:.0%} in all; the rest comes from combinations of genes. Among the best: how "
        "the best tenth differ from all trials (PED-ANOVA). A bar is an 80 % interval over bootstraps; where bars "
        "overlap, the order of two genes is uncertain.",
        [Drawn(found)],
        rows=[
            {"gene": name, **{view: _text(band, place) for view, band in views.items()}}
            for place, name in enumerate(material.by_importance)
        ],
    )


def _text(band: Band, place: int) -> str:
    return f"{band.mean[place]:.0%} ({band.low[place]:.0%} to {band.high[place]:.0%})"
