"""What to do next, from what a run shows: ranges to widen, failures by cause, and whether going on pays.

Each piece of advice is drawn from counts that it tells, and none from a run too small to have any. Pure functions of a
run; nothing here draws.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.notation import typed_gene, typed_hints
from evo_tune.genome.trial import Trial
from evo_tune.genome.values import Value, is_number
from evo_tune.report import summary
from evo_tune.report.further import DONE, Further, further_of, in_words
from evo_tune.report.material import Material, is_unordered
from evo_tune.report.part import Command
from evo_tune.report.words import show_seconds, show_value
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run
from evo_tune.text import one_line, printable

__all__ = ["advice", "at_ends", "ends_of", "typed_evaluator", "typed_run", "widened"]

ENOUGH = 12
"""Fewest genomes with a value, or evaluations, from which there is advice."""

NEAR = 0.03
"""Distance from the end of a range, in unit coordinates, that counts as being there."""

CLEAR = 0.6
"""Share of the failed beyond a bound, less that of the others, from which the bound is told."""

FIXES = {
    "diverged": "a smaller learning rate, a longer warmup, or clipping",
    "out_of_memory": "smaller models or batches, or fewer trainings on a GPU at once (--per-device 1)",
    "timeout": "a longer --timeout, or a space without what is slow",
    "crashed": "its log.txt under _trials says why the process died; --retries 1 tries again",
    "failed": "`evo-tune evaluate -g NAME=VALUE …` runs one genome alone, and shows what was raised",
}


def advice(material: Material) -> list[Command]:
    """Return what to do next, the most useful first."""
    return [*_unended(material), *_ends(material), *_failures(material), *_going_on(material)]


def typed_evaluator(material: Material) -> str:
    """Return how the run's evaluator is typed."""
    name = material.run.manifest.evaluator
    for prefix in ("bundled:", "entry:"):
        name = name.removeprefix(prefix)
    return shlex.quote(one_line(name))


def _is_command(material: Material) -> bool:
    """Whether the run's evaluator is a command, which has no genes, objectives and metrics but those that are typed."""
    return material.run.manifest.evaluator.startswith("command:")


def typed_run(material: Material, wider: Mapping[str, str]) -> str:
    """Return the command that begins a run with some genes in place of this one's.

    Args:
        material: This run's.
        wider: Genes as they are typed, by name.
    """
    manifest, options = material.run.manifest, material.run.manifest.options
    if not _is_command(material):
        genes = wider.values()
        return " ".join(
            [f"evo-tune run {typed_evaluator(material)}", *(f"--gene {shlex.quote(gene)}" for gene in genes)]
        )
    text = manifest.evaluator.removeprefix("command:")
    words = ["evo-tune", "run", printable(manifest.evaluator if text.startswith("-") else text)]
    for name, gene in material.run.genes.items():
        words += ["--gene", wider.get(name, f"{printable(name)}={typed_gene(gene)}")]
    for objective in manifest.objectives:
        words += ["--objective", printable(objective)]
    for pattern in str(options.get("metric") or "").splitlines():
        words += ["--metric", printable(pattern)]
    if options.get("progress"):
        words += ["--progress", printable(str(options["progress"]))]
    return shlex.join(words) + (" --shell" if options.get("shell") is True else "")


def _unended(material: Material) -> Iterator[Command]:
    if material.run.ended is None:
        yield Command(
            "When this was written the run had not ended: it was going on, or it was killed. It goes on with",
            f"evo-tune resume {as_typed(material.run.folder)}",
        )


def at_ends(material: Material) -> dict[str, tuple[str, str]]:
    """Return the genes whose best values are at an end of their range: what to say of each, and a wider range."""
    found: dict[str, tuple[str, str]] = {}
    if len(material.ranked) < ENOUGH:
        return found
    count = max(5, math.ceil(0.1 * len(material.ranked)))
    for place, (name, gene) in enumerate(material.genes.items()):
        if gene.size == 1 or is_unordered(gene):
            continue
        units = material.units[:, place]
        margin = NEAR if gene.size == math.inf else 0.51 / min(gene.size, 1e6)
        for end, there in (("low", units <= margin), ("high", units >= 1.0 - margin)):
            text = widened(gene, end)
            if there[0] and text is not None:
                value, alike = show_value(material.ranked[0].genome[name]), int(there[:count].sum())
                told = f"{name} = {value} ({alike} of the best {count} {'is' if alike == 1 else 'are'} at that end)"
                # A file's genes keep their defaults where they are widened; a command's have none but what is typed.
                found[name] = told, f"{name}={text}{typed_hints(gene) if _is_command(material) else ''}"
    return found


