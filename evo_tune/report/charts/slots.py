"""The slots: what each device trained when, and where it idled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_tune.report.drawing import DEFAULT, OTHERS, PRUNED, SERIES, Drawn, Part, Spec, figure, safe, thinned
from evo_tune.report.material import LARGEST, Material
from evo_tune.report.words import show_seconds

PLACE = 100

MOST = 800
"""Trainings drawn at most."""

KINDS = (("trained", OTHERS, ("ok",)), ("stopped as hopeless", PRUNED, ("pruned",)), ("failed", SERIES[5], ()))
"""What trainings are called, their colours, and how they ended; () stands for all other ways."""

SLACK = 0.25
"""Seconds by which two trainings of one slot may seem to overlap: a result takes a moment to be recorded."""


@dataclass(frozen=True)
class Work:
    """A training in its slot.

    Args:
        id: The trial.
        lane: Number of the slot, from 0.
        start: Seconds of the run's work before it.
        end: The same when its result came.
        status: How it ended.
    """

    id: int
    lane: int
    start: float
    end: float
    status: str


def timeline(material: Material) -> tuple[list[Work], list[str]]:
    """Return every training in its slot, by start, and the slots' names.

    The journal says when a result came, how long the training took and on which device, not in which slot: the
    trainings of a device are laid into as few lanes as they need.
    """
    run = material.run
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
            lane = max(free, key=lambda n: lanes[n][1])  # the one that idled least
        else:
            lane = len(lanes)
            lanes.append((device, 0.0))
        lanes[lane] = (device, end)
        found.append(Work(id, lane, start, end, status))
    counts: dict[str, int] = {}
    names = []
    for device, _ in lanes:
        counts[device] = counts.get(device, 0) + 1
        names.append(f"{device or 'slot'} #{counts[device]}")
    return found, names


def idle(work: list[Work], lanes: int) -> list[float]:
    """Return for each slot the share of the time, from the first start to the last end, in which it trained nothing."""
    if not work:
        return []
    begun, ended = min(one.start for one in work), max(one.end for one in work)
    busy = np.zeros(lanes)
    reached = np.full(lanes, begun)
    for one in work:
        busy[one.lane] += max(0.0, one.end - max(one.start, reached[one.lane]))
        reached[one.lane] = max(reached[one.lane], one.end)
    return list(np.clip(1.0 - busy / max(ended - begun, 1e-9), 0.0, 1.0).tolist())


def draw(material: Material) -> Spec | None:
    """Return the figure; None before there is a result."""
    work, names = timeline(material)
    if not work or max(one.end for one in work) <= 0:
        return None
    kept = [work[i] for i in thinned(len(work), MOST)]
    longest = max(one.end for one in work)
    unit, title = (3600.0, "hours") if longest >= 7200 else (60.0, "minutes") if longest >= 120 else (1.0, "seconds")
    traces: list[dict[str, Any]] = []
    for name, color, kinds in KINDS:
        mine = [one for one in kept if (one.status in kinds if kinds else one.status not in ("ok", "pruned"))]
        if not mine:
            continue
        texts = [f"trial {one.id}: {one.status.replace('_', ' ')}, {show_seconds(one.end - one.start)}" for one in mine]
        traces.append(
            {
                "type": "bar", "orientation": "h", "name": name,
                "base": np.array([one.start for one in mine]) / unit,
                "x": np.array([one.end - one.start for one in mine]) / unit, "y": [one.lane for one in mine],
                "marker": {"color": color, "line": {"width": 0.5, "color": "rgba(128,138,150,0.9)"}},
                "text": texts, "textposition": "none", "hovertemplate": "%{text}<extra></extra>", "width": 0.62,
                "meta": {"kind": "training"},
            }
        )  # fmt: skip
    rules = [
        {"type": "line", "x0": at / unit, "x1": at / unit, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": DEFAULT, "width": 1, "dash": "dash"}}
        for at in material.run.resumed[1:][:50] if 0 < at < LARGEST
    ]  # fmt: skip
    y = {
        "automargin": True,
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [safe(name, 20) for name in names],
    }
    y |= {"range": [len(names) - 0.4, -0.6], "showgrid": False}
    if len(names) > 30:
        y |= {"tickvals": [], "ticktext": []}
    height = 120 + max(26, min(30 * len(names), 480))
    x = {"title": {"text": f"{title} of work"}, "rangemode": "tozero"}
    return figure(traces, x, y, height=height, barmode="overlay", shapes=rules)


def part(material: Material) -> Part | None:
    """Return the part; None before there is a result."""
    found = draw(material)
    if found is None:
        return None
    work, names = timeline(material)
    shares = idle(work, len(names))
    again = " A dashed rule is where the run was resumed." if len(material.run.resumed) > 1 else ""
    return Part(
        "Slots",
        f"Each bar is a training; gaps are idle time, {np.mean(shares):.0%} of it in all. Idle slots at the end are "
        f"usual; gaps in between say that slots waited for results, memory or machines.{again}",
        [Drawn(found)],
        rows=[
            {"slot": name, "trainings": sum(one.lane == lane for one in work), "idle": f"{share:.0%}"}
            for lane, (name, share) in enumerate(zip(names[:50], shares, strict=False))
        ],
        rows_title="Idle time by slot",
        note=f"{MOST} of {len(work)} trainings are drawn." if len(work) > MOST else "",
    )
