"""The lineage: the ancestors of the best, by generation; who they are, how each was made, what each step gained."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.genome.trial import Candidate
from evo_tune.report.drawing import BEST, FAINT, SERIES, Drawn, Part, Spec, figure, points, safe
from evo_tune.report.material import LARGEST, Material
from evo_tune.report.words import show_value

PLACE = 30

MOST = 150
"""Ancestors drawn at most, the nearest ones."""

UNKNOWN = (DEFAULTS := "others",)


@dataclass(frozen=True)
class Ancestor:
    """A trial from which the best descends, or the best itself.

    Args:
        candidate: It.
        value: First objective, of its latest training that has one; None if there is none.
        parents: Ids of its parents that are drawn.
        gain: By how much it is better than its best parent; None where that is not known.
    """

    candidate: Candidate
    value: float | None
    parents: tuple[int, ...]
    gain: float | None


def ancestors(material: Material, id: int | None = None) -> tuple[list[Ancestor], int]:
    """Return a trial and its ancestors by id, the nearest `MOST` of them, and how many more there are.

    Args:
        material: The run.
        id: The trial; by default the one to recommend.
    """
    start = id if id is not None else material.best.id if material.best else None
    if start is None:
        return [], 0
    candidates = material.run.candidates
    found: dict[int, None] = {start: None}
    queue = deque([start])
    while queue:  # the nearest first
        for parent in _parents(candidates[queue.popleft()]):
            if parent not in found:
                found[parent] = None
                queue.append(parent)
    near = set(list(found)[:MOST])
    rows = []
    for one in sorted(near):
        parents = tuple(parent for parent in _parents(candidates[one]) if parent in near)
        rows.append(Ancestor(candidates[one], _value(material, one), parents, _gain(material, one)))
    return rows, len(found) - len(near)


def _parents(candidate: Candidate) -> list[int]:
    """Return the parents that were born before: a damaged or strange journal may name others."""
    return [parent for parent in dict.fromkeys(candidate.parents) if parent < candidate.id]


def _value(material: Material, id: int) -> float | None:
    trial = material.by_id.get(id)
    if trial is None or not trial.losses or abs(trial.losses[0]) > LARGEST:
        return None
    return material.objective.value(trial.losses[0])


def _gain(material: Material, id: int) -> float | None:
    """Return by how much a trial is better than the best of its parents, all of them trained as far as it was."""
    candidate = material.run.candidates[id]
    mine = _value(material, id)
    parents = [p for p in _parents(candidate) if material.run.candidates[p].budget == candidate.budget]
    values = [value for parent in parents if (value := _value(material, parent)) is not None]
    if mine is None or not values:
        return None
    sign = material.objective.sign
    return min(sign * value for value in values) - sign * mine


def changes(material: Material, id: int) -> str:
    """Return in words in which genes a trial differs from the parent that it is nearest to."""
    candidate = material.run.candidates[id]
    parents = [material.run.candidates[parent].genome for parent in _parents(candidate)]
    if not parents:
        return ""
    differing = [[name for name in candidate.genome if parent[name] != candidate.genome[name]] for parent in parents]
    nearest = min(range(len(parents)), key=lambda place: len(differing[place]))
    told = [
        f"{name} {show_value(parents[nearest][name])} → {show_value(candidate.genome[name])}"
        for name in differing[nearest]
    ]
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return ", ".join(told[:4]) + more if told else "the same genome"


def draw(material: Material, id: int | None = None) -> Spec | None:
    """Return the figure; None where the best was bred from nothing, or there is no best.

    Args:
        material: The run.
        id: Of the trial whose ancestors are drawn; by default the one to recommend.
    """
    rows, _ = ancestors(material, id)
    if len(rows) < 2:
        return None
    place = {row.candidate.id: _place(row, material, rows) for row in rows}
    ends = [(place[parent], place[row.candidate.id]) for row in rows for parent in row.parents]
    lines_x = [x for (x0, _), (x1, _) in ends for x in (x0, x1, None)]
    lines_y = [y for (_, y0), (_, y1) in ends for y in (y0, y1, None)]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "x": lines_x, "y": lines_y, "hoverinfo": "skip", "showlegend": False,
            "line": {"color": FAINT, "width": 1.5}, "name": "descent", "meta": {"kind": "edge"},
        }
    ]  # fmt: skip
    by_operator: dict[str, list[Ancestor]] = {}
    for row in rows:
        by_operator.setdefault(row.candidate.operator, []).append(row)
    commonest = sorted(by_operator, key=lambda name: -len(by_operator[name]))
    for number, name in enumerate(commonest):
        color = SERIES[number] if number < 5 else "#8a8f98"
        traces.append(_nodes(by_operator[name], material, place, safe(name, 24), color))
    x, y = place[rows[-1].candidate.id]  # parents are born before their children
    traces.append(
        points(
            [x], [y], "ends here", BEST, showlegend=False, hoverinfo="skip",
            marker={"size": 20, "symbol": "circle-open", "line": {"width": 2.5, "color": BEST}},
        )
    )  # fmt: skip
    first, last = (pick(min(row.candidate.generation, 10**9) for row in rows) for pick in (min, max))
    generations = {
        "title": {"text": "generation"},
        "dtick": max(1, math.ceil((last - first) / 10)),
        "range": [first - 0.6 - 0.02 * (last - first), last + 0.6 + 0.02 * (last - first)],  # and none below the first
    }
    return figure(traces, generations, safe(material.metric), height=380)


def _place(row: Ancestor, material: Material, rows: list[Ancestor]) -> tuple[float, float]:
    """Return where a trial stands: its generation, spread by order of birth within it, and its value."""
    mine = [other.candidate.id for other in rows if other.candidate.generation == row.candidate.generation]
    spread = (mine.index(row.candidate.id) + 1) / (len(mine) + 1) - 0.5
    known = [other.value for other in rows if other.value is not None]
    sign = material.objective.sign
    worst = max((sign * value for value in known), default=0.0)
    most = min(worst, material.worst_shown) if not np.isnan(material.worst_shown) else worst
    value = sign * (most if row.value is None else min(sign * row.value, most))
    return min(row.candidate.generation, 10**9) + 0.7 * spread, value


def _nodes(
    rows: list[Ancestor], material: Material, place: dict[int, tuple[float, float]], name: str, color: str
) -> dict[str, Any]:
    x, y = zip(*(place[row.candidate.id] for row in rows), strict=True)
    texts = []
    for row in rows:
        value = "no value" if row.value is None else f"{row.value:.5g}"
        gain = "" if row.gain is None else f", {abs(row.gain):.3g} {_word(row.gain)}"
        texts.append(f"trial {row.candidate.id}: {value}{gain}<br>{safe(changes(material, row.candidate.id), 120)}")
    symbols = ["circle" if row.candidate.whole and row.value is not None else "circle-open" for row in rows]
    marker = {"size": 11, "symbol": symbols, "line": {"width": 1.5, "color": color}}
    more = {"text": texts, "hovertemplate": "%{text}<extra></extra>", "meta": {"kind": "ancestor"}}
    return points(x, y, name, color, marker=marker, **more)


def _word(gain: float) -> str:
    return "better than its parents" if gain > 0 else "worse than its parents"


def line(material: Material) -> list[Ancestor]:
    """Return the way from the best back to where it began, by the better parent each time, the best first."""
    rows = {row.candidate.id: row for row in ancestors(material)[0]}
    sign, found = material.objective.sign, []
    id = material.best.id if material.best else None
    while id is not None:
        found.append(rows[id])
        known = [(sign * value, parent) for parent in rows[id].parents if (value := rows[parent].value) is not None]
        id = min(known)[1] if known else None
    return found


def part(material: Material) -> Part | None:
    """Return the part; None where the best was bred from nothing."""
    found = draw(material)
    if found is None or material.best is None:
        return None
    rows, more = ancestors(material)
    return Part(
        "Lineage",
        f"Trial {material.best.id} and its {len(rows) - 1 + more} ancestors, one column a generation. Each line leads "
        "from a parent to its child; colours say how the child was made. Open marks were trained in part, or have no "
        "value.",
        [Drawn(found)],
        rows=[
            {
                "trial": row.candidate.id,
                "made by": row.candidate.operator,
                material.metric: row.value,
                "gain over its better parent": row.gain,
                "changed": changes(material, row.candidate.id),
            }
            for row in line(material)
        ],
        rows_title="Step by step, from the best back to where it began",
        note=f"The {MOST} nearest of {len(rows) + more} are drawn." if more else "",
    )
