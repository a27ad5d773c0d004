"""The lineage of the best trial: its ancestors by generation, how each was made, and the gain of each step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.trial import Candidate
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec, axis, escape_label, figure, line, points
from evo_tune.report.run_data import LARGEST, RunData
from evo_tune.text import show_value

PLACE = 30

MOST = 150
"""Most ancestors drawn: the nearest ones."""


@dataclass(frozen=True)
class Ancestor:
    """The best trial or one of its ancestors.

    Args:
        candidate: Its candidate.
        value: First objective; None without a value.
        parents: Ids of its parents that are drawn.
        gain: Gain over its best parent; None if unknown.
    """

    candidate: Candidate
    value: float | None
    parents: tuple[int, ...]
    gain: float | None


def ancestors(data: RunData, id: int | None = None) -> tuple[list[Ancestor], int]:
    """Return a trial and its nearest `MOST` ancestors by id, and the number of more distant ones.

    Args:
        data: The run.
        id: Id of the trial; by default the recommended one.
    """
    start = id if id is not None else data.best.id if data.best else None
    if start is None:
        return [], 0
    candidates = data.run.candidates
    found: dict[int, None] = {start: None}
    queue = deque([start])
    while queue:  # nearest first
        for parent in _parents(candidates[queue.popleft()]):
            if parent not in found:
                found[parent] = None
                queue.append(parent)
    near = set(list(found)[:MOST])
    rows = []
    for one in sorted(near):
        parents = tuple(parent for parent in _parents(candidates[one]) if parent in near)
        rows.append(Ancestor(candidates[one], _value(data, one), parents, _gain(data, one)))
    return rows, len(found) - len(near)


def _parents(candidate: Candidate) -> list[int]:
    """Return the parents with lower ids: a damaged journal may name others."""
    return [parent for parent in dict.fromkeys(candidate.parents) if parent < candidate.id]


def _value(data: RunData, id: int) -> float | None:
    trial = data.by_id.get(id)
    if trial is None or not trial.losses or abs(trial.losses[0]) > LARGEST:
        return None
    return data.objective.value(trial.losses[0])


def _gain(data: RunData, id: int) -> float | None:
    """Return a trial's gain over the best of its parents that have the same budget."""
    candidate = data.run.candidates[id]
    mine = _value(data, id)
    parents = [p for p in _parents(candidate) if data.run.candidates[p].budget == candidate.budget]
    values = [value for parent in parents if (value := _value(data, parent)) is not None]
    if mine is None or not values:
        return None
    sign = data.objective.sign
    return min(sign * value for value in values) - sign * mine


def changes(data: RunData, id: int) -> str:
    """Return the genes that differ between a trial and its nearest parent, as text."""
    mine, candidates = data.run.candidates[id], data.run.candidates
    parents = [candidates[parent].genome for parent in _parents(mine)]
    if not parents:
        return ""
    differing = [[name for name in mine.genome if parent[name] != mine.genome[name]] for parent in parents]
    names, parent = min(zip(differing, parents, strict=True), key=lambda pair: len(pair[0]))
    told = [f"{name} {show_value(parent[name])} → {show_value(mine.genome[name])}" for name in names]
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return ", ".join(told[:4]) + more if told else "the same genome"


def draw(data: RunData, id: int | None = None) -> Spec | None:
    """Return the figure; None if no trial is recommended, or the recommended one has no ancestors.

    Args:
        data: The run.
        id: Id of the trial whose ancestors are drawn; by default the recommended one.
    """
    rows, _ = ancestors(data, id)
    if len(rows) < 2:
        return None
    place = _places(rows, data)
    ends = [(place[parent], place[row.candidate.id]) for row in rows for parent in row.parents]
    lines_x = [x for (x0, _), (x1, _) in ends for x in (x0, x1, None)]
    lines_y = [y for (_, y0), (_, y1) in ends for y in (y0, y1, None)]
    hidden: dict[str, Any] = {"hoverinfo": "skip", "showlegend": False}
    traces = [line(lines_x, lines_y, "descent", Color.FAINT, 1.5, meta={"kind": "edge"}, **hidden)]
    by_operator: dict[str, list[Ancestor]] = {}
    for row in rows:
        by_operator.setdefault(row.candidate.operator, []).append(row)
    for number, (name, group) in enumerate(sorted(by_operator.items(), key=lambda item: -len(item[1]))):
        color = SERIES[number] if number < 5 else Color.DEFAULT
        traces.append(_nodes(group, data, place, escape_label(name, 24), color))
    x, y = place[rows[-1].candidate.id]  # parents have lower ids than their children
    ring = {"size": 20, "symbol": "circle-open", "line": {"width": 2.5, "color": Color.BEST}}
    traces.append(points([x], [y], "ends here", Color.BEST, marker=ring, **hidden))
    generations = [_generation(row) for row in rows]
    first, last = min(generations), max(generations)
    room = 0.6 + 0.02 * (last - first)
    step = max(1, math.ceil((last - first) / 10))
    across = axis("generation", dtick=step, range=[first - room, last + room])
    return figure(traces, across, escape_label(data.metric), height=380)


