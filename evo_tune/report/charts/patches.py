"""The patches of a run: effect, cost and verdict of each, and which ones help or hurt each other."""

import math
from statistics import fmean
from typing import Any

import numpy as np

from evo_tune.genome.trial import Trial
from evo_tune.genome.values import genome_key
from evo_tune.report.charts import CaptionedFigure, Part, Spec, axis, escape_label, figure, names_axis, points
from evo_tune.report.final_comparison import PatchVerdict
from evo_tune.report.recommendation import comparison_result, fit_patches, genome_without
from evo_tune.report.run_data import RunData
from evo_tune.store.table import read_comparison
from evo_tune.text import show_error, show_value

POSITION = 15

# Metrics whose cost is given, beside the seconds, in bytes.
MEMORY = ("peak_memory", "gpu_memory")


def draw(data: RunData) -> Spec | None:
    """Return the figure of the pairs; None in a run without patches, or with too few results."""
    model = fit_patches(data.run, data.ranked_trials)
    if model is None:
        return None
    gains, errors = model.pair_gains()
    titles = [escape_label(patch.name, 24) for patch in data.run.patches]
    genes = [escape_label(patch.gene) for patch in data.run.patches]
    largest = float(np.abs(gains).max()) or 1.0

    def show_gain(row: int, column: int) -> str:
        label = genes[row] if row == column else f"{genes[row]} and {genes[column]}, beyond both alone"
        return f"{label}: {gains[row, column]:.3g} ± {errors[row, column]:.2g}"

    row_places, column_places = (indices.ravel() for indices in np.indices(gains.shape))
    marker = {"symbol": "square", "size": 20, "color": gains.round(9).ravel(), "cmin": -largest, "cmax": largest}
    marker |= {"colorscale": [[0.0, "#D55E00"], [0.5, "#f7f7f7"], [1.0, "#0072B2"]]}
    marker |= {"colorbar": {"thickness": 10, "title": {"text": "gain"}}}
    texts = [show_gain(row, column) for row, column in zip(row_places, column_places, strict=True)]
    trace = points(column_places, row_places, "", "", "%{text}", text=texts, marker=marker)
    x_axis = axis("", tickmode="array", tickvals=[*range(len(titles))], ticktext=titles, tickangle=-40, automargin=True)
    return figure([trace], x_axis, names_axis(titles, 24), height=140 + 26 * len(titles))


def rows(data: RunData) -> list[dict[str, Any]]:
    """Return a row for each patch: its effect in the final comparison, its cost, and its trials."""
    run, state = data.run, comparison_result(data.run).state
    chosen = None if state is None else state.chosen
    effects = {} if state is None else {effect.gene: effect for effect in state.effects}
    best = data.result.best if chosen is None else run.trial(chosen)
    by_key: dict[str, list[Trial]] = {}
    for trial in read_comparison(run):
        by_key.setdefault(trial.key, []).append(trial)
    table = []
    for patch in run.patches:
        on = [trial for trial in data.trials if trial.genome.get(patch.gene) is True]
        effect = effects.get(patch.gene, PatchVerdict(patch.gene))
        text = f"{effect.gain:.4g}{show_error(effect.error)}" if math.isfinite(effect.gain) else "-"
        row: dict[str, Any] = {"patch": patch.title, "effect": text, "verdict": effect.verdict or "-"}
        if best is not None and best.genome.get(patch.gene) is not True:
            row["verdict"] = "not in the best"
        costs = dict.fromkeys(("seconds", *MEMORY), math.nan)
        if best is not None and effect.gene in effects:
            without = by_key.get(genome_key(genome_without(run, best.id, patch.gene)), [])
            costs = {name: _cost(name, by_key.get(best.key, []), without) for name in costs}
        row |= {f"more {name.replace('_', ' ')}": show_value(cost) for name, cost in costs.items()}
        table.append({**row, "trials with": len(on), "trials without": len(data.trials) - len(on)})
    return table


def _cost(name: str, trials: list[Trial], without: list[Trial]) -> float:
    """Return by how much more of a resource a training takes with a patch than without; NaN if unknown."""
    amounts: list[list[float]] = []
    for group in (trials, without):
        outcomes = [trial.outcome for trial in group if trial.ok]
        values = [outcome.metrics.get(name, outcome.seconds if name == "seconds" else math.nan) for outcome in outcomes]
        amounts.append(values)
    return fmean(amounts[0]) - fmean(amounts[1]) if all(amounts) else math.nan


def part(data: RunData) -> Part | None:
    """Return the part; None in a run without patches."""
    if not data.run.patches:
        return None
    pairs = draw(data)
    caption = "Gain by each patch alone (diagonal) and by each pair beyond that, by a linear model of full trainings."
    return Part(
        "Patches",
        "Effect: by how much the best genome is worse without the patch, on seeds that it shares, with its standard "
        "error. real, harmful: shown at an error of .05 over all patches (Holm). Costs are those of one training.",
        [] if pairs is None else [CaptionedFigure(pairs, caption)],
        rows=rows(data),
        rows_title="Verdicts",
        rows_open=True,
    )
