"""The verdict: the best against the default with errors, the best genome, and the commands that use it."""

import math

from evo_tune.report import summary
from evo_tune.report.charts import Command, Part
from evo_tune.report.run_data import RunData
from evo_tune.store.run_folders import run_reference
from evo_tune.text import show_decimals, show_error, show_value, with_plural

POSITION = 0


def part(data: RunData) -> Part | None:
    """Return the part."""
    run = data.run
    name = run_reference(run.folder)
    commands, rows = [], []
    if data.result.best is not None:
        why = "Print the genome, and the command that trains it if it is a script's; --format json is for --warm-start:"
        commands.append(Command(why, f"evo-tune best {name}"))
        if run.manifest.evaluator.startswith("bundled:"):
            commands.append(Command("Train it once more and keep the model:", f"evo-tune export {name} model"))
        best, default = data.result.best.genome, run.candidates[0].genome
        for gene in sorted(data.genes, key=lambda gene: best[gene] == default[gene]):
            default_text = "the same" if best[gene] == default[gene] else show_value(default[gene])
            rows.append({"gene": gene, "best": show_value(best[gene]), "default": default_text})
    first = "" if len(run.objectives) == 1 else f" on {data.metric}"
    rows_title = f"The best genome{first} beside the default"
    return Part(_title(data), _explanation(data), (), _facts(data), commands, rows, rows_title, rows_open=True)


def _title(data: RunData) -> str:
    """Return the verdict in a few words."""
    result = data.result
    if result.best is None:
        return "No full training has a value yet"
    if len(data.run.objectives) > 1:
        return f"{with_plural(len(summary.pareto_front(data.run)), 'trial')} on the Pareto front"
    if result.default is not None and result.best.id == result.default.id:
        return "Nothing beat the default"
    if result.beaten is None:
        return f"Trial {result.best.id} leads, perhaps by luck"
    title = f"Trial {result.best.id} beats the default" if result.beaten else "Nothing clearly beats the default"
    ignores_seeds = result.comparison is not None and result.comparison.ignores_seeds
    return f"{title} in one training: the script ignores seeds" if ignores_seeds else title


def _explanation(data: RunData) -> str:
    result = data.result
    first = "the objective" if len(data.run.objectives) == 1 else "the first objective"
    verdicts = [summary.verdict(result)]
    if result.baseline is not None:
        verdicts.append(summary.baseline_verdict(result.baseline))
    sentences = [f"{text[:1].upper()}{text[1:]}." for text in verdicts]
    sentences.insert(1, f"{data.metric} is {first}: {'lower' if data.objective.sign > 0 else 'higher'} is better.")
    explanation = " ".join(sentences)
    if result.gain_error > 0.0:
        explanation += " Numbers after ± are standard errors over fresh seeds, not over other data; t test at 5% means "
        explanation += "that at most 5% of the runs without a gain say by mistake that the best beats the default."
    if result.on_test_set:
        explanation += f" {result.reported_metric} is {result.metric} on the test set, which had no part in the search."
    return explanation


def _facts(data: RunData) -> dict[str, str]:
    """Return the results in a few numbers, by name."""
    result, run = data.result, data.run
    facts = {}
    for name, trial, row, seeds in result.compared:
        metric, value = result.reported_metric, summary.show_fresh_values(row)
        if row is None:
            metric, value = result.metric, f"{trial.outcome.metrics[result.metric]:.5g} (n={seeds})"
        facts[f"{name}: {metric} (trial {trial.id})"] = value
    if result.baseline is not None:
        facts[f"{result.baseline.name}: {result.baseline.metric}"] = show_value(result.baseline.value)
    if not math.isnan(result.gain) and result.best and result.default and result.best.id != result.default.id:
        facts["gain over the default"] = f"{show_decimals(result.gain)}{show_error(result.gain_error)}"
    counts = {"failed": result.failures, "pruned": result.pruned}
    remarks = [f"{count} {name}" for name, count in counts.items() if count]
    facts["evaluations"] = f"{result.results}" + (f" ({', '.join(remarks)})" if remarks else "")
    if line := summary.pruning_line(run):
        facts["pruning"] = line.removeprefix("pruning ")
    if run.widened:
        facts["widened ranges"] = ", ".join(f"{name} {text}" for name, text in summary.present_ranges(run).items())
    return facts
