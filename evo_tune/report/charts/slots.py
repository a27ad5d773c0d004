"""Slots: what each device trained and when, and its idle time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.report import charts as plot
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import LARGEST, RunData
from evo_tune.text import show_seconds

PLACE = 100

MOST = 400
"""Most trainings drawn: the last ones, since a gap between two bars is idle time only if none is left out."""

MOST_NAMES = 30
"""Most slots with a label."""

KINDS = {"ok": ("trained", Color.OTHERS), "pruned": ("pruned", Color.PRUNED), "": ("failed", SERIES[5])}
"""Names and colours of trainings by status; '' stands for all other statuses."""

SLACK = 0.25
"""Seconds by which trainings in one slot may overlap, because recording a result takes a moment."""


@dataclass(frozen=True)
class Work:
    """A training in its slot.

    Args:
        id: Id of the trial.
        lane: Number of the slot, from 0.
        start: Start, in seconds of the run's working time.
        end: Time of its result, likewise.
        status: Status of the result.
    """

    id: int
    lane: int
    start: float
    end: float
    status: str


def timeline(data: RunData) -> tuple[list[Work], list[str]]:
    """Return all trainings in their slots, ordered by start, and the names of the slots.

    The journal has the time of each result, the duration and the device of its training, but not its slot. The
    trainings of a device are therefore placed into as few slots as possible.
    """
    run = data.run
    rows = []
    for id in run.recorded:
        outcome, end = run.outcomes[id], run.finished[id]
        if math.isfinite(end) and abs(end) < LARGEST and 0 <= outcome.seconds < LARGEST:
            rows.append((max(0.0, end - outcome.seconds), end, id, outcome.device, outcome.status))
    lanes: list[tuple[str, float]] = []
    found = []
    for start, end, id, device, status in sorted(rows):
        free = [n for n, (name, until) in enumerate(lanes) if name == device and until <= start + SLACK]
        if free:
            lane = max(free, key=lambda n: lanes[n][1])  # the one with the shortest gap
        else:
            lane = len(lanes)
            lanes.append((device, 0.0))
        lanes[lane] = (device, end)
        found.append(Work(id, lane, start, end, status))
    counts: Counter[str] = Counter()
    names = []
    for device, _ in lanes:
        counts[device] += 1
        names.append(f"{device or 'slot'} #{counts[device]}")
    return found, names


def idle(work: Sequence[Work], lanes: int) -> list[float]:
    """Return the idle share of each slot's time, from the first start to the last end."""
    if not work:
        return []
    begun, ended = min(one.start for one in work), max(one.end for one in work)
    busy = np.zeros(lanes)
    reached = np.full(lanes, begun)
    for one in work:
        busy[one.lane] += max(0.0, one.end - max(one.start, reached[one.lane]))
        reached[one.lane] = max(reached[one.lane], one.end)
    return list(np.clip(1.0 - busy / max(ended - begun, 1e-9), 0.0, 1.0).tolist())


def draw(data: RunData) -> Spec | None:
    """Return the figure; None before the first result."""
    work, names = timeline(data)
    longest = max((one.end for one in work), default=0.0)
    if longest <= 0:
        return None
    kept = work[-MOST:]
    first = min(one.start for one in kept) if len(work) > MOST else 0.0
    unit, title = plot.time_unit(longest)
    groups = {kind: [one for one in kept if (one.status if one.status in KINDS else "") == kind] for kind in KINDS}
    traces = [_bars(mine, unit, *KINDS[kind]) for kind, mine in groups.items() if mine]
    shapes = plot.vertical_lines(at / unit for at in data.run.resumed[1:][:50] if first < at < LARGEST)
    y = {**plot.names_axis(names, 20), "showgrid": False}
    if len(names) > MOST_NAMES:
        y |= {"tickvals": [], "ticktext": []}
    height = 120 + max(26, min(30 * len(names), 480))
    x = plot.axis(f"{title} of work", range=[first / unit, 1.01 * longest / unit])
    return plot.figure(traces, x, y, height=height, barmode="overlay", shapes=shapes)


def _bars(work: Sequence[Work], unit: float, name: str, color: str) -> dict[str, Any]:
    texts = [f"trial {one.id}: {one.status.replace('_', ' ')}, {show_seconds(one.end - one.start)}" for one in work]
    starts, ends = (np.array(times) / unit for times in ([one.start for one in work], [one.end for one in work]))
    return {
        **{"type": "bar", "orientation": "h", "name": name, "base": starts, "x": ends - starts},
        **{"y": [one.lane for one in work], "width": 0.62, "text": texts, "textposition": "none"},
        "marker": {"color": color, "line": {"width": 0.5, "color": "rgba(128,138,150,0.9)"}},
        **{"hovertemplate": "%{text}<extra></extra>", "meta": {"kind": "training"}},
    }


def part(data: RunData) -> Part | None:
    """Return the part; None before the first result."""
    found = draw(data)
    if found is None:
        return None
    work, names = timeline(data)
    shares = idle(work, len(names))
    counts = Counter(one.lane for one in work)
    again = " A dashed line shows where the run was resumed." if len(data.run.resumed) > 1 else ""
    return Part(
        "Slots",
        f"Each bar is a training; gaps are idle time, {np.mean(shares):.0%} in all. Idle slots at the end are normal; "
        f"in other gaps the slot waited for results, memory or machines.{again}",
        [CaptionedFigure(found)],
        rows=[
            {"slot": name, "trainings": counts[lane], "idle": f"{share:.0%}"}
            for lane, (name, share) in enumerate(zip(names[:50], shares, strict=False))
        ],
        rows_title="Idle time by slot",
        note=f"The last {MOST} of {len(work)} trainings are drawn." if len(work) > MOST else "",
    )
