"""The verdict: the best against the default with errors, the best genome, and the commands that use it."""

from __future__ import annotations

import math
from typing import Any

from evo_tune.report.charts import Command, Part
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import baseline_verdict, pareto_front, present_ranges, show_fresh_values, verdict
from evo_tune.store.places import as_typed
from evo_tune.text import counted, show_value

PLACE = 0


def part(data: RunData) -> Part | None:
    """Return the part."""
    end, run = data.result, data.run
    facts = {}
    for name, trial, row in (("best", end.best, end.fresh_best), ("default", end.default, end.fresh_default)):
        if trial is not None:
            value = show_fresh_values(row) if row is not None else f"{trial.outcome.metrics[end.metric]:.5g}"
            facts[f"{name}: {end.metric if row is None else end.reported_metric} (trial {trial.id})"] = value
    if end.baseline is not None:
        known = "-" if end.baseline.value is None else f"{end.baseline.value:.5g}"
        facts[f"{end.baseline.name}: {end.baseline.metric}"] = known
    error = "" if math.isnan(end.gain_error) else f" ± {end.gain_error:.2g}"
    if not math.isnan(end.gain) and end.best is not None and end.default is not None and end.best.id != end.default.id:
        facts["gain over the default"] = f"{end.gain:.4g}{error}"
    others = [f"{count} {name}" for name, count in (("failed", end.failures), ("pruned", end.pruned)) if count]
    facts["evaluations"] = f"{end.results}" + (f" ({', '.join(others)})" if others else "")
    if run.widened:
        facts["widened ranges"] = ", ".join(f"{name} {text}" for name, text in present_ranges(run).items())
    said = verdict(end)
    first = "the objective" if len(run.objectives) == 1 else "the first objective"
    said = f"{said[:1].upper()}{said[1:]}. {data.metric} is {first}: {data.better_direction} is better."
    if end.baseline is not None:
        beside = baseline_verdict(end.baseline)
        said += f" {beside[:1].upper()}{beside[1:]}."
    if error:
        said += " Numbers after ± are standard errors over fresh seeds."
    if end.on_test_set:
        said += f" {end.reported_metric} is {end.metric} on the test set, which had no part in the search."
    on = "" if len(run.objectives) == 1 else f" on {data.metric}"
    return Part(
        _title(data),
        said,
        facts=facts,
        commands=_commands(data),
        rows=_rows(data),
        rows_title=f"The best genome{on} beside the default",
        rows_open=True,
    )


def _title(data: RunData) -> str:
    """Return the verdict in a few words."""
    end, run = data.result, data.run
    if end.best is None:
        return "No full training has a value yet"
    if len(run.objectives) > 1:
        return f"{counted(len(pareto_front(run)), 'trial')} on the Pareto front"
    if end.default is not None and end.best.id == end.default.id:
        return "Nothing beat the default"
    if end.beaten is None:
        return f"Trial {end.best.id} leads, perhaps by luck"
    return f"Trial {end.best.id} beats the default" if end.beaten else "Nothing clearly beats the default"


def _commands(data: RunData) -> list[Command]:
    if data.best is None:
        return []
    name = as_typed(data.run.folder)
    why = "Print the genome, for a program or for --warm-start of another run:"
    found = [Command(why, f"evo-tune best {name} --format json")]
    if data.run.manifest.evaluator.startswith("bundled:"):
        found.append(Command("Train it once more and keep the model:", f"evo-tune export {name} model"))
    return found


def _rows(data: RunData) -> list[dict[str, Any]]:
    """Return the genes of the best and of the default, first those that differ."""
    best, candidates = data.best, data.run.candidates
    if best is None or not candidates:
        return []
    default = candidates[0].genome
    alike = {name: best.genome[name] == default[name] for name in data.genes}
    return [
        {
            "gene": name,
            "best": show_value(best.genome[name]),
            "default": "the same" if alike[name] else show_value(default[name]),
        }
        for name in sorted(alike, key=lambda name: alike[name])
    ]