def ends_of(run: Run) -> list[str]:
    """Return a line for each gene whose best values are at an end of its range, with the flag that widens it."""
    found = at_ends(Material(run)).values()
    return [f"at an end of its range: {told}; `{_widening(run, [wider])}` widens it" for told, wider in found]


def _widening(run: Run, wider: Sequence[str]) -> str:
    """Return the command that goes on in wider ranges."""
    genes = " ".join(f"--gene {shlex.quote(text)}" for text in wider)
    return f"evo-tune resume {as_typed(run.folder)} {genes} --generations {summary.further_generations(run)}"


def _ends(material: Material) -> Iterator[Command]:
    """Yield how to widen the ranges at whose ends the best values are."""
    found = at_ends(material)
    if found:
        genes, ends = (
            ("The best genome lies", "the end of a range")
            if len(found) == 1
            else ("Values of the best genome lie", "the ends of their ranges")
        )
        yield Command(
            f"{genes} at {ends}, and better ones may lie beyond: {', '.join(told for told, _ in found.values())}. "
            "Widen, and go on; what was trained keeps its place:",
            _widening(material.run, [text for _, text in found.values()]),
        )
        typed = typed_run(material, {name: text for name, (_, text) in found.items()})
        rest = "" if _is_command(material) else ", with this run's -o options as well"
        yield Command(
            f"Or widen in a run of its own, which begins with what was found{rest}:",
            f"{typed} --warm-start {as_typed(material.run.folder)}",
        )


def widened(gene: Gene, end: str) -> str | None:
    """Return a gene with more room at one end, as `--gene` has it; None where the end is a natural one.

    Args:
        gene: A gene with an order.
        end: 'low' or 'high'.
    """
    if isinstance(gene, Float):
        return _wider_float(gene, end)
    if isinstance(gene, Int):
        return _wider_int(gene, end)
    assert isinstance(gene, Choice)
    values = list(gene.values)
    if len(values) < 2 or not all(map(is_number, values)):
        return None
    numbers = [float(value) for value in values]
    last, before = (numbers[-1], numbers[-2]) if end == "high" else (numbers[0], numbers[1])
    beyond = last * last / before if before and last / before > 0 else 2 * last - before
    if end == "low" and (beyond <= 0 or (last == 1 and all(type(value) is int for value in values))):
        return None
    added: Value = beyond
    if all(type(value) is int for value in values):
        step = math.gcd(*map(int, numbers))  # a width is a multiple of what widths are
        added = round(beyond) if beyond == int(beyond) else max(step, step * round(beyond / step))
        if added in values:
            return None
    return "|".join(
        repr(value) if isinstance(value, float) else show_value(value)
        for value in ([added, *values] if end == "low" else [*values, added])
    )


def _wider_float(gene: Float, end: str) -> str | None:
    low, high = gene.low, gene.high
    if gene.log:
        low, high = (low / 4, high) if end == "low" else (low, high * 4)
        if low <= 0 or high >= 1e300:
            return None
        return f"log({low:.3g},{_exact(high)})" if end == "low" else f"log({_exact(low)},{high:.3g})"
    if (end == "low" and low == 0.0) or (end == "high" and low >= 0.0 and high == 1.0):
        return None  # a share, or what cannot be negative
    room = (high - low) / 2
    low, high = (max(0.0, low - room) if low > 0 else low - room, high) if end == "low" else (low, high + room)
    return f"float({low:.3g},{_exact(high)})" if end == "low" else f"float({_exact(low)},{high:.3g})"


def _exact(bound: float) -> str:
    """Return a bound that stays, to the last digit: rounded, the range might lose a value."""
    return repr(bound).removesuffix(".0")


