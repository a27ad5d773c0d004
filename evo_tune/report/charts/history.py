"""Progress of one run or several: the best value so far by evaluations, cost and time, with failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from evo_tune.report import charts
from evo_tune.report.charts import CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import LARGEST, RunData
from evo_tune.text import count_of

POSITION = 20

By: TypeAlias = Literal["evaluations", "cost", "time"]

TITLES = {"evaluations": "evaluations", "cost": "cost, in full trainings", "time": "time"}


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
    def improvements(self) -> np.ndarray:
        """Indices at which the best value improves."""
        changes = np.flatnonzero(np.diff(self.best, prepend=np.nan) != 0)  # NaN differs from everything
        return np.asarray(changes[~np.isnan(self.best[changes])])


def progress(data: RunData, by: By = "evaluations") -> Progress:
    """Return the progress of a run."""
    run, sign = data.run, data.objective.sign
    ids = np.array(run.recorded, dtype=int)
    trials = [data.by_id[id] for id in run.recorded]
    losses = np.full(len(trials), np.nan)
    for index, trial in enumerate(trials):
        is_counted = trial.rankable and trial.feasible and not trial.candidate.extra_seed
        if is_counted and trial.losses and abs(trial.losses[0]) <= LARGEST:
            losses[index] = trial.losses[0]
    best = np.minimum.accumulate(np.where(np.isnan(losses), np.inf, losses))
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
    runs = [data] if isinstance(data, RunData) else list(data)
    histories = [progress(run, by) for run in runs]
    values = np.concatenate([history.best[history.improvements] for history in histories])
    if not len(values):
        return None
    unit, title, first = 1.0, TITLES[by], runs[0]
    if by == "time":
        longest = max((float(history.x[-1]) for history in histories if len(history.x)), default=0.0)
        unit, name = charts.time_unit(longest)
        title = f"{name} of work"
    if len(runs) == 1:
        traces = _marks(first, histories[0], unit)
        traces.append(_best_so_far(histories[0], unit, "best so far", charts.SERIES[1]))
        traces += _star(first, histories[0], unit)
        if len(first.losses):  # the line may begin far above the results
            values = first.clip_values(np.append(first.objective.sign * values, first.edge_loss))
    else:
        traces = []
        for number, (run, history) in enumerate(zip(runs, histories, strict=True)):
            color = charts.SERIES[number % len(charts.SERIES)]
            traces.append(_best_so_far(history, unit, charts.escape_label(run.name), color))
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    y_axis = charts.axis(charts.escape_label(first.metric), range=[low - margin, high + margin])
    return charts.figure(traces, charts.axis(title, rangemode="tozero"), y_axis)


def _best_so_far(history: Progress, unit: float, name: str, color: str) -> dict[str, Any]:
    """Return the line of the best value so far, until the last result."""
    steps = history.improvements
    x, y, ids = history.x[steps], history.best[steps], history.id[steps]
    if len(x):
        x, y, ids = np.append(x, history.x[-1]), np.append(y, y[-1]), np.append(ids, ids[-1])
    hover = "best so far %{y:.5g}<br>trial %{customdata}<extra></extra>"
    return charts.steps(x / unit, y, name, color, customdata=ids, hovertemplate=hover, meta={"kind": "best"})


def _marks(data: RunData, history: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the results, the failures, and the value of the default."""
    valued, failed = np.flatnonzero(~np.isnan(history.value)), np.flatnonzero(history.failed)
    valued = valued[charts.spread_indices(len(valued), charts.MOST_MARKS)]
    failed = failed[charts.spread_indices(len(failed), charts.MOST_MARKS)]
    hover = "trial %{customdata}<br>%{text}<extra></extra>"
    traces = [
        charts.points(
            history.x[valued] / unit,
            data.clip_values(data.objective.sign * history.value[valued]),
            "full trainings",
            Color.FAINT,
            customdata=history.id[valued],
            text=[f"{value:.5g}" for value in history.value[valued]],
            hovertemplate=hover,
            meta={"kind": "result"},
        )
    ]
    if len(failed):
        errors = [data.run.outcomes[id].error or "" for id in history.id[failed]]
        color = charts.SERIES[3]
        traces.append(
            charts.points(
                history.x[failed] / unit,
                np.full(len(failed), data.objective.sign * data.edge_loss),
                "failed",
                color,
                marker={"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": color}},
                customdata=history.id[failed],
                text=[charts.escape_label(error, 120) for error in errors],
                hovertemplate=hover,
                meta={"kind": "failed"},
            )
        )
    if data.default is not None and data.default.losses:
        x, y = np.array([0.0, history.x[-1] / unit]), data.clip_values(np.full(2, data.default.losses[0]))
        traces.append(charts.steps(x, y, "default", Color.DEFAULT, 1.5, line={"dash": "dot"}, hoverinfo="skip"))
    return traces


def _star(data: RunData, history: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the mark of the recommended trial; no mark without one."""
    if data.best is None:
        return []
    index = np.flatnonzero((history.id == data.best.id) & ~np.isnan(history.value))
    hover = "recommended: trial %{customdata}, %{y:.5g} in the search<extra></extra>"
    x, y = history.x[index] / unit, history.value[index]
    return [charts.star(x, y, 14, customdata=history.id[index], hovertemplate=hover)] if len(index) else []


def part(data: RunData) -> Part | None:
    """Return the part; None if no full training has a value."""
    figures = []
    for by in get_args(By):
        if (figure := draw(data, by)) is not None:
            layout = figure["layout"]
            layout |= {"showlegend": False, "margin": {**layout["margin"], "t": 16}}  # the text explains the marks
            figures.append(CaptionedFigure(figure, f"By {TITLES[by]}", narrow=True))
    if not figures:
        return None
    history = progress(data)
    explanation = (
        f"The orange line is the best {data.metric} so far and the dotted line the default; grey points are full "
    )
    explanation += f"trainings{', crosses are failures' if history.failed.any() else ''}."
    if data.best is not None:
        explanation += f" The star is the recommended trial {data.best.id}"
        first = data.ranked[0].id if data.ranked else data.best.id
        if first != data.best.id and len(data.run.objectives) == 1:
            explanation += f"; trial {first} was the best on {data.result.seeds_text} and is not recommended"
        explanation += "."
    direction = "falls" if data.better_direction == "lower" else "rises"
    explanation += f" If the line still {direction} at the end, more trials are likely to help."
    notes = [charts.omission_note(charts.MOST_MARKS, int((~np.isnan(history.value)).sum()), "results")]
    if outliers := int((data.losses > data.edge_loss).sum()):
        are = "is" if outliers == 1 else "are"
        notes.append(f"{count_of(outliers, 'result')} far worse than the others {are} drawn at the edge.")
    return Part(
        "History",
        explanation,
        figures,
        rows=[
            {"evaluations": int(index) + 1, "trial": int(history.id[index]), data.metric: float(history.best[index])}
            for index in history.improvements
        ],
        rows_title="Each improvement",
        note=" ".join(filter(None, notes)),
    )
