"""The lineage of the best trial: its ancestors by generation, how each was made, and the gain of each step."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.trial import Candidate
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec, axis, escape_label, figure, line, points
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData
from evo_tune.text import show_value

POSITION = 30

# Most ancestors drawn: the nearest ones.
MOST = 150

# Last generation of the axis; a damaged journal may name a later one.
MOST_GENERATIONS = 10**9


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
    id = data.recommended_trial.id if id is None and data.recommended_trial else id
    if id is None:
        return [], 0
    candidates = data.run.candidates
    family = {id: None}  # in the order in which the search finds them: nearest first
    queue = deque([id])
    while queue:
        for parent in _parents(candidates[queue.popleft()]):
            if parent not in family:
                family[parent] = None
                queue.append(parent)
    nearest = set(list(family)[:MOST])
    rows = []
    for member in sorted(nearest):
        candidate, loss = candidates[member], _loss(data, member)
        value = None if loss is None else data.objective.value(loss)
        parents = _parents(candidate)
        comparable = [_loss(data, parent) for parent in parents if candidates[parent].budget == candidate.budget]
        parent_losses = [parent_loss for parent_loss in comparable if parent_loss is not None]
        gain = None if loss is None or not parent_losses else min(parent_losses) - loss
        rows.append(Ancestor(candidate, value, tuple(parent for parent in parents if parent in nearest), gain))
    return rows, len(family) - len(nearest)


def _parents(candidate: Candidate) -> list[int]:
    """Return the parents with lower ids: a damaged journal may name others."""
    return [parent for parent in dict.fromkeys(candidate.parents) if parent < candidate.id]


def _loss(data: RunData, id: int) -> float | None:
    """Return a trial's first loss; None without a value that can be drawn."""
    trial = data.run.trial(id) if id in data.run.outcomes else None
    return trial.losses[0] if trial is not None and trial.losses and abs(trial.losses[0]) <= MAX_ABSOLUTE_LOSS else None


def changes(data: RunData, id: int) -> str:
    """Return the genes that differ between a trial and its nearest parent, as text."""
    candidates = data.run.candidates
    genome, differences = candidates[id].genome, []
    for parent in _parents(candidates[id]):
        values = candidates[parent].genome
        differences.append([(name, values[name], genome[name]) for name in genome if values[name] != genome[name]])
    if not differences:
        return ""
    texts = [f"{name} {show_value(old)} → {show_value(new)}" for name, old, new in min(differences, key=len)]
    omitted = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    return ", ".join(texts[:4]) + omitted if texts else "the same genome"


def draw(data: RunData, id: int | None = None) -> Spec | None:
    """Return the figure; None if no trial is recommended, or the recommended one has no ancestors.

    Args:
        data: The run.
        id: Id of the trial whose ancestors are drawn; by default the recommended one.
    """
    rows, _ = ancestors(data, id)
    if len(rows) < 2:
        return None
    sign = data.objective.sign
    edge = max((sign * row.value for row in rows if row.value is not None), default=0.0)
    edge = edge if np.isnan(data.edge_loss) else min(edge, data.edge_loss)
    positions: dict[int, tuple[float, float]] = {}  # by id: the generation, spread by id within it, and the value
    for row in rows:
        generation = row.candidate.generation
        column = [peer.candidate.id for peer in rows if peer.candidate.generation == generation]
        offset = (column.index(row.candidate.id) + 1) / (len(column) + 1) - 0.5
        value = sign * (edge if row.value is None else min(sign * row.value, edge))
        positions[row.candidate.id] = min(generation, MOST_GENERATIONS) + 0.7 * offset, value
    edges_x, edges_y = [], []
    groups: dict[str, list[Ancestor]] = defaultdict(list)
    for row in rows:
        groups[row.candidate.operator].append(row)
        for parent in row.parents:
            (x0, y0), (x1, y1) = positions[parent], positions[row.candidate.id]
            edges_x += [x0, x1, math.nan]
            edges_y += [y0, y1, math.nan]
    traces = [line(edges_x, edges_y, "descent", Color.FAINT, 1.5, showlegend=False)]
    for number, (operator, group) in enumerate(sorted(groups.items(), key=lambda item: -len(item[1]))):
        color = SERIES[number] if number < 5 else Color.DEFAULT
        x, y = zip(*(positions[row.candidate.id] for row in group), strict=True)
        symbols = ["circle" if row.candidate.whole and row.value is not None else "circle-open" for row in group]
        marker, texts = {"size": 11, "symbol": symbols, "line": {"width": 1.5, "color": color}}, []
        for row in group:
            text = f"trial {row.candidate.id}: {'no value' if row.value is None else f'{row.value:.5g}'}"
            if row.gain is not None:
                text += f", {abs(row.gain):.3g} {'better' if row.gain > 0 else 'worse'} than its parents"
            texts.append(f"{text}<br>{escape_label(changes(data, row.candidate.id), 120)}")
        traces.append(points(x, y, escape_label(operator, 24), color, "%{text}", marker=marker, text=texts))
    end_x, end_y = positions[rows[-1].candidate.id]  # parents have lower ids than their children
    ring = {"size": 20, "symbol": "circle-open", "line": {"width": 2.5, "color": Color.BEST}}
    traces.append(points([end_x], [end_y], "ends here", Color.BEST, marker=ring, showlegend=False))
    generations = [min(row.candidate.generation, MOST_GENERATIONS) for row in rows]
    first, last = min(generations), max(generations)
    margin = 0.6 + 0.02 * (last - first)
    step = max(1, math.ceil((last - first) / 10))
    x_axis = axis("generation", dtick=step, range=[first - margin, last + margin])
    return figure(traces, x_axis, escape_label(data.metric), height=380)


def best_ancestors(data: RunData) -> list[Ancestor]:
    """Return the best trial and its ancestors along the better parent each time, the best first."""
    rows = {row.candidate.id: row for row in ancestors(data)[0]}
    sign, chain = data.objective.sign, []
    id = data.recommended_trial.id if data.recommended_trial else None
    while id is not None:
        chain.append(rows[id])
        losses = [(sign * value, parent) for parent in rows[id].parents if (value := rows[parent].value) is not None]
        id = min(losses)[1] if losses else None
    return chain


def part(data: RunData) -> Part | None:
    """Return the part; None if the best trial has no ancestors."""
    lineage = draw(data)
    if lineage is None or data.recommended_trial is None:
        return None
    ancestor_rows, omitted = ancestors(data)
    explanation = (
        f"Trial {data.recommended_trial.id} and its {len(ancestor_rows) - 1 + omitted} ancestors, one column for each "
        "generation. Each line connects a parent and its child; colours show the operator that made the child. Open "
        "marks are partial trainings, or have no value."
    )
    rows = []
    for row in best_ancestors(data):
        values = {"trial": row.candidate.id, "operator": row.candidate.operator, data.metric: row.value}
        rows.append({**values, "gain over its better parent": row.gain, "changed": changes(data, row.candidate.id)})
    return Part(
        "Lineage",
        explanation,
        [CaptionedFigure(lineage)],
        rows=rows,
        rows_title="Step by step, from the best back to its first ancestor",
        note=f"The {MOST} nearest of {len(ancestor_rows) + omitted} are drawn." if omitted else "",
    )
