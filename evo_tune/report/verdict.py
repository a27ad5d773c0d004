"""The verdict about variants of a training: which of them really differ from a baseline, over several seeds each.

It needs no run, only losses. Each variant is compared with the baseline by a two-sided t test, seed by seed where they
share seeds, and the p-values are corrected for the number of variants (Holm). Two statements about the best one are
corrected for having chosen it. Its gain moves towards the mean of all (James & Stein). Its interval is so wide that
those of all variants are right at once (Bonferroni; Andrews, Kitagawa & McCloskey 2024 call it projection).
"""

import contextlib
import math
from collections.abc import Mapping
from statistics import fmean, harmonic_mean
from typing import TypeAlias

from msgspec import Struct

from evo_tune.errors import UsageError
from evo_tune.genome.trial import Objective
from evo_tune.report import inference
from evo_tune.report.inference import HARMFUL, NOT_SHOWN, REAL, Difference

# Probability of any false verdict 'real' or 'harmful'.
LEVEL = 0.05

# Losses of a variant by its seeds; None for a failed training.
Losses: TypeAlias = Mapping[str, float | None]


# Largest loss: one beyond counts as failed, because its square overflows.
LARGEST = 1e100


class VariantVerdict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The verdict about one variant.

    Args:
        variant: Name of the variant.
        seeds: Number of results.
        failures: Number of failed trainings, which have no result.
        pairs: Number of seeds shared with the baseline, if the comparison is seed by seed; else 0.
        mean: Mean of the metric; null without results. Unit: the metric's.
        gain: By how much it is better than the baseline. Unit: the metric's.
        error: Standard error of `gain`; null with fewer than two seeds. Unit: the metric's.
        low: Lower end of the 95 % interval of `gain`, for this variant alone. Unit: the metric's.
        high: Upper end of this interval. Unit: the metric's.
        p: Probability of so large a difference without a true one, corrected for the number of variants.
        verdict: real (better than the baseline), harmful (worse), or not shown.
        more_seeds: Further seeds that would probably settle it, if the true gain is the measured one; 0 if it is
            settled, null if unknown or above 10,000.
        may_be_best: Whether it is not shown to be worse than the best one.
    """

    variant: str
    seeds: int
    failures: int
    pairs: int
    mean: float | None
    gain: float | None
    error: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: str
    more_seeds: int | None
    may_be_best: bool


class Verdict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Variants of a training against a baseline.

    Args:
        metric: Metric of the comparison.
        direction: min or max.
        baseline: Name of the baseline, or the number that the variants are compared with.
        baseline_seeds: Number of its results; 0 for a number.
        baseline_mean: Its mean. Unit: the metric's.
        variants: The other variants, the best first.
        best: Variant with the best mean; null without results.
        best_gain: Its gain, corrected for the choice; of fewer than four variants, as measured. Unit: the metric's.
        best_low: Lower end of the 95 % interval of its gain, corrected for the choice. Unit: the metric's.
        best_high: Upper end of this interval. Unit: the metric's.
    """

    metric: str
    direction: str
    baseline: str
    baseline_seeds: int
    baseline_mean: float
    variants: list[VariantVerdict]
    best: str | None
    best_gain: float | None
    best_low: float | None
    best_high: float | None


