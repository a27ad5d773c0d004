"""What a run is doing at this moment: its slots, the curves in flight, the last results, and the end as it is foretold.

From the run's folder alone, so from any process and any machine that sees it; nothing is locked and nothing written.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from evo_tune.report.charts.curves import curves, shown_metric
from evo_tune.report.drawing import BEST, DEFAULT, SERIES, Spec, figure, safe
from evo_tune.report.material import LARGEST, Material
from evo_tune.report.part import Drawn, Part
from evo_tune.report.words import show_seconds, show_value
from evo_tune.store.heartbeat import Beat, last_beat
from evo_tune.store.inflight import Curve, in_flight

__all__ = ["foretold", "left", "now", "state"]

LAST = 6
"""Results that are told."""

ENOUGH = 5
"""Fewest finished trainings from which the end of another is foretold."""


def state(material: Material, beat: Beat | None) -> str:
    """Return in a line what a run is doing, and when it may end."""
    run = material.run
    done = f"{len(run.outcomes)} of {len(run.candidates)} births have a result"
    if run.ended is not None:
        return f"Ended: {run.ended}. {done}."
    if beat is None or not beat.alive:
        return f"Not running now. {done}; the last event was {show_seconds(time.time() - run.last_event)} ago."
    seconds = left(material, len(beat.slots))
    if math.isnan(seconds):
        return f"Running. {done}."
    clock = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    return f"Running. {done}; by the trainings so far about {show_seconds(seconds)} are left, until {clock}."


def left(material: Material, slots: int) -> float:
    """Return the seconds until a run's limit, by the mean of its trainings so far; NaN where it cannot be told."""
    run = material.run
    if not run.sessions or not run.outcomes or not slots:
        return math.nan
    session = run.sessions[-1]
    births = session.births(run.manifest.population)
    until = math.inf if session.hours is None else session.hours * 3600 - run.seconds
    more = max(0.0, births - sum(candidate.fresh for candidate in run.candidates))
    more += len(run.candidates) - len(run.outcomes) + (1 + session.calibrate_best) * session.calibrate
    mean = sum(outcome.seconds for outcome in run.outcomes.values()) / len(run.outcomes)
    seconds = min(until, mean * more / slots)
    return max(0.0, seconds) if seconds < 1e9 else math.nan


def foretold(material: Material, curve: Curve, metric: str) -> tuple[float, float, float] | None:
    """Return what a training in flight may end at: the middle, and bounds of four fifths.

    By how finished trainings went on from the same share of theirs. None where too few got there, or it has not begun.
    """
    told = [(x, m[metric]) for x, m in curve if m.get(metric) is not None]
    if not told:
        return None
    at, value = told[-1]
    ends = []
    for one in curves(material):
        if one.trial.rankable and one.x[0] <= at <= one.x[-1]:
            ends.append(float(one.y[-1]) - float(np.interp(at, one.x, one.y)))
    if len(ends) < ENOUGH or value is None or abs(value) > LARGEST:
        return None
    low, middle, high = np.quantile(ends, [0.1, 0.5, 0.9])
    return value + float(middle), value + float(low), value + float(high)


def now(material: Material) -> tuple[str, Part]:
    """Return what a run is doing, in a line and as a part of its page."""
    folder = material.run.folder
    beat = None if material.run.ended is not None else last_beat(folder)
    flying = in_flight(folder) if beat is not None and beat.alive else {}
    flying = {id: curve for id, curve in flying.items() if id not in material.run.outcomes}
    metric = shown_metric(material) or material.metric
    rows = _slots(material, beat, flying, metric)
    drawn = _drawn(material, flying, metric)
    return state(material, beat), Part(
        "Now",
        f"First the last results in {material.metric}, the newest at the left; then what each slot is training, how "
        "far its curve has come, and where finished trainings foretell its end: four fifths of them went on within "
        "the bounds."
        if rows
        else f"No slot is at work. The last results in {material.metric}, the newest at the left:",
        [] if drawn is None else [Drawn(drawn, f"{metric}: in flight, beside the best so far")],
        facts=_last(material),
        rows=rows,
        rows_title="Slots",
        rows_open=True,
    )


def _slots(material: Material, beat: Beat | None, flying: dict[int, Curve], metric: str) -> list[dict[str, Any]]:
    if beat is None or not beat.alive:
        return []
    rows = []
    for busy in beat.slots:
        id = next((id for id in flying if busy.what.split(" (")[0] == f"trial {id}"), None)
        curve = flying.get(id, ()) if id is not None else ()
        end = foretold(material, curve, metric)
        here = curve[-1][1].get(metric) if curve else None
        rows.append(
            {
                "slot": busy.slot,
                "device": busy.device,
                "at work on": busy.what or "waits",
                "for": show_seconds(busy.seconds + beat.age),
                "done": f"{curve[-1][0]:.0%}" if curve else "",
                f"{metric} so far": show_value(here) if here is not None else "",
                "foretold end": "" if end is None else f"{end[0]:.4g} ({min(end[1:]):.4g} to {max(end[1:]):.4g})",
            }
        )
    return rows


def _drawn(material: Material, flying: dict[int, Curve], metric: str) -> Spec | None:
    traces: list[dict[str, Any]] = []
    for number, (id, curve) in enumerate(sorted(flying.items())[:12]):
        points = [(x, m[metric]) for x, m in curve if m.get(metric) is not None]
        if points:
            x, y = zip(*points, strict=True)
            mode = "lines+markers" if len(points) < 30 else "lines"
            traces.append(_line(x, y, f"trial {id}", SERIES[number % 5], mode=mode))
    if not traces:
        return None
    done = curves(material)
    for name, trial, color in (("default", material.default, DEFAULT), ("best", material.best, BEST)):
        mine = [one for one in done if trial is not None and one.trial.id == trial.id]
        traces += [_line(one.x, one.y, name, color, dash="dot") for one in mine]
    across = {"title": {"text": "share of a full training"}, "tickformat": ".0%", "range": [0, 1.02]}
    return figure(traces, across, safe(metric), height=260)


def _line(x: Any, y: Any, name: str, color: str, dash: str = "solid", mode: str = "lines") -> dict[str, Any]:
    line = {"color": color, "width": 2, "dash": dash}
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "name": name, "line": line, "meta": {"kind": "flying"}}


def _last(material: Material) -> dict[str, str]:
    """Return the last results, the newest first."""
    found = {}
    for id in material.run.recorded[: -LAST - 1 : -1]:
        trial = material.by_id[id]
        value = show_value(material.objective.value(trial.losses[0])) if trial.losses else trial.outcome.status
        found[f"trial {id}"] = value
    return found
