"""The course: the best so far, by evaluations, by what they cost and by time, with failures marked; of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from evo_tune.report.drawing import (
    BEST,
    DEFAULT,
    FAINT,
    MOST_MARKS,
    SERIES,
    Drawn,
    Part,
    Spec,
    figure,
    points,
    safe,
    steps,
    thinned,
)
from evo_tune.report.material import LARGEST, Material

PLACE = 20

By: TypeAlias = Literal["evaluations", "cost", "time"]

TITLES = {"evaluations": "evaluations", "cost": "cost, in full trainings", "time": "time"}


@dataclass(frozen=True)
class Course:
    """Results in the order in which they came; all of shape (results,).

    Args:
        id: Of each.
        x: How far the run had got: by evaluations, cost or seconds.
        value: First objective; NaN where a result is no full training with a value.
        best: Best of these so far; NaN before the first.
        failed: Whether each failed.
    """

    id: np.ndarray
    x: np.ndarray
    value: np.ndarray
    best: np.ndarray
    failed: np.ndarray


def course(material: Material, by: By = "evaluations") -> Course:
    """Return how a run went."""
    run, sign = material.run, material.objective.sign
    ids = np.array(run.recorded, dtype=int)
    trials = [material.by_id[id] for id in run.recorded]
    counted = [t.rankable and t.feasible and not t.candidate.replicate for t in trials]
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
    return Course(ids, x, sign * losses, sign * np.where(np.isinf(best), np.nan, best), failed)


def draw(material: Material | Sequence[Material], by: By = "evaluations") -> Spec | None:
    """Return the figure, of one run or of several side by side; None if no full training has a value."""
    several = [material] if isinstance(material, Material) else list(material)
    courses = [course(one, by) for one in several]
    if all(np.isnan(one.best).all() for one in courses):
        return None
    unit, title = _unit(courses) if by == "time" else (1.0, TITLES[by])
    traces: list[dict[str, Any]] = []
    for number, (one, went) in enumerate(zip(several, courses, strict=True)):
        color = BEST if len(several) == 1 else SERIES[number % len(SERIES)]
        if len(several) == 1:
            traces += _marks(one, went, unit)
        name = "best so far" if len(several) == 1 else safe(one.name)
        traces.append(_line(went, unit, name, color))
    first = several[0]
    return figure(traces, {"title": {"text": title}, "rangemode": "tozero"}, _scale(several, courses, first))


def _unit(courses: Sequence[Course]) -> tuple[float, str]:
    longest = max((float(one.x[-1]) for one in courses if len(one.x)), default=0.0)
    unit, name = (3600.0, "hours") if longest >= 2 * 3600 else (60.0, "minutes") if longest >= 120 else (1.0, "seconds")
    return unit, f"{name} of work"


def _line(went: Course, unit: float, name: str, color: str) -> dict[str, Any]:
    turns = np.flatnonzero(np.diff(went.best, prepend=np.nan) != 0)  # NaN differs from all
    turns = turns[~np.isnan(went.best[turns])]
    x, y, ids = went.x[turns], went.best[turns], went.id[turns]
    if len(x):
        x, y, ids = np.append(x, went.x[-1]), np.append(y, y[-1]), np.append(ids, ids[-1])
    hover = "best so far %{y:.5g}<br>trial %{customdata}<extra></extra>"
    return steps(x / unit, y, name, color, customdata=ids, hovertemplate=hover, meta={"kind": "best"})


def _marks(material: Material, went: Course, unit: float) -> list[dict[str, Any]]:
    """Return the results, where the default stands, and failures below them."""
    sign = material.objective.sign
    worst = sign * material.worst_shown
    there = np.flatnonzero(~np.isnan(went.value))
    there = there[thinned(len(there), MOST_MARKS)]
    shown = sign * np.minimum(sign * went.value[there], material.worst_shown)
    hover = "trial %{customdata}<br>%{text}<extra></extra>"
    texts = [f"{value:.5g}" for value in went.value[there]]
    traces = [
        points(
            *(went.x[there] / unit, shown, "full trainings", FAINT),
            customdata=went.id[there], text=texts, hovertemplate=hover, meta={"kind": "result"},
        )
    ]  # fmt: skip
    failed = np.flatnonzero(went.failed)
    if len(failed):
        failed = failed[thinned(len(failed), MOST_MARKS)]
        traces.append(
            points(
                *(went.x[failed] / unit, np.full(len(failed), worst), "failed", SERIES[3]),
                marker={"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": SERIES[3]}},
                customdata=went.id[failed],
                text=[safe(material.run.outcomes[id].error or "", 120) for id in went.id[failed]],
                hovertemplate=hover,
                meta={"kind": "failed"},
            )
        )
    if material.default is not None and material.default.losses:
        value = sign * min(material.default.losses[0], material.worst_shown)
        traces.append(
            steps(
                np.array([0.0, went.x[-1] / unit]), np.array([value, value]), "default", DEFAULT,
                line={"width": 1.5, "dash": "dot"}, hoverinfo="skip",
            )
        )  # fmt: skip
    return traces


def _scale(several: Sequence[Material], courses: Sequence[Course], first: Material) -> dict[str, Any]:
    """Return the axis of values, with some room, far outliers left to its edge."""
    axis: dict[str, Any] = {"title": {"text": safe(first.metric)}}
    known = np.concatenate([one.best[~np.isnan(one.best)] for one in courses])
    ends = [m.objective.sign * m.worst_shown for m in several if len(m.losses)] if len(several) == 1 else []
    low, high = float(min(known.min(), *ends, known.max())), float(max(known.max(), *ends, known.min()))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return {**axis, "range": [low - room, high + room]}


def part(material: Material) -> Part | None:
    """Return the part; None if no full training has a value."""
    figures = [draw(material, by) for by in get_args(By)]
    drawn = [
        Drawn(found, f"By {TITLES[by]}", narrow=True)
        for by, found in zip(get_args(By), figures, strict=True)
        if found is not None
    ]
    if not drawn:
        return None
    for one in drawn:
        layout = one.figure["layout"]
        layout |= {"showlegend": False, "margin": {**layout["margin"], "t": 16}}  # the sentence says what each mark is
    found = course(material)
    turns = [int(i) for i in np.flatnonzero(np.diff(found.best, prepend=np.nan) != 0) if not np.isnan(found.best[i])]
    counted = int((~np.isnan(found.value)).sum())
    notes = [f"{MOST_MARKS} of {counted} results are drawn, evenly spread."] if counted > MOST_MARKS else []
    if (np.abs(found.value[~np.isnan(found.value)]) > 0).any() and len(material.losses):
        beyond = int((material.losses > material.worst_shown).sum())
        notes += [f"{beyond} results far worse than the others are drawn at the edge."] if beyond else []
    way = "falls" if material.better == "lower" else "rises"
    failed = ", crosses are failures" if found.failed.any() else ""
    return Part(
        "Course",
        f"The orange line is the best {material.metric} so far, the dotted one the default; grey points are full "
        f"trainings{failed}. Where the line still {way} at the end, going on pays.",
        drawn,
        rows=[{"evaluations": i + 1, "trial": int(found.id[i]), material.metric: float(found.best[i])} for i in turns],
        rows_title="Each improvement",
        note=" ".join(notes),
    )