def _wider_int(gene: Int, end: str) -> str | None:
    if end == "low" and gene.low in (0, 1):
        return None
    steps = max(1, (gene.size - 1) // 2)
    low = gene.low - gene.step * steps if end == "low" else gene.low
    high = gene.high + gene.step * steps if end == "high" else gene.high
    if gene.low > 0:
        while low < 1:
            low += gene.step
    return None if low >= gene.low and end == "low" else f"int({low},{high}{f',{gene.step}' if gene.step > 1 else ''})"


def _failures(material: Material) -> Iterator[Command]:
    """Yield each kind of failure with its number, where it happens, and what mends it."""
    by_status: dict[str, list[Trial]] = {}
    for trial in material.trials:
        if trial.outcome.status not in ("ok", "pruned"):
            by_status.setdefault(trial.outcome.status, []).append(trial)
    for status, failed in sorted(by_status.items(), key=lambda item: -len(item[1])):
        errors: dict[str, int] = {}
        for trial in failed:
            errors[trial.outcome.error or ""] = errors.get(trial.outcome.error or "", 0) + 1
        commonest = max(errors, key=lambda error: errors[error])
        first = failed[0].id
        what = status.replace("_", " ")
        said = f"{len(failed)} of {len(material.trials)} evaluations ended as {what}, such as trial {first}"
        said += f": {one_line(commonest, 200).rstrip('.')}." if commonest else "."
        if where := _where(material, failed):
            said += f" {where}"
        yield Command(f"{said} What may help: {FIXES.get(status, 'see the error')}.", "")


def _where(material: Material, failed: Sequence[Trial]) -> str:
    """Return the bound on one gene beyond which trials fail, in a sentence; '' where there is no such bound."""
    ids = {trial.id for trial in failed}
    good = [trial for trial in material.trials if trial.outcome.status == "ok" and trial.id not in ids]
    if len(failed) < 3 or len(good) < 3:
        return ""
    bad_units, good_units = material.encoded(failed), material.encoded(good)
    clearest, told = CLEAR, ""
    for place, (name, gene) in enumerate(material.genes.items()):
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
                        "that ended well."
                    )
    return told


def _going_on(material: Material) -> Iterator[Command]:
    """Yield whether more of the same pays: what the last third gained, beside what seeds differ by."""
    run, steps = material.run, summary.best_so_far(material.run)
    count = len(run.outcomes)
    if not steps or count < ENOUGH or len(run.objectives) > 1:
        return
    more = f"evo-tune resume {as_typed(run.folder)} --generations {summary.further_generations(run)}"
    sign = material.objective.sign
    late = [value for evaluations, value, _ in steps if evaluations <= 2 * count // 3]
    if not late:
        return
    if (found := further_of(run)) is not None:
        yield Command(f"By its losses so far, {in_words(found)}: {_judged(found)}", more)
        return
    gain = sign * (late[-1] - steps[-1][1])
    noise = _noise(material)
    pace = f"The last third of the evaluations ({count - 2 * count // 3})"
    took = show_seconds(run.seconds / 3)
    if gain <= 0:
        yield Command(
            f"{pace} found nothing better: more of the same is likely to gain little. Widen the space, or begin anew "
            "with another --seed; should you want to go on all the same:",
            more,
        )
    elif not math.isnan(noise) and gain < noise:
        yield Command(
            f"{pace} gained {show_value(gain)} in {material.metric}, less than the same genome differs by from seed to "
            f"seed ({show_value(noise)}): going on is likely to gain little, and --replicates 2 would tell more.",
            more,
        )
    else:
        yield Command(
            f"{pace} still gained {show_value(gain)} in {material.metric}: going on pays. As many again take about "
            f"{took}:",
            more,
        )


def _judged(found: Further) -> str:
    if found.chance < DONE:
        return "going on is likely to gain little. Widen the space, or begin anew; should you go on all the same:"
    return "going on pays." if found.chance > 0.5 else "whether going on pays depends on what a training costs you."


def _noise(material: Material) -> float:
    """Return the standard deviation of one genome's values between seeds; NaN where it is not known."""
    end = material.closing
    rows = [row.values for row in (end.calibrated_best, end.calibrated_default) if row is not None]
    spreads = [float(np.var(values, ddof=1)) for values in rows if len(values) > 1 and max(map(abs, values)) < 1e150]
    return math.sqrt(sum(spreads) / len(spreads)) if spreads else math.nan
