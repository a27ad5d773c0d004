"""Progress of one run or several: the best value so far by evaluations, cost and time, with failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from evo_tune.report import charts as plot
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import LARGEST, RunData
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


def progress(data: RunData, by: By = "evaluations") -> Progress:
    """Return the progress of a run."""
    run, sign = data.run, data.objective.sign
    ids = np.array(run.recorded, dtype=int)
    trials = [data.by_id[id] for id in run.recorded]
    counted = [t.rankable and t.feasible and not t.candidate.extra_seed for t in trials]
    losses = np.array([t.losses[0] if ok and t.losses else np.nan for t, ok in zip(trials, counted, strict=True)])
    losses[np.abs(losses) > LARGEST] = np.nan
    best = np.minimum.accumulate(np.where(np.isnan(losses), np.inf, losses)) if len(losses) else losses
    failed = np.array([trial.outcome.status not in ("ok", "pruned") for trial in trials], dtype=bool)
    if by == "cost":
        x = np.cumsum([data.costs[id] for id in run.recorded])
    elif by == "time":
        x = np.array([run.finished[id] for id in run.recorded], dtype=float)
    else:
        x = np.arange(1.0, len(ids) + 1.0)
    return Progress(ids, x, sign * losses, sign * np.where(np.isinf(best), np.nan, best), failed)


def draw(data: RunData | Sequence[RunData], by: By = "evaluations") -> Spec | None:
    """Return the figure of one run, or of several together; None if no full training has a value."""
    several = [data] if isinstance(data, RunData) else list(data)
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
            known = sign * np.minimum(np.append(sign * known, first.edge_loss), first.edge_loss)
    else:
        names = enumerate(zip(several, found, strict=True))
        traces = [
            _line(seen, unit, plot.escape_label(one.name), plot.SERIES[n % len(plot.SERIES)])
            for n, (one, seen) in names
        ]
    low, high = float(known.min()), float(known.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    y = plot.axis(plot.escape_label(first.metric), range=[low - room, high + room])
    return plot.figure(traces, plot.axis(title, rangemode="tozero"), y)


def _line(seen: Progress, unit: float, name: str, color: str) -> dict[str, Any]:
    x, y, ids = seen.x[seen.turns], seen.best[seen.turns], seen.id[seen.turns]
    if len(x):
        x, y, ids = np.append(x, seen.x[-1]), np.append(y, y[-1]), np.append(ids, ids[-1])
    hover = "best so far %{y:.5g}<br>trial %{customdata}<extra></extra>"
    return plot.steps(x / unit, y, name, color, customdata=ids, hovertemplate=hover, meta={"kind": "best"})


def _recommended(data: RunData, seen: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the mark of the recommended trial."""
    at = np.flatnonzero((seen.id == data.best.id) & ~np.isnan(seen.value)) if data.best else np.array([], int)
    star = {"symbol": "star", "size": 14, "color": Color.BEST}
    hover = "recommended: trial %{customdata}, %{y:.5g} in the search<extra></extra>"
    more = {"customdata": seen.id[at], "hovertemplate": hover, "marker": star, "meta": {"kind": "recommended"}}
    return [plot.points(seen.x[at] / unit, seen.value[at], "recommended", Color.BEST, **more)] if len(at) else []


def _marks(data: RunData, seen: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the results, the value of the default, and the failures."""
    sign, worst = data.objective.sign, data.edge_loss

    def marks(which: np.ndarray, y: np.ndarray, texts: list[str], name: str, color: str, **more: Any) -> dict[str, Any]:
        more |= {"customdata": seen.id[which], "text": texts, "hovertemplate": HOVER}
        return plot.points(seen.x[which] / unit, y, name, color, **more)

    there, failed = np.flatnonzero(~np.isnan(seen.value)), np.flatnonzero(seen.failed)
    there, failed = (
        there[plot.spread_indices(len(there), plot.MOST_MARKS)],
        failed[plot.spread_indices(len(failed), plot.MOST_MARKS)],
    )
    shown = sign * np.minimum(sign * seen.value[there], worst)
    texts = [f"{value:.5g}" for value in seen.value[there]]
    traces = [marks(there, shown, texts, "full trainings", Color.FAINT, meta={"kind": "result"})]
    if len(failed):
        texts = [plot.escape_label(data.run.outcomes[id].error or "", 120) for id in seen.id[failed]]
        cross = {"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": plot.SERIES[3]}}
        y = np.full(len(failed), sign * worst)
        traces.append(marks(failed, y, texts, "failed", plot.SERIES[3], marker=cross, meta={"kind": "failed"}))
    if data.default is not None and data.default.losses:
        y = np.full(2, sign * min(data.default.losses[0], worst))
        dots = {"line": {"dash": "dot"}, "hoverinfo": "skip"}
        traces.append(plot.steps(np.array([0.0, seen.x[-1] / unit]), y, "default", Color.DEFAULT, 1.5, **dots))
    return traces


def _leading(data: RunData) -> str:
    """Return which trial the star is, and which one leads on the search's own seeds where that is another."""
    if data.best is None:
        return ""
    said = f" The star is the recommended trial {data.best.id}"
    first = data.ranked[0].id if data.ranked else data.best.id
    if first == data.best.id or len(data.run.objectives) > 1:
        return f"{said}."
    return f"{said}; trial {first} was the best on {data.result.seeds_text} and is not recommended."


def part(data: RunData) -> Part | None:
    """Return the part; None if no full training has a value."""
    figures = {by: draw(data, by) for by in get_args(By)}
    drawn = [
        CaptionedFigure(found, f"By {TITLES[by]}", narrow=True) for by, found in figures.items() if found is not None
    ]
    if not drawn:
        return None
    for one in drawn:
        layout = one.figure["layout"]
        layout |= {"showlegend": False, "margin": {**layout["margin"], "t": 16}}  # the text explains the marks
    found = progress(data)
    beyond = int((data.losses > data.edge_loss).sum())
    notes = [
        plot.omission_note(plot.MOST_MARKS, int((~np.isnan(found.value)).sum()), "results"),
        f"{counted(beyond, 'result')} far worse than the others {'is' if beyond == 1 else 'are'} drawn at the edge."
        if beyond
        else "",
    ]
    way = "falls" if data.better_direction == "lower" else "rises"
    failed = ", crosses are failures" if found.failed.any() else ""
    return Part(
        "History",
        f"The orange line is the best {data.metric} so far and the dotted line the default; grey points are full "
        f"trainings{failed}.{_leading(data)} If the line still {way} at the end, more trials are likely to help.",
        drawn,
        rows=[
            {"evaluations": int(i) + 1, "trial": int(found.id[i]), data.metric: float(found.best[i])}
            for i in found.turns
        ],
        rows_title="Each improvement",
        note=" ".join(filter(None, notes)),
    )
