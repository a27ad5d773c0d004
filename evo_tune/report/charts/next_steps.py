"""Advice: ranges to widen, failures and their fixes, and whether more trials are likely to improve the result.

Each recommendation follows from counts that it states; a run with too few results gets none.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo_tune.genome.notation import format_gene, format_hints
from evo_tune.genome.trial import Trial
from evo_tune.genome.widening import ENDS, End, widen_end
from evo_tune.report import summary
from evo_tune.report.charts import Command, Part
from evo_tune.report.run_data import RunData, is_unordered
from evo_tune.report.summary import DONE_CHANCE, MoreTrials, describe_more_trials, predict_next_generation
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run
from evo_tune.text import one_line, printable, show_seconds, show_value

PLACE = 10

ENOUGH = 12
"""Fewest genomes with a value, or evaluations, for a recommendation."""

NEAR = 0.03
"""Distance from the end of a range, in unit coordinates, that counts as being at the end."""

CLEAR = 0.6
"""Least difference between the shares of failed and of successful trials beyond a bound that is reported."""

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


def part(data: RunData, running: bool = False) -> Part | None:
    """Return the part; None without a recommendation."""
    commands = advice(data, running)
    if not commands:
        return None
    return Part("What to do next", "Based on counts in this run, the most useful first.", commands=commands)


def advice(data: RunData, running: bool = False) -> list[Command]:
    """Return the recommendations, the most useful first.

    Args:
        data: The run.
        running: Whether the run is known to be running, so that it needs no command that continues it.
    """
    if running:
        return [*_failures(data)]
    return [*_unended(data), *_ends(data), *_failures(data), *_going_on(data)]


def _unended(data: RunData) -> Iterator[Command]:
    if data.run.ended is None:
        yield Command(
            "When this was written the run had not ended: it was still running, or it was killed. To continue it:",
            f"evo-tune resume {as_typed(data.run.folder)}",
        )


# Ranges to widen.


def genes_at_range_ends(data: RunData) -> dict[str, AtEnd]:
    """Return the genes whose best values are at an end of their range that the run does not widen by itself."""
    found: dict[str, AtEnd] = {}
    if len(data.ranked) < ENOUGH:
        return found
    count = max(5, math.ceil(0.1 * len(data.ranked)))
    for place, (name, gene) in enumerate(data.genes.items()):
        if gene.size == 1 or is_unordered(gene):
            continue
        units = data.units[:, place]
        margin = NEAR if gene.size == math.inf else 0.51 / min(gene.size, 1e6)
        for end, there in zip(ENDS, (units <= margin, units >= 1.0 - margin), strict=True):
            text = _beyond(data, name, end)
            if there[0] and text is not None:
                value, alike = show_value(data.ranked[0].genome[name]), int(there[:count].sum())
                are = "is" if alike == 1 else "are"
                told = f"{name} ({alike} of the best {count} trials {are} at its {end} end, {value})"
                # Genes from a file keep their defaults when they are widened; a command's have only what is typed.
                found[name] = AtEnd(told, f"{name}={text}{format_hints(gene) if _is_command(data) else ''}")
    return found


def range_end_lines(run: Run) -> list[str]:
    """Return a line for each gene whose best values are at an end of its range, with the command that widens it."""
    found = genes_at_range_ends(RunData(run)).values()
    return [f"at an end of its range: {one.description}; `{_widening(run, [one])}` widens it" for one in found]


def _widening(run: Run, found: Sequence[AtEnd]) -> str:
    """Return the command that continues a run in wider ranges."""
    genes = " ".join(f"--gene {shlex.quote(one.wider)}" for one in found)
    return f"evo-tune resume {as_typed(run.folder)} {genes} {summary.flag_to_continue(run)}"


def _ends(data: RunData) -> Iterator[Command]:
    found = genes_at_range_ends(data)
    if found:
        genes = "The best value of a gene is at an end of its range"
        genes = genes if len(found) == 1 else "The best values of some genes are at the ends of their ranges"
        yield Command(
            f"{genes}, and better ones may be beyond: {', '.join(one.description for one in found.values())}. "
            "To continue with wider ranges and all results so far:",
            _widening(data.run, list(found.values())),
        )
        typed = run_command(data, {name: one.wider for name, one in found.items()})
        rest = "" if _is_command(data) else "; add this run's -o options"
        yield Command(
            f"Or start a new run with wider ranges that begins with the best genomes of this one{rest}:",
            f"{typed} --warm-start {as_typed(data.run.folder)}",
        )


def _is_command(data: RunData) -> bool:
    """Return whether the evaluator is a command, whose genes, objectives and metrics are all typed."""
    return data.run.manifest.evaluator.startswith("command:")


def run_command(data: RunData, wider: Mapping[str, str]) -> str:
    """Return the command that starts a run like this one.

    Args:
        data: This run.
        wider: Genes to replace, as `--gene` takes them, by name.
    """
    manifest, options = data.run.manifest, data.run.manifest.options
    if not _is_command(data):
        name = manifest.evaluator.removeprefix("bundled:").removeprefix("entry:")
        words = ["evo-tune run", shlex.quote(one_line(name))]
        return " ".join([*words, *(f"--gene {shlex.quote(gene)}" for gene in wider.values())])
    text = manifest.evaluator.removeprefix("command:")
    words = ["evo-tune", "run", printable(manifest.evaluator if text.startswith("-") else text)]
    for name, gene in data.run.genes.items():
        words += ["--gene", wider.get(name, f"{printable(name)}={format_gene(gene)}")]
    for objective in manifest.objectives:
        words += ["--objective", printable(objective)]
    for pattern in str(options.get("metric") or "").splitlines():
        words += ["--metric", printable(pattern)]
    if options.get("progress"):
        words += ["--progress", printable(str(options["progress"]))]
    return shlex.join(words) + (" --shell" if options.get("shell") is True else "")


def _beyond(data: RunData, name: str, end: End) -> str | None:
    """Return a gene with one step more at an end, as `--gene` takes it; None at a natural end.

    None also if the run can take this step by itself.
    """
    gene, limits = data.genes[name], data.run.manifest.limits
    wide = widen_end(gene, end)
    if wide is None or (name in limits and widen_end(gene, end, limits[name]) is not None):
        return None
    return format_gene(replace(wide, default=None, prior=None, spread=None, when=None, widest=None))  # type: ignore[type-var]


# Failures.


def _failures(data: RunData) -> Iterator[Command]:
    """Yield each kind of failure with its count, where it happens and what may help."""
    by_status: dict[str, list[Trial]] = {}
    for trial in data.trials:
        if trial.outcome.status not in ("ok", "pruned"):
            by_status.setdefault(trial.outcome.status, []).append(trial)
    for status, failed in sorted(by_status.items(), key=lambda item: -len(item[1])):
        commonest = Counter(trial.outcome.error or "" for trial in failed).most_common(1)[0][0]
        said = f"{len(failed)} of {len(data.trials)} evaluations ended as {status.replace('_', ' ')}"
        said += f", for example trial {failed[0].id}"
        said += f": {one_line(commonest, 200).rstrip('.')}." if commonest else "."
        if where := _where(data, failed):
            said += f" {where}"
        yield Command(f"{said} What may help: {FIXES.get(status, 'see the error')}.")


def _where(data: RunData, failed: Sequence[Trial]) -> str:
    """Return a sentence with the bound on one gene beyond which trials fail; '' if there is no such bound."""
    ids = {trial.id for trial in failed}
    good = [trial for trial in data.trials if trial.outcome.status == "ok" and trial.id not in ids]
    if len(failed) < 3 or len(good) < 3:
        return ""
    bad_units, good_units = data.encode_trials(failed), data.encode_trials(good)
    clearest, told = CLEAR, ""
    for place, (name, gene) in enumerate(data.genes.items()):
        if gene.size == 1 or is_unordered(gene):
            continue
        for bound in np.unique(np.quantile(bad_units[:, place], [0.0, 0.1, 0.9, 1.0])):
            for word, sign in (("at least", 1.0), ("at most", -1.0)):
                bad = int((sign * bad_units[:, place] >= sign * bound).sum())
                fine = int((sign * good_units[:, place] >= sign * bound).sum())
                difference = bad / len(failed) - fine / len(good)
                if difference > clearest:
                    clearest = difference
                    value = show_value(gene.decode(float(bound)))
                    told = (
                        f"{bad} of these {len(failed)} have {name} of {word} {value}, and {fine} of the {len(good)} "
                        "successful ones."
                    )
    return told


# Whether to continue.


def _going_on(data: RunData) -> Iterator[Command]:
    """Yield whether more trials are likely to help: from a prediction, else from the gain of the last third."""
    run, steps = data.run, summary.best_so_far(data.run)
    count = len(run.outcomes)
    if not steps or count < ENOUGH or len(run.objectives) > 1:
        return
    more = f"evo-tune resume {as_typed(run.folder)} {summary.flag_to_continue(run)}"
    early = [value for evaluations, value, _ in steps if evaluations <= 2 * count // 3]
    if not early:
        return
    if (found := predict_next_generation(run)) is not None:
        yield Command(f"From the losses so far, {describe_more_trials(found)}: {_judged(found)}", more)
        return
    gain = data.objective.sign * (early[-1] - steps[-1][1])
    noise = _noise(data)
    pace = f"The last third of the evaluations ({count - 2 * count // 3})"
    if gain <= 0:
        why = (
            "found nothing better, so more trials are likely to gain little. Widen the space, or start again with "
            "another --seed. To continue anyway:"
        )
    elif not math.isnan(noise) and gain < noise:
        why = (
            f"gained {show_value(gain)} in {data.metric}, less than one genome's values differ between seeds "
            f"({show_value(noise)}): more trials are likely to gain little, and --seeds-per-trial 2 would tell more."
        )
    else:
        added = summary.next_trial_count(run)
        took = show_seconds(run.seconds / count * added)
        why = f"still gained {show_value(gain)} in {data.metric}: continue. {added} more take about {took}:"
    yield Command(f"{pace} {why}", more)


def _judged(found: MoreTrials) -> str:
    if found.chance < DONE_CHANCE:
        return "more trials are likely to gain little. Widen the space, or start again. To continue anyway:"
    return "continue." if found.chance > 0.5 else "whether to continue depends on the cost of a training."


def _noise(data: RunData) -> float:
    """Return the standard deviation of one genome's values between seeds; NaN if unknown."""
    end = data.result
    rows = [row.values for row in (end.fresh_best, end.fresh_default) if row is not None]
    spreads = [float(np.var(values, ddof=1)) for values in rows if len(values) > 1 and max(map(abs, values)) < 1e150]
    return math.sqrt(sum(spreads) / len(spreads)) if spreads else math.nan
