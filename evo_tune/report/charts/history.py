"""Progress of one run or several: the best value so far by evaluations, cost and time, with failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from evo_tune.report import charts as plot
from evo_tune.report.charts import Color, Drawn, Part, Spec
from evo_tune.report.run_data import LARGEST, Material
from evo_tune.text import counted

PLACE = 20

By: TypeAlias = Literal["evaluations", "cost", "time"]

TITLES = {"evaluations": "evaluations", "cost": "cost, in full trainings", "time": "time"}

HOVER = "trial %{customdata}<br>%{text}<extra></extra>"


@dataclass(frozen=True)
class Progress:
    """Results in the order in which they came, each array of shape (results,).

    Args:
        id: Trial ids.
        x: Progress of the run, in evaluations, full trainings or seconds.
        value: First objective; NaN for results that are not a full training with a value.
        best: Best of these so far; NaN before the first.
        failed: Whether each result is a failure.
    """

    id: np.ndarray
    x: np.ndarray
    value: np.ndarray
    best: np.ndarray
    failed: np.ndarray

    @property
    def turns(self) -> np.ndarray:
        """Indices at which the best value improves."""
        found = np.flatnonzero(np.diff(self.best, prepend=np.nan) != 0)  # NaN differs from everything
        return np.asarray(found[~np.isnan(self.best[found])])


def progress(material: Material, by: By = "evaluations") -> Progress:
    """Return the progress of a run."""
    run, sign = material.run, material.objective.sign
    ids = np.array(run.recorded, dtype=int)
    trials = [material.by_id[id] for id in run.recorded]
    counted = [t.rankable and t.feasible and not t.candidate.extra_seed for t in trials]
    losses = np.array([t.losses[0] if ok and t.losses else np.nan for t, ok in zip(trials, counted, strict=True)])
    losses[np.abs(losses) > LARGEST] = np.nan
    best = np.minimum.accumulate(np.where(np.isnan(losses), np.inf, losses)) if len(losses) else losses
    failed = np.array([trial.outcome.status not in ("ok", "pruned") for trial in trials], dtype=bool)
    if by == "cost":
        x = np.cumsum([material.costs[id] for id in run.recorded])
    elif by == "time":
        x = np.array([run.finished[id] for id in run.recorded], dtype=float)
    else:
        x = np.arange(1.0, len(ids) + 1.0)
    return Progress(ids, x, sign * losses, sign * np.where(np.isinf(best), np.nan, best), failed)


def draw(material: Material | Sequence[Material], by: By = "evaluations") -> Spec | None:
    """Return the figure of one run, or of several together; None if no full training has a value."""
    several = [material] if isinstance(material, Material) else list(material)
    found = [progress(one, by) for one in several]
    known = np.concatenate([one.best[one.turns] for one in found])
    if not len(known):
        return None
    unit, title, first = 1.0, TITLES[by], several[0]
    if by == "time":
        unit, name = plot.time_unit(max((float(one.x[-1]) for one in found if len(one.x)), default=0.0))
        title = f"{name} of work"
    if len(several) == 1:
        traces = [*_marks(first, found[0], unit), _line(found[0], unit, "best so far", plot.SERIES[1])]
        traces += _recommended(first, found[0], unit)
        if len(first.losses):  # the line may begin far above the results
            sign = first.objective.sign
            known = sign * np.minimum(np.append(sign * known, first.worst_shown), first.worst_shown)
    else:
        names = enumerate(zip(several, found, strict=True))
        traces = [_line(seen, unit, plot.safe(one.name), plot.SERIES[n % len(plot.SERIES)]) for n, (one, seen) in names]
    low, high = float(known.min()), float(known.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    y = plot.axis(plot.safe(first.metric), range=[low - room, high + room])
    return plot.figure(traces, plot.axis(title, rangemode="tozero"), y)


def _line(seen: Progress, unit: float, name: str, color: str) -> dict[str, Any]:
    x, y, ids = seen.x[seen.turns], seen.best[seen.turns], seen.id[seen.turns]
    if len(x):
        x, y, ids = np.append(x, seen.x[-1]), np.append(y, y[-1]), np.append(ids, ids[-1])
    hover = "best so far %{y:.5g}<br>trial %{customdata}<extra></extra>"
    return plot.steps(x / unit, y, name, color, customdata=ids, hovertemplate=hover, meta={"kind": "best"})


def _recommended(material: Material, seen: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the mark of the recommended trial."""
    at = np.flatnonzero((seen.id == material.best.id) & ~np.isnan(seen.value)) if material.best else np.array([], int)
    star = {"symbol": "star", "size": 14, "color": Color.BEST}
    hover = "recommended: trial %{customdata}, %{y:.5g} in the search<extra></extra>"
    more = {"customdata": seen.id[at], "hovertemplate": hover, "marker": star, "meta": {"kind": "recommended"}}
    return [plot.points(seen.x[at] / unit, seen.value[at], "recommended", Color.BEST, **more)] if len(at) else []


