"""Several runs side by side: their bests, and their courses by evaluations, by cost and by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

from evo_tune.report.charts import course
from evo_tune.report.drawing import SERIES
from evo_tune.report.material import Material
from evo_tune.report.part import Drawn, Part
from evo_tune.report.summary import spent
from evo_tune.report.words import show_genome, show_seconds, spread

__all__ = ["parts"]


def parts(materials: Sequence[Material]) -> dict[str, Part]:
    """Return the parts by name."""
    found = {"verdict": _table(materials)}
    if (together := _course(materials)) is not None:
        found["course"] = together
    return found


def _table(materials: Sequence[Material]) -> Part:
    rows = [_row(material) for material in materials]
    metrics = {material.run.manifest.objectives[0] for material in materials}
    evaluators = {material.run.manifest.evaluator for material in materials}
    known = [m for m in materials if m.best is not None and m.best.losses]
    if len(metrics) > 1 or len(evaluators) > 1 or not known:
        title = "The runs"
    else:
        first = min(known, key=lambda m: (_loss(m), m.name))
        title = f"{first.name} found the best: {first.metric} {first.objective.value(_loss(first)):.5g}"
    said = "Values over fresh seeds are told where a run was calibrated, else those of the search, which flatter."
    if len(metrics) > 1:
        said += " The runs have different objectives, so their values do not compare."
    elif len(evaluators) > 1 or len({str(m.run.manifest.options) for m in materials}) > 1:
        said += " They were not made with the same evaluator and options: compare with care."
    return Part(title, said, rows=rows, rows_title="Run by run", rows_open=True)


def _loss(material: Material) -> float:
    """Return what a run is judged by: over fresh seeds where there are any."""
    row = material.closing.calibrated_best
    if row is not None and row.values:
        return material.objective.sign * row.mean
    assert material.best is not None
    assert material.best.losses
    return material.best.losses[0]


def _row(material: Material) -> dict[str, Any]:
    end, run = material.closing, material.run
    gain = "" if math.isnan(end.gain) else f"{end.gain:.4g}"
    error = "" if math.isnan(end.gain_error) else f" ± {end.gain_error:.2g}"
    return {
        "run": run.name,
        "strategy": run.manifest.strategy,
        "seed": run.manifest.seed,
        "best": None if end.best is None else end.best.outcome.metrics[end.metric],
        "over fresh seeds": spread(end.calibrated_best),
        "gain over the default": gain + error,
        "evaluations": end.evaluations,
        "cost, full trainings": round(spent(run), 1),
        "time": show_seconds(run.seconds),
        "best genome": "" if end.best is None else show_genome(end.best.genome),
    }


def _course(materials: Sequence[Material]) -> Part | None:
    # Each kind of run has a line; the colours come again after six, and the legend tells them apart.
    figures = [(by, course.draw(materials, by)) for by in get_args(course.By)]
    drawn = [Drawn(found, f"By {course.TITLES[by]}") for by, found in figures if found is not None]
    if not drawn:
        return None
    note = f"Colours come again after {len(SERIES)} runs." if len(materials) > len(SERIES) else ""
    return Part(
        "Side by side",
        "The best so far of each run. By evaluations says which strategy learns most from a training, by cost what a "
        "full training's worth buys, by time what you wait for.",
        drawn,
        note=note,
    )
