"""A search that is meant for a larger model: what its trainings reached by size, and what is foretold there."""

from __future__ import annotations

import math
from typing import Any

from evo_tune.genome.trial import DECAYED, Trial
from evo_tune.report.carried import Carried, read_carried
from evo_tune.report.drawing import BEST, MOST_MARKS, OTHERS, SERIES, Spec, figure, log_axis, points, safe, thinned
from evo_tune.report.material import LARGEST, Material
from evo_tune.report.part import Command, Drawn, Part
from evo_tune.store.places import as_typed

PLACE = 95

ALIKE = 1.3
"""Models are of one size where their weights differ by less."""


def by_size(material: Material) -> dict[float, list[tuple[float, float, int]]]:
    """Return FLOPs, loss and id of each training that came to its end, by the weights of its model, about.

    A rung that was brought down to its end is a training in small (see `Context.report`).
    """
    found: dict[int, list[tuple[float, float, float, int]]] = {}
    for trial in material.trials:
        known = trial.outcome.metrics
        size, flops, loss = (known.get(name, math.nan) for name in ("params", "flops", material.metric))
        if _ended(trial) and 0 < size < LARGEST and 0 < flops < LARGEST and abs(loss) < LARGEST:
            found.setdefault(round(math.log(size) / math.log(ALIKE)), []).append((size, flops, loss, trial.id))
    groups = (sorted(rows) for _, rows in sorted(found.items()))
    return {rows[len(rows) // 2][0]: [row[1:] for row in rows] for rows in groups}


def _ended(trial: Trial) -> bool:
    curve = trial.outcome.curve
    whole = trial.candidate.budget == 1.0 or bool(curve and curve[-1][1].get(DECAYED))
    return trial.outcome.status == "ok" and trial.candidate.inherits is None and whole


def draw(material: Material) -> Spec | None:
    """Return the figure; None where the run is for no larger model, or nothing of its trainings is known."""
    if not material.run.manifest.for_scale:
        return None
    told, sizes = read_carried(material.run), by_size(material)
    if not sizes:
        return None
    traces: list[dict[str, Any]] = []
    hover = "trial %{customdata}<br>%{y:.5g} after %{x:.3g} FLOPs<extra></extra>"
    for number, (size, rows) in enumerate(sizes.items()):
        flops, losses, ids = zip(*(rows[at] for at in thinned(len(rows), MOST_MARKS // len(sizes) + 1)), strict=True)
        color = SERIES[number] if len(sizes) < len(SERIES) else OTHERS
        more = {"customdata": ids, "hovertemplate": hover, "meta": {"kind": "training"}}
        traces.append(points(flops, losses, f"{size:.3g} weights", color, **more))
    ends = [flops for rows in sizes.values() for flops, _, _ in rows]
    if told is not None and told.loss is not None and told.takes > 0:
        ends.append(told.takes)
        traces.append(_target(told))
    axis = {"title": {"text": "FLOPs of the training"}, **log_axis(min(ends), max(ends))}
    return figure(traces, axis, safe(material.metric), height=280)


def _target(told: Carried) -> dict[str, Any]:
    """Return the mark of what is foretold, with its interval."""
    loss, low, high = told.loss or 0.0, told.low or 0.0, told.high or 0.0
    bars = {"type": "data", "symmetric": False, "array": [high - loss], "arrayminus": [loss - low], "color": BEST}
    name = f"{told.width}x{told.depth}, foretold"
    hover = "%{y:.5g} after %{x:.3g} FLOPs<extra>foretold</extra>"
    mark = {"symbol": "diamond", "size": 11}
    return points(
        [told.takes], [loss], name, BEST, error_y=bars, marker=mark, hovertemplate=hover, meta={"kind": "target"}
    )


def part(material: Material) -> Part | None:
    """Return the part; None where the run is for no larger model, or has no recipe for it yet."""
    told, found = read_carried(material.run), draw(material)
    if told is None:
        return None
    facts = {
        "for": f"{told.width}x{told.depth}, {told.tokens:,} tokens",
        "the recipe took": f"{told.share:.2%} of that training",
        "peak learning rate there": f"{told.lr:.3g}",
    }
    if told.loss is not None and told.low is not None and told.high is not None:
        facts[f"{material.metric} there"] = f"{told.loss:.4g} ({told.low:.4g} to {told.high:.4g})"
    typed = (
        f"evo-tune scale {as_typed(material.run.folder)} --width {told.width} --depth {told.depth} "
        f"--tokens {told.tokens} --probe 3"
    )
    why = (
        f"No loss can be foretold: {told.why}." if told.why else "What is foretold is a law fitted to these trainings."
    )
    return Part(
        "From small to large",
        f"This search was made for a model of {told.depth} blocks, {told.width} wide. It took {told.spent:.3g} FLOPs, "
        f"training that model takes {told.takes:.3g}. {why}",
        [] if found is None else [Drawn(found)],
        facts=facts,
        commands=[Command("See what each gene becomes there, and whether short trainings on the way agree:", typed)],
    )
