"""The final comparison seed by seed: differences between genomes that were trained on the same seeds."""

from __future__ import annotations

import math
from itertools import chain, repeat

from evo_tune.genome.values import genome_key
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec, axis, escape_label, figure, line, points
from evo_tune.report.recommendation import comparison_objective
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData
from evo_tune.store.table import read_comparison

POSITION = 110

# Most seeds drawn.
MOST_SEEDS = 60


def by_seed(data: RunData) -> dict[int, dict[int, float | None]]:
    """Return the reported metric for each seed of the final comparison, by trial id; None for a failure.

    If that metric is on the test set, the seeds that only chose among the finalists are left out: they have no value.
    """
    run, metric = data.run, comparison_objective(data.run).metric
    ids = {trial.key: trial.id for trial in reversed(run.ranked())}  # the ids that the verdict uses
    for candidate in run.candidates:
        ids.setdefault(genome_key(candidate.genome), candidate.id)
    seeds: dict[int, dict[int, float | None]] = {}
    for trial in read_comparison(run):
        metrics = trial.outcome.metrics if trial.losses else {}
        if metrics and metric != data.metric and metric not in metrics:
            continue
        if run.patches and trial.key not in ids:  # the best one without a patch (charts/patches.py)
            continue
        value = metrics.get(metric, math.nan)
        id = ids.get(trial.key, trial.id)
        seeds.setdefault(trial.candidate.seed, {})[id] = value if abs(value) < MAX_ABSOLUTE_LOSS else None
    return seeds


def draw(data: RunData) -> Spec | None:
    """Return the figure; None without a final comparison."""
    seeds = list(by_seed(data).values())[:MOST_SEEDS]
    lines_x, lines_y = [], []
    for number, row in enumerate(seeds, 1):
        values = [value for value in row.values() if value is not None]
        if len(values) > 1:
            lines_x += [number, number, math.nan]
            lines_y += [min(values), max(values), math.nan]
    traces = [line(lines_x, lines_y, "pairs", Color.FAINT, 1.5, showlegend=False)]
    colors = chain(SERIES[:3], repeat(SERIES[4]))
    for id, name in _names(data, seeds).items():
        is_best = data.recommended_trial is not None and id == data.recommended_trial.id
        color = Color.DEFAULT if name == "default" else Color.BEST if is_best else next(colors)
        x = [number for number, row in enumerate(seeds, 1) if row.get(id) is not None]
        if x:
            y = [seeds[number - 1][id] for number in x]
            traces.append(points(x, y, name, color, "%{y:.5g}", marker={"size": 10}))
    if len(traces) == 1:
        return None
    x_axis = axis("fresh seed", dtick=1 if len(seeds) < 20 else 5, range=[0.4, len(seeds) + 0.6])
    return figure(traces, x_axis, escape_label(comparison_objective(data.run).metric), height=280)


def _names(data: RunData, seeds: list[dict[int, float | None]]) -> dict[int, str]:
    """Return the names of the compared genomes, by trial id."""
    candidates, names = data.run.candidates, {}
    for id in sorted({id for row in seeds for id in row}):
        names[id] = f"trial {id}"
        if id < len(candidates) and genome_key(candidates[id].genome) == genome_key(candidates[0].genome):
            names[id] = "default"
        elif data.recommended_trial is not None and id == data.recommended_trial.id:
            names[id] = f"best (trial {id})"
    return names


def part(data: RunData) -> Part | None:
    """Return the part; None without a final comparison."""
    comparison = draw(data)
    if comparison is None:
        return None
    seeds = list(by_seed(data).values())
    names = _names(data, seeds)
    rows = [
        {"seed": number, **{name: row.get(id, math.nan) if id in row else None for id, name in names.items()}}
        for number, row in enumerate(seeds[:MOST_SEEDS], 1)
    ]
    return Part(
        "Final comparison by seed",
        "Genomes trained on the same fresh seeds. A gain on every seed is not luck; if the order changes from seed to "
        "seed, the genomes are about equally good. Seeds with finalists only served to choose among them.",
        [CaptionedFigure(comparison)],
        rows=rows,
        note=f"The first {MOST_SEEDS} of {len(seeds)} seeds are shown." if len(seeds) > MOST_SEEDS else "",
    )
