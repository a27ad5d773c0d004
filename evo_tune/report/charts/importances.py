"""Which genes mattered, for the loss over the whole space and for being among the best, with their uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np

from evo_tune.report.charts import SERIES, CaptionedFigure, Part, Spec, bars, figure, names_axis, points, share_axis
from evo_tune.report.run_data import Band, RunData

POSITION = 60

# Most genes drawn.
MOST = 24


def shares(data: RunData) -> dict[str, Band]:
    """Return the shares of the genes, ordered as in `genes_by_importance`, by view; empty without a model."""
    model = data.importance_model
    if model is None:
        return {}
    columns = [data.gene_indices[name] for name in data.genes_by_importance]
    views = {"over the whole space": model.anova_shares, "among the best": model.ped_shares}
    return {view: Band.from_bootstraps(bootstraps[:, columns]) for view, bootstraps in views.items()}


def draw(data: RunData) -> Spec | None:
    """Return the figure; None for fewer than 20 results."""
    names = data.genes_by_importance[:MOST]
    traces: list[dict[str, Any]] = []
    for number, (view, band) in enumerate(shares(data).items()):
        color, y = SERIES[number], np.arange(len(names)) + 0.16 * (2 * number - 1)
        mean, low, high = band.mean[:MOST], band.low[:MOST], band.high[:MOST]
        error = bars(mean, low, high, color, thickness=1.5, width=3)
        marker = {"size": 9, "symbol": ("circle", "diamond")[number]}
        traces.append(points(mean, y, view, color, "%{x:.0%}", marker=marker, error_x=error))
    if not traces or not names:
        return None
    x_axis = share_axis("share", rangemode="tozero")
    return figure(traces, x_axis, names_axis(names, 24), height=110 + 34 * len(names))


def part(data: RunData) -> Part | None:
    """Return the part; None for fewer than 20 results."""
    importances = draw(data)
    if importances is None or data.importance_model is None:
        return None
    rows: list[dict[str, str]] = [{"gene": name} for name in data.genes_by_importance]
    for view, band in shares(data).items():
        for row, mean, low, high in zip(rows, band.mean, band.low, band.high, strict=True):
            row[view] = f"{mean:.0%} ({low:.0%} to {high:.0%})"
    return Part(
        "What mattered",
        "Over the whole space: the share of the variance of predicted results that a gene explains alone (functional "
        f"ANOVA of a forest). It is {data.importance_model.anova_shares.sum(axis=1).mean():.0%} in all; the rest comes "
        "from combinations of genes. Among the best: how the best tenth differ from all trials (PED-ANOVA). A bar is "
        "an 80 % interval over bootstraps; where bars overlap, the order of two genes is uncertain.",
        [CaptionedFigure(importances)],
        rows=rows,
    )
