"""All trials as one table, which the page sorts, filters and shows a few rows at a time."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from evo_tune.genome.trial import Outcome
from evo_tune.genome.values import Value
from evo_tune.report.charts import Part, Table
from evo_tune.report.run_data import RunData
from evo_tune.store.places import TRIALS
from evo_tune.text import one_line
from evo_tune.trust import inside

PLACE = 120

MOST_METRICS = 12
"""Most metrics with a column, besides the objectives."""

LONGEST = 160
"""Longest error and longest value of a gene, in characters."""

LOGS = ("error.txt", "log.txt")
"""Files of a trial that a reader may want to open, the first one that exists."""


def columns(data: RunData) -> dict[str, list[Any]]:
    """Return the columns of the table by name, each with one value per trial; None where there is none.

    Pending trials are included. A gene with the name of another column is called 'NAME (gene)'.
    """
    run = data.run
    trials, outcomes = list(run.candidates), run.outcomes
    ended = [outcomes.get(trial.id) for trial in trials]
    found: dict[str, list[Any]] = {
        "trial": [trial.id for trial in trials],
        "status": [one.status if one else "pending" for one in ended],
    }
    found |= {one.metric: _metric(ended, one.metric) for one in run.objectives}
    found |= {
        "error": [one_line(one.error, LONGEST) if one and one.error else None for one in ended],
        "seconds": [_short(one.seconds) if one else None for one in ended],
        "log": _logs(data, [trial.id for trial in trials]),
        "generation": [trial.generation for trial in trials],
        "operator": [trial.operator for trial in trials],
        "budget": [_short(trial.budget) for trial in trials],
    }
    if all(trial.budget == 1.0 for trial in trials):
        del found["budget"]
    for name in ("error", "log"):
        if not any(found[name]):
            del found[name]
    for name in data.genes:
        found[f"{name} (gene)" if name in found else name] = [_value(trial.genome[name]) for trial in trials]
    others = dict.fromkeys(name for one in ended if one for name in one.metrics if name not in found)
    return found | {name: _metric(ended, name) for name in list(others)[:MOST_METRICS]}


def _metric(ended: list[Outcome | None], name: str) -> list[float | None]:
    return [_short(one.metrics.get(name)) if one else None for one in ended]


def _short(value: float | None) -> float | None:
    """Return a number with six significant digits, which the page needs fewer bytes for."""
    return None if value is None else float(f"{value:.6g}")


def _value(value: Value) -> Value:
    if isinstance(value, str):
        return one_line(value, LONGEST)
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _logs(data: RunData, ids: list[int]) -> list[str | None]:
    """Return the path of each trial's log from the run's folder; None for a trial without one."""
    found: dict[str, str] = {}
    try:
        with inside.folder(data.run.folder, TRIALS) as at:
            for name in os.listdir(at):
                log = next((log for log in LOGS if inside.exists(at, name, log)), None)
                if log is not None:
                    found[name] = f"{TRIALS}/{name}/{log}"
    except OSError:
        return [None] * len(ids)
    return [found.get(f"{id:06d}") for id in ids]


def part(data: RunData) -> Part | None:
    """Return the part; None before the first trial."""
    found = columns(data)
    if not found["trial"]:
        return None
    best = data.best.id if data.best else None
    middle = float(np.median(data.values)) if len(data.values) else 0.0
    bound = f"{data.metric}{'<' if data.objective.sign > 0 else '>'}{middle:.3g}"
    said = " The recommended trial is bold." if best is not None else ""
    return Part(
        "Trials",
        f"Each row is a trial.{said} A click on a column's name sorts by it, a second click reverses the order. The "
        f"filter keeps rows that contain all of its words; {bound} or status=failed compares a column.",
        table=Table(
            found, choice="status", links="log", marked=[found["trial"].index(best)] if best is not None else []
        ),
    )
