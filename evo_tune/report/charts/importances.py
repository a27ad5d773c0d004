"""Which genes mattered: the share of the variance of the results that each explains alone, with its uncertainty."""

import numpy as np

from evo_tune.report.charts import SERIES, CaptionedFigure, Part, Spec, axis, bars, figure, names_axis, points
from evo_tune.report.run_data import RunData, mean_and_interval

POSITION = 60

# Most genes drawn.
MOST = 24


def shares(data: RunData) -> dict[str, tuple[float, float, float]]:
    """Return each gene's share, with the ends of its 80 % interval, the largest first; empty without a model."""
    model = data.importance_model
    if model is None:
        return {}
    columns = mean_and_interval(model.anova_shares).T.tolist()
    return {name: tuple(columns[data.gene_indices[name]]) for name in data.genes_by_importance}


def draw(data: RunData) -> Spec | None:
    """Return the figure; None for fewer than 20 results."""
    names = list(shares(data))[:MOST]
    if not names:
        return None
    mean, low, high = np.array(list(shares(data).values())[:MOST]).T
    error = bars(mean, low, high, SERIES[0], thickness=1.5, width=3)
    trace = points(mean, np.arange(len(names)), "", SERIES[0], "%{x:.0%}", marker={"size": 9}, error_x=error)
    x_axis = axis("share", tickformat=".0%", rangemode="tozero")
    return figure([trace], x_axis, names_axis(names, 24), height=110 + 28 * len(names))


def part(data: RunData) -> Part | None:
    """Return the part; None for fewer than 20 results."""
    importances = draw(data)
    if importances is None or data.importance_model is None:
        return None
    return Part(
        "What mattered",
        "The share of the variance of predicted results that a gene explains alone (functional ANOVA of a forest). It "
        f"is {data.importance_model.anova_shares.sum(axis=1).mean():.0%} in all; the rest comes from combinations of "
        "genes. A bar is an 80 % interval over bootstraps.",
        [CaptionedFigure(importances)],
    )
