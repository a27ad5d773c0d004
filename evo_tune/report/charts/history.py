"""Progress of one run or several: the best value so far by evaluations, cost and time, with failures."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from evo_tune.report import charts
from evo_tune.report.charts import Color, Part, Spec
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData
from evo_tune.report.summary import candidate_costs
from evo_tune.store.run import Run
from evo_tune.text import with_plural

POSITION = 20

By: TypeAlias = Literal["evaluations", "cost", "time"]

TITLES = {"evaluations": "evaluations", "cost": "cost, in full trainings", "time": "time"}


class Progress:
    """Progress of a run: results in the order in which they came, each array of shape (results,).

    Args:
        data: The run.
        by: What `x` counts.
    """

    def __init__(self, data: RunData, by: By = "evaluations") -> None:
        run, sign = data.run, data.objective.sign
        trials = [run.trial(id) for id in run.recorded]
        losses = np.full(len(trials), np.nan)
        for index, trial in enumerate(trials):
            is_counted = trial.rankable and trial.feasible and not trial.candidate.extra_seed
            if is_counted and trial.losses and abs(trial.losses[0]) <= MAX_ABSOLUTE_LOSS:
                losses[index] = trial.losses[0]
        best = np.minimum.accumulate(np.where(np.isnan(losses), np.inf, losses))
        # Trial ids.
        self.id = np.array(run.recorded, dtype=int)
        # First objective; NaN for results that are not a full training with a value.
        self.value = sign * losses
        # Best of these so far; NaN before the first.
        self.best = sign * np.where(np.isinf(best), np.nan, best)
        # Whether each result is a failure.
        self.failed = np.array([trial.outcome.status not in ("ok", "pruned") for trial in trials], dtype=bool)
        # Progress of the run, in evaluations, full trainings or seconds.
        self.x = np.arange(1.0, len(trials) + 1.0)
        if by == "cost":
            costs = candidate_costs(run)
            self.x = np.cumsum([costs[id] for id in run.recorded])
        elif by == "time":
            self.x = np.array([run.finished[id] for id in run.recorded], dtype=float)
        # Indices at which the best value improves.
        changes = np.flatnonzero(np.diff(self.best, prepend=np.nan) != 0)  # NaN differs from everything
        self.improvements = np.asarray(changes[~np.isnan(self.best[changes])])


def best_so_far(run: Run) -> list[tuple[int, float, int]]:
    """Return each improvement of the first objective: (evaluations until then, value, trial id)."""
    history = Progress(RunData(run))
    best, ids = history.best.tolist(), history.id.tolist()
    return [(index + 1, best[index], ids[index]) for index in history.improvements.tolist()]


def draw(data: RunData | Sequence[RunData], by: By = "evaluations") -> Spec | None:
    """Return the figure of one run, or of several together; None if no full training has a value."""
    runs = [data] if isinstance(data, RunData) else list(data)
    histories = [Progress(run, by) for run in runs]
    values = np.concatenate([history.best[history.improvements] for history in histories])
    if not len(values):
        return None
    unit, title, first = 1.0, TITLES[by], runs[0]
    if by == "time":
        longest = max(float(history.x[-1]) for history in histories if len(history.x))
        unit, name = (3600.0, "hours") if longest >= 7200 else (60.0, "minutes")
        title = f"{name} of work"
    traces = []
    for number, (run, history) in enumerate(zip(runs, histories, strict=True)):
        improvements = history.improvements
        x, y, ids = history.x[improvements], history.best[improvements], history.id[improvements]
        if len(x):  # the line continues until the last result
            x, y, ids = np.append(x, history.x[-1]), np.append(y, y[-1]), np.append(ids, ids[-1])
        name, color = charts.escape_label(run.name), charts.SERIES[number % len(charts.SERIES)]
        if len(runs) == 1:
            name, color = "best so far", charts.SERIES[1]
        hover = "best so far %{y:.5g}<br>trial %{customdata}"
        traces.append(charts.line(x / unit, y, name, color, 2.5, hover, customdata=ids, line={"shape": "hv"}))
    if len(runs) == 1:
        traces = _add_marks(traces, first, histories[0], unit)
        if len(first.ranked_losses):  # the line may begin far above the results
            values = first.chart_values(np.append(first.objective.sign * values, first.edge_loss))
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    y_axis = charts.axis(charts.escape_label(first.metric), range=[low - margin, high + margin])
    return charts.figure(traces, charts.axis(title, rangemode="tozero"), y_axis)


def _add_marks(lines: list[dict[str, Any]], data: RunData, history: Progress, unit: float) -> list[dict[str, Any]]:
    """Return the results, the failures, the value of the default, the best so far, and the recommended trial."""
    x, hover = history.x / unit, "trial %{customdata}<br>%{text}"
    valued, failed = np.flatnonzero(~np.isnan(history.value)), np.flatnonzero(history.failed)
    valued = valued[charts.spread_indices(len(valued), charts.MOST_MARKS)]
    failed = failed[charts.spread_indices(len(failed), charts.MOST_MARKS)]
    y = data.chart_values(data.objective.sign * history.value[valued])
    texts = [f"{value:.5g}" for value in history.value[valued]]
    marks: dict[str, Any] = {"customdata": history.id[valued], "text": texts}
    traces = [charts.points(x[valued], y, "full trainings", Color.FAINT, hover, **marks)]
    if len(failed):
        y, color = np.full(len(failed), data.objective.sign * data.edge_loss), charts.SERIES[3]
        texts = [charts.escape_label(data.run.outcomes[id].error or "", 120) for id in history.id[failed]]
        marks = {"customdata": history.id[failed], "text": texts}
        marks["marker"] = {"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": color}}
        traces.append(charts.points(x[failed], y, "failed", color, hover, **marks))
    if data.result.default is not None and data.result.default.losses:
        y = data.chart_values(np.full(2, data.result.default.losses[0]))
        dots = {"dash": "dot", "shape": "hv"}
        traces.append(charts.line(np.array([0.0, x[-1]]), y, "default", Color.DEFAULT, 1.5, line=dots))
    traces += lines
    best_id = data.result.best.id if data.result.best else None
    index = np.flatnonzero((history.id == best_id) & ~np.isnan(history.value))
    if len(index):
        hover = "recommended: trial %{customdata}, %{y:.5g} in the search"
        marks = {"customdata": history.id[index], "marker": {"symbol": "star", "size": 14}}
        traces.append(charts.points(x[index], history.value[index], "recommended", Color.BEST, hover, **marks))
    return traces


def part(data: RunData) -> Part | None:
    """Return the part; None if no full training has a value."""
    figures = charts.side_by_side((f"By {TITLES[by]}", draw(data, by)) for by in get_args(By))
    if not figures:
        return None
    for captioned in figures:  # the text explains the marks
        layout = captioned.figure["layout"]
        layout |= {"showlegend": False, "margin": {**layout["margin"], "t": 16}}
    history = Progress(data)
    crosses = ", crosses are failures" if history.failed.any() else ""
    explanation = f"The orange line is the best {data.metric} so far and the dotted line the default; "
    explanation += f"grey points are full trainings{crosses}."
    if data.result.best is not None:
        explanation += f" The star is the recommended trial {data.result.best.id}"
        first = data.ranked_trials[0].id if data.ranked_trials else data.result.best.id
        if first != data.result.best.id and len(data.run.objectives) == 1:
            explanation += f"; trial {first} was the best in the search and is not recommended"
        explanation += "."
    direction = "falls" if data.objective.sign > 0 else "rises"
    explanation += f" If the line still {direction} at the end, more trials are likely to help."
    notes = [charts.omission_note(charts.MOST_MARKS, int((~np.isnan(history.value)).sum()), "results")]
    if outliers := int((data.ranked_losses > data.edge_loss).sum()):
        are = "is" if outliers == 1 else "are"
        notes.append(f"{with_plural(outliers, 'result')} far worse than the others {are} drawn at the edge.")
    rows = [{"evaluations": count, "trial": id, data.metric: value} for count, value, id in best_so_far(data.run)]
    return Part("History", explanation, figures, rows=rows, rows_title="Each improvement", note=" ".join(notes).strip())
