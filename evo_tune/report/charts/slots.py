"""Slots: what each device trained and when, and its idle time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.report import charts
from evo_tune.report.charts import SERIES, CaptionedFigure, Color, Part, Spec
from evo_tune.report.run_data import MAX_ABSOLUTE_LOSS, RunData
from evo_tune.text import show_seconds

POSITION = 100

# Most trainings drawn: the last ones, since a gap between two bars is idle time only if none is left out.
MOST = 400

# Most slots with a label.
MOST_NAMES = 30

# Names and colours of trainings by status; '' stands for all other statuses.
KINDS = {"ok": ("trained", Color.OTHERS), "pruned": ("pruned", Color.PRUNED), "": ("failed", SERIES[5])}

# Seconds by which trainings in one slot may overlap, because recording a result takes a moment.
SLACK = 0.25


@dataclass(frozen=True)
class Work:
    """A training in its slot.

    Args:
        id: Id of the trial.
        slot: Number of the slot, from 0.
        start: Start, in seconds of the run's working time.
        end: Time of its result, likewise.
        status: Status of the result.
    """

    id: int
    slot: int
    start: float
    end: float
    status: str


def timeline(data: RunData) -> tuple[list[Work], list[str]]:
    """Return all trainings in their slots, ordered by start, and the names of the slots.

    The journal has the time of each result, the duration and the device of its training, but not its slot. The
    trainings of a device are therefore placed into as few slots as possible.
    """
    run = data.run
    trainings = []
    for id in run.recorded:
        outcome, end = run.outcomes[id], run.finished[id]
        if math.isfinite(end) and abs(end) < MAX_ABSOLUTE_LOSS and 0 <= outcome.seconds < MAX_ABSOLUTE_LOSS:
            trainings.append((max(0.0, end - outcome.seconds), end, id, outcome.device, outcome.status))
    devices: list[str] = []
    ends: list[float] = []  # of the last training of each slot
    work = []
    for start, end, id, device, status in sorted(trainings):
        free = [slot for slot, name in enumerate(devices) if name == device and ends[slot] <= start + SLACK]
        if not free:
            free = [len(devices)]
            devices.append(device)
            ends.append(end)
        slot = max(free, key=ends.__getitem__)  # the one with the shortest gap
        ends[slot] = end
        work.append(Work(id, slot, start, end, status))
    numbers = [devices[: slot + 1].count(device) for slot, device in enumerate(devices)]
    return work, [f"{device or 'slot'} #{number}" for device, number in zip(devices, numbers, strict=True)]


def idle_shares(work: Sequence[Work], slots: int) -> list[float]:
    """Return the idle share of each slot's time, from the first start to the last end."""
    first_start, last_end = min(training.start for training in work), max(training.end for training in work)
    busy = np.zeros(slots)
    busy_until = np.full(slots, first_start)
    for training in work:
        busy[training.slot] += max(0.0, training.end - max(training.start, busy_until[training.slot]))
        busy_until[training.slot] = max(busy_until[training.slot], training.end)
    return np.clip(1.0 - busy / max(last_end - first_start, 1e-9), 0.0, 1.0).tolist()  # type: ignore[no-any-return]


def draw(data: RunData) -> Spec | None:
    """Return the figure; None before the first result."""
    work, names = timeline(data)
    longest = max((training.end for training in work), default=0.0)
    if longest <= 0:
        return None
    shown = work[-MOST:]
    first = min(training.start for training in shown) if len(work) > MOST else 0.0
    unit, title = charts.time_unit(longest)
    traces = []
    for status, (name, color) in KINDS.items():
        group = [training for training in shown if (training.status if training.status in KINDS else "") == status]
        texts = [
            f"trial {training.id}: {training.status.replace('_', ' ')}, {show_seconds(training.end - training.start)}"
            for training in group
        ]
        starts, ends = (np.array([getattr(training, edge) for training in group]) / unit for edge in ("start", "end"))
        marker = {"color": color, "line": {"width": 0.5, "color": "rgba(128,138,150,0.9)"}}
        style = {"type": "bar", "orientation": "h", "width": 0.62, "textposition": "none", "marker": marker}
        bars = {"base": starts, "x": ends - starts, "y": [training.slot for training in group], "text": texts}
        if group:
            traces.append({"name": name, "hovertemplate": "%{text}<extra></extra>", **style, **bars})
    resumed = (seconds / unit for seconds in data.run.resumed[1:][:50] if first < seconds < MAX_ABSOLUTE_LOSS)
    y_axis = {**charts.names_axis(names, 20), "showgrid": False}
    if len(names) > MOST_NAMES:
        y_axis |= {"tickvals": [], "ticktext": []}
    return charts.figure(
        traces,
        charts.axis(f"{title} of work", range=[first / unit, 1.01 * longest / unit]),
        y_axis,
        height=120 + max(26, min(30 * len(names), 480)),
        barmode="overlay",
        shapes=charts.vertical_lines(resumed),
    )


def part(data: RunData) -> Part | None:
    """Return the part; None before the first result."""
    figure = draw(data)
    if figure is None:
        return None
    work, names = timeline(data)
    shares = idle_shares(work, len(names))
    counts = Counter(training.slot for training in work)
    resumed = " A dashed line shows where the run was resumed." if len(data.run.resumed) > 1 else ""
    explanation = (
        f"Each bar is a training; gaps are idle time, {np.mean(shares):.0%} in all. Idle slots at the end are normal; "
        f"in other gaps the slot waited for results, memory or machines.{resumed}"
    )
    rows = [
        {"slot": names[slot], "trainings": counts[slot], "idle": f"{shares[slot]:.0%}"}
        for slot in range(min(50, len(names)))
    ]
    note = f"The last {MOST} of {len(work)} trainings are drawn." if len(work) > MOST else ""
    return Part("Slots", explanation, [CaptionedFigure(figure)], rows=rows, rows_title="Idle time by slot", note=note)