def _marks(material: Material, seen: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the results, the value of the default, and the failures."""
    sign, worst = material.objective.sign, material.worst_shown

    def marks(which: np.ndarray, y: np.ndarray, texts: list[str], name: str, color: str, **more: Any) -> dict[str, Any]:
        more |= {"customdata": seen.id[which], "text": texts, "hovertemplate": HOVER}
        return plot.points(seen.x[which] / unit, y, name, color, **more)

    there, failed = np.flatnonzero(~np.isnan(seen.value)), np.flatnonzero(seen.failed)
    there, failed = there[plot.thinned(len(there), plot.MOST_MARKS)], failed[plot.thinned(len(failed), plot.MOST_MARKS)]
    shown = sign * np.minimum(sign * seen.value[there], worst)
    texts = [f"{value:.5g}" for value in seen.value[there]]
    traces = [marks(there, shown, texts, "full trainings", Color.FAINT, meta={"kind": "result"})]
    if len(failed):
        texts = [plot.safe(material.run.outcomes[id].error or "", 120) for id in seen.id[failed]]
        cross = {"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": plot.SERIES[3]}}
        y = np.full(len(failed), sign * worst)
        traces.append(marks(failed, y, texts, "failed", plot.SERIES[3], marker=cross, meta={"kind": "failed"}))
    if material.default is not None and material.default.losses:
        y = np.full(2, sign * min(material.default.losses[0], worst))
        dots = {"line": {"dash": "dot"}, "hoverinfo": "skip"}
        traces.append(plot.steps(np.array([0.0, seen.x[-1] / unit]), y, "default", Color.DEFAULT, 1.5, **dots))
    return traces


def _leading(material: Material) -> str:
    """Return which trial the star is, and which one leads on the search's own seeds where that is another."""
    if material.best is None:
        return ""
    said = f" The star is the recommended trial {material.best.id}"
    first = material.ranked[0].id if material.ranked else material.best.id
    if first == material.best.id or len(material.run.objectives) > 1:
        return f"{said}."
    return f"{said}; trial {first} was the best on {material.closing.seeded} and is not recommended."


def part(material: Material) -> Part | None:
    """Return the part; None if no full training has a value."""
    figures = {by: draw(material, by) for by in get_args(By)}
    drawn = [Drawn(found, f"By {TITLES[by]}", narrow=True) for by, found in figures.items() if found is not None]
    if not drawn:
        return None
    for one in drawn:
        layout = one.figure["layout"]
        layout |= {"showlegend": False, "margin": {**layout["margin"], "t": 16}}  # the text explains the marks
    found = progress(material)
    beyond = int((material.losses > material.worst_shown).sum())
    notes = [
        plot.drawn_of(plot.MOST_MARKS, int((~np.isnan(found.value)).sum()), "results"),
        f"{counted(beyond, 'result')} far worse than the others {'is' if beyond == 1 else 'are'} drawn at the edge."
        if beyond
        else "",
    ]
    way = "falls" if material.better == "lower" else "rises"
    failed = ", crosses are failures" if found.failed.any() else ""
    return Part(
        "History",
        f"The orange line is the best {material.metric} so far and the dotted line the default; grey points are full "
        f"trainings{failed}.{_leading(material)} If the line still {way} at the end, more trials are likely to help.",
        drawn,
        rows=[
            {"evaluations": int(i) + 1, "trial": int(found.id[i]), material.metric: float(found.best[i])}
            for i in found.turns
        ],
        rows_title="Each improvement",
        note=" ".join(filter(None, notes)),
    )
