"""Advice: ranges to widen, failures and their fixes, and whether more trials are likely to improve the result.

Each recommendation follows from counts that it states; a run with too few results gets none.
"""

import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from evo_tune.genome.notation import format_gene, format_hints
from evo_tune.genome.widening import ENDS, widen_end
from evo_tune.report import summary
from evo_tune.report.charts import Command, Part
from evo_tune.report.run_data import RunData, is_unordered
from evo_tune.report.summary import DONE_CHANCE, describe_more_trials, predict_next_generation
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference
from evo_tune.text import one_line, show_value

POSITION = 10

# Fewest genomes with a value, or evaluations, for a recommendation.
MIN_TRIALS = 12

# Distance from the end of a range, in unit coordinates, that counts as being at the end.
END_MARGIN = 0.03

FIXES = {
    "diverged": "a smaller learning rate, a longer warmup, or clipping",
    "out_of_memory": "smaller models or batches, or fewer trainings on a GPU at once (--per-device 1)",
    "timeout": "a longer --timeout, or a space without slow values",
    "crashed": "its log.txt under _trials says why the process died; --retries 1 tries again",
    "failed": "`evo-tune evaluate -g NAME=VALUE …` runs one genome alone and prints the exception",
}


@dataclass(frozen=True)
class AtEnd:
    """A gene whose best values are at an end of its range.

    Args:
        description: The value and how many of the best trials are at that end.
        wider: The gene with a wider range, as `--gene` takes it.
    """

    description: str
    wider: str


def part(data: RunData) -> Part | None:
    """Return the part; None without a recommendation."""
    commands = advice(data)
    explanation = "Based on counts in this run, the most useful first."
    return Part("What to do next", explanation, commands=commands) if commands else None


def advice(data: RunData, running: bool = False) -> list[Command]:
    """Return the recommendations, the most useful first.

    Args:
        data: The run.
        running: Whether the run is known to be running, so that it needs no command that continues it.
    """
    if running:
        return [*_failures(data)]
    steps = [*_wider_ranges(data), *_failures(data), *_whether_to_continue(data)]
    if data.run.ended is None:
        why = "When this was written the run had not ended: it was still running, or it was killed. To continue it:"
        steps.insert(0, Command(why, f"evo-tune resume {run_reference(data.run.folder)}"))
    return steps


# Ranges to widen.


def genes_at_range_ends(data: RunData) -> dict[str, AtEnd]:
    """Return the genes whose best values are at an end of their range that the run does not widen by itself."""
    genes: dict[str, AtEnd] = {}
    if len(data.ranked_trials) < MIN_TRIALS:
        return genes
    count = max(5, math.ceil(0.1 * len(data.ranked_trials)))
    limits = data.run.manifest.limits
    for name, gene in data.genes.items():
        if gene.size == 1 or is_unordered(gene):
            continue
        units = data.ranked_units[:, data.gene_indices[name]]
        margin = END_MARGIN if gene.size == math.inf else 0.51 / min(gene.size, 1e6)
        for end, is_at_end in zip(ENDS, (units <= margin, units >= 1.0 - margin), strict=True):
            wide = widen_end(gene, end)
            widens_by_itself = name in limits and widen_end(gene, end, limits[name]) is not None
            if not is_at_end[0] or wide is None or widens_by_itself:  # None: a natural end
                continue
            value, trials = show_value(data.ranked_trials[0].genome[name]), int(is_at_end[:count].sum())
            are = "is" if trials == 1 else "are"
            description = f"{name} ({trials} of the best {count} trials {are} at its {end} end, {value})"
            bare = replace(wide, default=None, prior=None, spread=None, when=None, widest=None)  # type: ignore[type-var]
            # Genes from a file keep their defaults when they are widened; a command's have only what is typed.
            hints = format_hints(gene) if data.run.manifest.evaluator.startswith("command:") else ""
            genes[name] = AtEnd(description, f"{name}={format_gene(bare)}{hints}")
    return genes


def range_end_lines(run: Run) -> list[str]:
    """Return a line for each gene whose best values are at an end of its range, with the command that widens it."""
    ends = genes_at_range_ends(RunData(run)).values()
    return [f"at an end of its range: {end.description}; `{_widening_command(run, [end])}` widens it" for end in ends]


def _widening_command(run: Run, genes: Iterable[AtEnd]) -> str:
    """Return the command that continues a run in wider ranges."""
    flags = " ".join(f"--gene {shlex.quote(gene.wider)}" for gene in genes)
    return f"evo-tune resume {run_reference(run.folder)} {flags} {summary.flag_to_continue(run)}"


def _wider_ranges(data: RunData) -> Iterator[Command]:
    if genes := genes_at_range_ends(data):
        ends = ", ".join(gene.description for gene in genes.values())
        why = f"At an end of its range: {ends}. Better values may be beyond it. To continue with all results so far:"
        yield Command(why, _widening_command(data.run, genes.values()))


# Failures.


def _failures(data: RunData) -> Iterator[Command]:
    """Yield each cause of failures with its count and what may help."""
    for cause, ids in summary.failures_by_cause(data.run)[: summary.MOST_FAILURES]:
        text = f"{len(ids)} of {len(data.trials)} evaluations ended as {one_line(cause, 200).rstrip('.')}"
        remedy = FIXES.get(data.run.outcomes[ids[0]].status, "see the error")
        yield Command(f"{text} (such as trial {ids[0]}). What may help: {remedy}.")


# Whether to continue.


def _whether_to_continue(data: RunData) -> Iterator[Command]:
    """Yield whether more trials are likely to help, if that can be predicted."""
    run = data.run
    if len(run.outcomes) < MIN_TRIALS or (prediction := predict_next_generation(run)) is None:
        return
    judgement = "whether to continue depends on the cost of a training."
    if prediction.chance < DONE_CHANCE:
        judgement = "more trials are likely to gain little. Widen the space, or start again. To continue anyway:"
    elif prediction.chance > 0.5:
        judgement = "continue."
    command = f"evo-tune resume {run_reference(run.folder)} {summary.flag_to_continue(run)}"
    yield Command(f"From the losses so far, {describe_more_trials(prediction)}: {judgement}", command)