def _generation(row: Ancestor) -> int:
    return min(row.candidate.generation, 10**9)


def _places(rows: Sequence[Ancestor], data: RunData) -> dict[int, tuple[float, float]]:
    """Return the position of each trial by id: its generation, spread by id within it, and its value."""
    sign = data.objective.sign
    worst = max((sign * row.value for row in rows if row.value is not None), default=0.0)
    most = min(worst, data.edge_loss) if not np.isnan(data.edge_loss) else worst
    found = {}
    for row in rows:
        mine = [other.candidate.id for other in rows if other.candidate.generation == row.candidate.generation]
        spread = (mine.index(row.candidate.id) + 1) / (len(mine) + 1) - 0.5
        value = sign * (most if row.value is None else min(sign * row.value, most))
        found[row.candidate.id] = _generation(row) + 0.7 * spread, value
    return found


def _nodes(
    rows: Sequence[Ancestor], data: RunData, place: Mapping[int, tuple[float, float]], name: str, color: str
) -> dict[str, Any]:
    x, y = zip(*(place[row.candidate.id] for row in rows), strict=True)
    texts = []
    for row in rows:
        value = "no value" if row.value is None else f"{row.value:.5g}"
        word = "" if row.gain is None else "better" if row.gain > 0 else "worse"
        gain = "" if row.gain is None else f", {abs(row.gain):.3g} {word} than its parents"
        texts.append(f"trial {row.candidate.id}: {value}{gain}<br>{escape_label(changes(data, row.candidate.id), 120)}")
    symbols = ["circle" if row.candidate.whole and row.value is not None else "circle-open" for row in rows]
    marker = {"size": 11, "symbol": symbols, "line": {"width": 1.5, "color": color}}
    more = {"text": texts, "hovertemplate": "%{text}<extra></extra>", "meta": {"kind": "ancestor"}}
    return points(x, y, name, color, marker=marker, **more)


def steps_back(data: RunData) -> list[Ancestor]:
    """Return the best trial and its ancestors along the better parent each time, the best first."""
    rows = {row.candidate.id: row for row in ancestors(data)[0]}
    sign, found = data.objective.sign, []
    id = data.best.id if data.best else None
    while id is not None:
        found.append(rows[id])
        known = [(sign * value, parent) for parent in rows[id].parents if (value := rows[parent].value) is not None]
        id = min(known)[1] if known else None
    return found


def part(data: RunData) -> Part | None:
    """Return the part; None if the best trial has no ancestors."""
    found = draw(data)
    if found is None or data.best is None:
        return None
    rows, more = ancestors(data)
    return Part(
        "Lineage",
        f"Trial {data.best.id} and its {len(rows) - 1 + more} ancestors, one column for each generation. Each line "
        "connects a parent and its child; colours show the operator that made the child. Open marks are partial "
        "trainings, or have no value.",
        [CaptionedFigure(found)],
        rows=[
            {
                "trial": row.candidate.id,
                "operator": row.candidate.operator,
                data.metric: row.value,
                "gain over its better parent": row.gain,
                "changed": changes(data, row.candidate.id),
            }
            for row in steps_back(data)
        ],
        rows_title="Step by step, from the best back to its first ancestor",
        note=f"The {MOST} nearest of {len(rows) + more} are drawn." if more else "",
    )
