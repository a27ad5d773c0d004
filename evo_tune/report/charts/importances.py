"""Which genes mattered, for the loss over the whole space and for being among the best, with their uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.report.charts import SERIES, CaptionedFigure, Part, Spec, bars, figure, names_axis, points, share_axis
from evo_tune.report.run_data import Band, RunData

PLACE = 60

MOST = 24
"""Most genes drawn."""


def shares(data: RunData) -> dict[str, Band]:
    """Return the shares of the genes, ordered as in `by_importance`, by view; empty without a model."""
    model = data.model
    if model is None:
        return {}
    places = [list(data.genes).index(name) for name in data.genes_by_importance]
    views = {"over the whole space": model.anova, "among the best": model.ped}
    return {view: Band.from_bootstraps(found[:, places]) for view, found in views.items()}


def draw(data: RunData) -> Spec | None:
    """Return the figure; None for fewer than 20 results."""
    names = data.genes_by_importance[:MOST]
    traces: list[dict[str, Any]] = []
    for number, (view, band) in enumerate(shares(data).items()):
        color, y = SERIES[number], np.arange(len(names)) + 0.16 * (2 * number - 1)
        mean, low, high = band.mean[:MOST], band.low[:MOST], band.high[:MOST]
        more = {"error_x": bars(mean, low, high, color, thickness=1.5, width=3), "meta": {"kind": "share"}}
        mark = {"size": 9, "symbol": ("circle", "diamond")[number]}
        traces.append(points(mean, y, view, color, marker=mark, hovertemplate="%{x:.0%}<extra></extra>", **more))
    if not traces or not names:
        return None
    x = share_axis("share", rangemode="tozero")
    return figure(traces, x, names_axis(names, 24), height=110 + 34 * len(names))


def part(data: RunData) -> Part | None:
    """Return the part; None for fewer than 20 results."""
    found = draw(data)
    if found is None or data.model is None:
        return None
    alone = data.model.anova.sum(axis=1).mean()
    views = shares(data)
    return Part(
        "What mattered",
        "Over the whole space: the share of the variance of predicted results that a gene explains alone (functional "
        f"ANOVA of a forest). It is {alone:.0%} in all; the rest comes from combinations of genes. Among the best: how "
        "the best tenth differ from all trials (PED-ANOVA). A bar is an 80 % interval over bootstraps; where bars "
        "overlap, the order of two genes is uncertain.",
        [CaptionedFigure(found)],
        rows=[
            {"gene": name, **{view: _text(band, place) for view, band in views.items()}}
            for place, name in enumerate(data.genes_by_importance)
        ],
    )


def _text(band: Band, place: int) -> str:
    return f"{band.mean[place]:.0%} ({band.low[place]:.0%} to {band.high[place]:.0%})"
