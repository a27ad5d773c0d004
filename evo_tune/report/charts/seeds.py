"""The calibration, seed by seed: what remains of a difference when luck is the same for both."""

from __future__ import annotations

import math
from typing import Any

from evo_tune.genome.values import genome_key
from evo_tune.report.calibration import reported
from evo_tune.report.drawing import BEST, DEFAULT, FAINT, SERIES, Drawn, Part, Spec, figure, points, safe
from evo_tune.report.material import LARGEST, Material
from evo_tune.store.calibration import read_calibration

PLACE = 110

MOST_SEEDS = 60


def by_seed(material: Material) -> dict[int, dict[int, float | None]]:
    """Return for each seed of the calibration, in order, what each genome came to, by its trial id; None: it failed.

    That is the metric that is reported: of the test set, where there is one, and then without the seeds that served to
    choose among the finalists, which saw nothing of it.
    """
    run, goal = material.run, reported(material.run)
    done = read_calibration(run)
    if not done:
        return {}
    tested = goal.metric != material.metric
    ids = {trial.key: trial.id for trial in reversed(run.ranked())}  # as the verdict calls them
    for candidate in run.candidates:
        ids.setdefault(genome_key(candidate.genome), candidate.id)
    found: dict[int, dict[int, float | None]] = {}
    for trial in done:
        value = trial.outcome.metrics.get(goal.metric, math.nan) if trial.losses else math.nan
        if tested and trial.losses and goal.metric not in trial.outcome.metrics:
            continue
        id = ids.get(trial.key, trial.id)
        found.setdefault(trial.candidate.seed, {})[id] = value if abs(value) < LARGEST else None
    return found


def draw(material: Material) -> Spec | None:
    """Return the figure; None without a calibration."""
    seeds = dict(list(by_seed(material).items())[:MOST_SEEDS])
    ids = sorted({id for row in seeds.values() for id in row})
    if not any(value is not None for row in seeds.values() for value in row.values()):
        return None
    lines_x: list[float | None] = []
    lines_y: list[float | None] = []
    for number, row in enumerate(seeds.values(), 1):
        known = [value for value in row.values() if value is not None]
        if len(known) > 1:
            lines_x += [number, number, None]
            lines_y += [min(known), max(known), None]
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": lines_x, "y": lines_y, "line": {"color": FAINT, "width": 1.5},
         "hoverinfo": "skip", "showlegend": False, "name": "pairs"}
    ]  # fmt: skip
    names, colors = _names(material, ids)
    for id in ids:
        here = [(n, row[id]) for n, row in enumerate(seeds.values(), 1) if row.get(id) is not None]
        if here:
            x, y = zip(*here, strict=True)
            more = {"marker": {"size": 10}, "hovertemplate": "%{y:.5g}<extra></extra>", "meta": {"kind": "seed"}}
            traces.append(points(x, y, names[id], colors[id], **more))
    axis = {"title": {"text": "fresh seed"}, "dtick": 1 if len(seeds) < 20 else 5, "range": [0.4, len(seeds) + 0.6]}
    return figure(traces, axis, safe(reported(material.run).metric), height=280)


def _names(material: Material, ids: list[int]) -> tuple[dict[int, str], dict[int, str]]:
    names, colors = {}, {}
    others = iter([*SERIES[:3], *[SERIES[4]] * len(ids)])
    born = material.run.candidates
    for id in ids:
        if id < len(born) and genome_key(born[id].genome) == genome_key(born[0].genome):
            names[id], colors[id] = "default", DEFAULT
        elif material.best is not None and id == material.best.id:
            names[id], colors[id] = f"best (trial {id})", BEST
        else:
            names[id], colors[id] = f"trial {id}", next(others)
    return names, colors


def part(material: Material) -> Part | None:
    """Return the part; None without a calibration."""
    found = draw(material)
    if found is None:
        return None
    seeds = by_seed(material)
    names, _ = _names(material, sorted({id for row in seeds.values() for id in row}))
    rows = [
        {"seed": number, **{name: row.get(id, math.nan) if id in row else None for id, name in names.items()}}
        for number, row in enumerate(list(seeds.values())[:MOST_SEEDS], 1)
    ]
    return Part(
        "Calibration by seed",
        "Genomes trained on the same fresh seeds. A gain that holds on every seed is no luck; where the order changes "
        "from seed to seed, the genomes are about as good. Seeds with finalists only served to choose among them.",
        [Drawn(found)],
        rows=rows,
        note=f"The first {MOST_SEEDS} of {len(seeds)} seeds are shown." if len(seeds) > MOST_SEEDS else "",
    )
