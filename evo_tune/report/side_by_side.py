"""Several runs on one page: which best genome is better, what differs between the runs, and their progress together.

The best genomes are compared over the fresh seeds of the final comparisons. Runs with the same `--seed` share these
seeds and are compared seed by seed, others by Welch's test (see `verdict`). Where the final comparisons share no
metric, the page says so and compares nothing.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from msgspec import to_builtins

from evo_tune.genome.notation import format_gene
from evo_tune.report.charts import Part, history, side_by_side
from evo_tune.report.inference import HARMFUL, REAL
from evo_tune.report.recommendation import comparison_objective
from evo_tune.report.run_data import RunData
from evo_tune.report.verdict import Losses, VariantVerdict, Verdict, give_verdict
from evo_tune.text import show_decimals, show_error, show_value

# First columns of the tables; the others have the names of the runs.
SETTING, GENE = "setting", "gene"


def comparison_parts(runs: Sequence[RunData]) -> dict[str, Part]:
    """Return the parts that compare runs, by name; a run whose name is taken gets a number after it."""
    taken = {SETTING, GENE}
    for data in runs:
        names = (data.run.name, *(f"{data.run.name} ({number})" for number in range(2, len(runs) + 2)))
        data.name = next(name for name in names if name not in taken)
        taken.add(data.name)
    settings = {data.name: _settings(data) for data in runs}
    genomes = {data.name: data.result.best.genome if data.result.best else {} for data in runs}
    values = {run: {name: show_value(value) for name, value in genome.items()} for run, genome in genomes.items()}
    parts = {
        "verdict": _verdict_part(runs),
        "settings": _difference_part(SETTING, settings, "Settings"),
        "genome": _difference_part(GENE, values, "Genes of the recommended trials"),
    }
    if (curves := _history_part(runs)) is not None:
        parts["history"] = curves
    return parts


# The best genomes against each other.


def compare_best(runs: Sequence[RunData]) -> tuple[Verdict | None, list[str]]:
    """Return the best genomes of runs against that of the first, over the fresh seeds of their final comparisons.

    Returns:
        The verdict, by the runs' names; None without two runs that share a metric. And why runs are left out, in
        sentences.
    """
    losses: dict[str, Losses] = {}
    objective, reasons = comparison_objective(runs[0].run), []
    for data in runs:
        fresh, own_objective = data.result.fresh_best, comparison_objective(data.run)
        if fresh is None or not fresh.values:
            reasons.append(f"{data.name} has no complete final comparison, so no values over fresh seeds.")
            continue
        objective = objective if losses else own_objective
        if own_objective != objective:
            own, other = (f"{wanted.metric}:{wanted.direction}" for wanted in (own_objective, objective))
            reasons.append(f"The final comparison of {data.name} measured {own}, not {other}.")
            continue
        pairs = zip(fresh.seeds, fresh.values, strict=True)
        losses[data.name] = {str(seed): objective.sign * value for seed, value in pairs}
    return (give_verdict(losses, next(iter(losses)), objective) if len(losses) > 1 else None), reasons


def _verdict_part(runs: Sequence[RunData]) -> Part:
    verdict, reasons = compare_best(runs)
    if verdict is None:
        sentences = [*reasons, "So the best genomes share no metric over fresh seeds and cannot be compared."]
        return Part("Not comparable", " ".join(sentences))
    sentences = [describe_difference(variant, verdict) for variant in verdict.variants]
    return Part("Which best genome is better", " ".join([*sentences, *reasons]))


def describe_difference(variant: VariantVerdict, verdict: Verdict) -> str:
    """Return in a sentence by how much a run's best is better than that of the first run, and how that was tested."""
    name, baseline = variant.variant, verdict.baseline
    if not variant.gain:
        return f"{name} is as good as {baseline} by mean {verdict.metric} over fresh seeds."
    difference = f"{show_decimals(abs(variant.gain))}{show_error(variant.error)}"
    text = f"{name} is {difference} {'better' if variant.gain > 0.0 else 'worse'} than {baseline}"
    text += f" by mean {verdict.metric} over fresh seeds, {show_value(variant.mean)} against"
    text += f" {show_value(verdict.baseline_mean)}"
    if variant.error is None:
        return f"{text}; a run with one fresh seed gives no standard error, so this may be luck."
    how = f"paired over {variant.pairs} fresh seeds" if variant.pairs else "Welch's test, since their seeds differ"
    clear = "not clear" if variant.verdict not in (REAL, HARMFUL) else "clear"
    correction = f", corrected for {len(verdict.variants)} comparisons" if len(verdict.variants) > 1 else ""
    p = "p < 0.001" if variant.p is not None and variant.p < 0.001 else f"p = {variant.p:.2g}"
    return f"{text} ({how}): {clear}, {p}{correction}."


# What differs.


def _difference_part(first: str, columns: Mapping[str, Mapping[str, str]], title: str) -> Part:
    """Return a part with the rows whose values are not the same in all columns; the first cell has the row's name."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = {name: {run: column.get(name, "-") for run, column in columns.items()} for name in names}
    different = [{first: name, **row} for name, row in rows.items() if len(set(row.values())) > 1]
    if not different:
        return Part(f"No {first} differs", "All are the same in the runs.")
    explanation = "Those that are the same in all runs are left out."
    return Part(f"{title} that differ", explanation, rows=different, rows_title=title, rows_open=True)


def _settings(data: RunData) -> dict[str, str]:
    """Return what a user chose for a run, and its data, code and versions, as text by name."""
    manifest = data.run.manifest
    names = ("evaluator", "evaluator_hash", "fingerprint", "objectives", "subject_to", "strategy", "threads")
    groups = {
        "run's": {name: getattr(manifest, name) for name in names},
        "option": manifest.options,
        "strategy option": manifest.strategy_options,
        "setting": {**to_builtins(manifest.settings), **data.run.session.to_json()},
        "gene": {name: format_gene(gene) for name, gene in manifest.genes().items()},
        "version": manifest.versions,
    }
    return {f"{kind} {name}": str(value) for kind, row in groups.items() for name, value in row.items()}


# Progress.


def _history_part(runs: Sequence[RunData]) -> Part | None:
    """Return the curves of the runs with the first objective of the first one; None without any."""
    objective = runs[0].run.manifest.objectives[0]
    drawn = [data for data in runs if data.run.manifest.objectives[0] == objective]
    figures = side_by_side((f"By {history.TITLES[by]}", history.draw(drawn, by)) for by in get_args(history.By))
    if not figures:
        return None
    explanation = "The best value so far of each run in the search. Evaluations show which run learns most from each "
    explanation += "trial, cost shows what a full training buys, and time shows how long you wait."
    others = ", ".join(data.name for data in runs if data not in drawn)
    notes = [f"Not drawn, as the first objective is another one: {others}."] if others else []
    if len({data.run.manifest.evaluator for data in runs}) > 1:
        notes.append("The runs have different evaluators or commands: their curves mean the same if their metrics do.")
    return Part("Best value so far", explanation, figures, note=" ".join(notes))