def give_verdict(losses: Mapping[str, Losses], baseline: str, objective: Objective) -> Verdict:
    """Return the verdict about all variants but the baseline.

    Args:
        losses: Losses of each variant, by its name.
        baseline: Name of the variant to compare the others with, or a number: a value of the metric.
        objective: The metric, with its direction.

    Raises:
        UsageError: The baseline is neither, or has no result; or there is no other variant.
    """
    losses = {
        name: {seed: loss if loss is not None and abs(loss) <= LARGEST else None for seed, loss in rows.items()}
        for name, rows in losses.items()
    }
    others = {name: rows for name, rows in losses.items() if name != baseline}
    reference = losses[baseline] if baseline in losses else _constant(baseline, losses, objective)
    if not _values(reference) or not others:
        missing = f"a result of the baseline {baseline}" if others else "a variant beside the baseline"
        raise UsageError(f"a verdict needs {missing}: add its trainings, or choose another --baseline")
    differences = {name: compare_losses(rows, reference) for name, rows in others.items()}
    p_values = inference.holm([difference.p_value for difference in differences.values()])
    means = {name: fmean(_values(rows)) for name, rows in others.items() if _values(rows)}
    best, level = min(means, key=means.__getitem__, default=None), LEVEL / len(others)
    against_best = {name: compare_losses(others[str(best)], others[name]) for name in means if name != best}
    variants = []
    for (name, difference), p in zip(differences.items(), p_values, strict=True):
        rows, half_width = others[name], difference.half_width(LEVEL)
        fails_more = _failures(rows) > _failures(reference)
        verdict = NOT_SHOWN if not p <= LEVEL else HARMFUL if difference.gain < 0.0 else REAL
        verdict = NOT_SHOWN if verdict == REAL and fails_more else verdict
        variant = VariantVerdict(
            variant=name,
            seeds=len(_values(rows)),
            failures=_failures(rows),
            pairs=len(_shared(rows, reference)) if difference.paired and baseline in losses else 0,
            mean=objective.value(means[name]) if name in means else None,
            gain=_finite(difference.gain),
            error=_finite(difference.total_error),
            low=_finite(difference.gain - half_width),
            high=_finite(difference.gain + half_width),
            p=_finite(p),
            verdict=verdict,
            more_seeds=0 if verdict != NOT_SHOWN else _more_seeds(difference, rows, reference, level),
            may_be_best=name == best or (name in means and not against_best[name].tail <= LEVEL / len(against_best)),
        )
        variants.append(variant)
    chosen = differences.get(str(best), Difference())
    squares = [row.total_error**2 / 2 for row in against_best.values() if row.freedom] or [0.0]
    gains = [differences[name].gain for name in means] or [math.nan]
    best_gain = inference.gain_of_choice(gains, math.sqrt(fmean(squares)))
    return Verdict(
        metric=objective.metric,
        direction=objective.direction,
        baseline=baseline,
        baseline_seeds=len(_values(reference)) if baseline in losses else 0,
        baseline_mean=objective.value(fmean(_values(reference))),
        variants=sorted(variants, key=lambda row: (row.gain is None, -(row.gain or 0.0))),
        best=best,
        best_gain=_finite(best_gain),
        best_low=_finite(chosen.gain - chosen.half_width(level)),
        best_high=_finite(chosen.gain + chosen.half_width(level)),
    )


def _more_seeds(difference: Difference, rows: Losses, reference: Losses, level: float) -> int | None:
    seeds = harmonic_mean([max(1, len(_values(rows))), max(1, len(_values(reference)))])
    count = len(_shared(rows, reference)) if difference.paired else seeds
    needed = difference.seeds_needed(count, level)
    return None if needed is None else max(1, needed - math.floor(count))


def compare_losses(losses: Losses, reference: Losses) -> Difference:
    """Return the gain of some losses: seed by seed if at least half of the smaller side's seeds are shared."""
    shared = _shared(losses, reference)
    if len(shared) > 1 and 2 * len(shared) >= min(len(_values(losses)), len(_values(reference))):
        return inference.paired_difference(shared)
    return inference.unpaired_difference(_values(losses), _values(reference))


def _constant(baseline: str, losses: Mapping[str, Losses], objective: Objective) -> Losses:
    """Return a number as the losses of a baseline that has it on every seed."""
    with contextlib.suppress(ValueError):
        number = float(baseline)
        if abs(number) <= LARGEST:
            return {seed: objective.sign * number for rows in losses.values() for seed in rows}
    shown = ", ".join(list(losses)[:10])
    raise UsageError(f"--baseline {baseline}: expected a variant or a number; the variants are {shown}")


def _values(losses: Losses) -> list[float]:
    return [loss for loss in losses.values() if loss is not None]


def _failures(losses: Losses) -> int:
    return sum(loss is None for loss in losses.values())


def _shared(losses: Losses, reference: Losses) -> list[tuple[float, float]]:
    """Return the losses on the seeds on which both sides succeeded."""
    pairs = [(loss, reference.get(seed)) for seed, loss in losses.items()]
    return [(loss, reference_loss) for loss, reference_loss in pairs if loss is not None and reference_loss is not None]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
