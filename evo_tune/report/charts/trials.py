"""All trials as one table, which the page sorts, filters and shows a few rows at a time."""

import contextlib
import os
from typing import Any

import numpy as np

from evo_tune.genome.values import Value
from evo_tune.report.charts import Part
from evo_tune.report.run_data import RunData
from evo_tune.store.run_folders import TRIALS
from evo_tune.text import one_line
from evo_tune.trust import safe_files

POSITION = 120

# Most metrics with a column, besides the objectives.
MOST_METRICS = 12

# Longest error and longest value of a gene, in characters.
LONGEST = 160

# Files of a trial that a reader may want to open, the first one that exists.
LOGS = ("error.txt", "log.txt")


def columns(data: RunData) -> dict[str, list[Any]]:
    """Return the columns of the table by name, each with one value per trial; None where there is none.

    Pending trials are included. A gene with the name of another column is called 'NAME (gene)'.
    """
    candidates = list(data.run.candidates)
    outcomes = [data.run.outcomes.get(candidate.id) for candidate in candidates]

    def metric(name: str) -> list[Any]:
        return [_shorten(outcome.metrics.get(name)) if outcome else None for outcome in outcomes]

    ids, budgets = [candidate.id for candidate in candidates], [_shorten(candidate.budget) for candidate in candidates]
    errors = [_shorten(outcome.error or None) if outcome else None for outcome in outcomes]
    paths: dict[str, str] = {}  # of the logs, from the run's folder, by the name of the trial's folder
    with contextlib.suppress(OSError), safe_files.folder(data.run.folder, TRIALS) as descriptor:
        for name in os.listdir(descriptor):
            if log := next((log for log in LOGS if safe_files.exists(descriptor, name, log)), None):
                paths[name] = f"{TRIALS}/{name}/{log}"
    logs = [paths.get(f"{id:06d}") for id in ids]
    table: dict[str, list[Any]] = {
        "trial": ids,
        "status": [outcome.status if outcome else "pending" for outcome in outcomes],
        **{objective.metric: metric(objective.metric) for objective in data.run.objectives},
        **({"error": errors} if any(errors) else {}),
        "seconds": [_shorten(outcome.seconds) if outcome else None for outcome in outcomes],
        **({"log": logs} if any(logs) else {}),
        "generation": [candidate.generation for candidate in candidates],
        "operator": [candidate.operator for candidate in candidates],
        **({"budget": budgets} if set(budgets) != {1.0} else {}),
    }
    for name in data.genes:
        values = [_shorten(candidate.genome[name]) for candidate in candidates]
        table[f"{name} (gene)" if name in table else name] = values
    metrics = dict.fromkeys(name for outcome in outcomes if outcome for name in outcome.metrics if name not in table)
    return table | {name: metric(name) for name in list(metrics)[:MOST_METRICS]}


def _shorten(value: Value | None) -> Value | None:
    """Return a number with six significant digits, which the page needs fewer bytes for, or a text as a short line."""
    if isinstance(value, str):
        return one_line(value, LONGEST)
    return float(f"{value:.6g}") if isinstance(value, float) else value


def part(data: RunData) -> Part | None:
    """Return the part; None before the first trial."""
    table = columns(data)
    if not table["trial"]:
        return None
    best = data.result.best.id if data.result.best else None
    middle = data.objective.value(float(np.median(data.ranked_losses))) if len(data.ranked_losses) else 0.0
    bound = f"{data.metric}{'<' if data.objective.sign > 0 else '>'}{middle:.3g}"
    bold = " The recommended trial is bold." if best is not None else ""
    marked = [table["trial"].index(best)] if best is not None else []
    return Part(
        "Trials",
        f"Each row is a trial.{bold} A click on a column's name sorts by it, a second click reverses the order. The "
        f"filter keeps rows that contain all of its words; {bound} or status=failed compares a column.",
        table=table,
        marked=marked,
    )
