"""Statistics of few noisy results: differences with their errors, and corrections for many comparisons.

The final comparison of a run and `evo-tune verdict` share them. All losses are numbers to minimise, and a gain is the
loss of a reference minus the loss of a variant, so a positive gain is an improvement.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, variance

import numpy as np

from evo_tune.genome.values import common_step

# Verdicts about a difference.
REAL, HARMFUL, NOT_SHOWN = "real", "harmful", "not shown"

# Relative difference that counts as rounding: some thousand times that of one operation.
ROUNDING = 1e-12

# Variance of a loss that is rounded to a step, in steps², that of a uniform distribution.
ROUNDED_VARIANCE = 1 / 12

# Probability with which as many seeds as `seeds_needed` says show a gain of the size that was measured.
POWER = 0.8

# Spread of a gain, in usual ones, up to which its noise counts as that of the others.
MAX_SPREAD = 10.0

# Most seeds that are worth a prediction.
MAX_SEEDS = 10_000


@dataclass(frozen=True)
class Difference:
    """A mean gain with its error.

    Args:
        gain: Mean loss of the reference minus that of the variant; NaN without both.
        error: Standard error over seeds; NaN where a side has fewer than two.
        freedom: Degrees of freedom of the error; 0 without one.
        rounding_error: Standard error that the step of the metric adds: a metric of few values ties by chance, which
            makes `error` too small.
        paired: Whether the gain was taken seed by seed.
    """

    gain: float = math.nan
    error: float = math.nan
    freedom: float = 0.0
    rounding_error: float = 0.0
    paired: bool = True

    @property
    def total_error(self) -> float:
        """Standard error with that of rounding."""
        return math.hypot(self.error, self.rounding_error)

    @property
    def tail(self) -> float:
        """Probability of a gain at least this large where there is none (one-sided t test); NaN without an error."""
        if math.isnan(self.error):
            return math.nan
        if not self.total_error:
            return 0.5 - 0.5 * (self.gain > 0.0) + 0.5 * (self.gain < 0.0)
        return student_tail(self.gain / self.total_error, self.freedom)

    @property
    def p_value(self) -> float:
        """Probability of a gain at least this far from 0 where there is none (two-sided t test)."""
        return 2.0 * min(self.tail, 1.0 - self.tail)

    def half_width(self, level: float) -> float:
        """Return half the width of the interval that misses the true gain with the probability `level`."""
        return student_threshold(level / 2, self.freedom) * self.total_error if self.freedom else math.nan

    def seeds_needed(self, seeds: float, level: float) -> int | None:
        """Return the seeds with which a two-sided test at `level` finds a gain of this size with probability `POWER`.

        The usual approximation n ≥ (t(level/2) + t(1 - POWER))² s²/gain², with t at n's degrees of freedom.

        Args:
            seeds: Number of seeds of the variant (and of the reference) behind `error`.
            level: Level of the test.

        Returns:
            None if the gain is 0, has no error, or would need more than `MAX_SEEDS`.
        """
        if not self.freedom or self.gain == 0.0:
            return None
        ratio, freedom_per_seed = self.total_error**2 * seeds / self.gain**2, self.freedom / (seeds - 1)

        def is_enough(count: int) -> bool:
            freedom = freedom_per_seed * (count - 1)
            quantiles = student_threshold(level / 2, freedom) + student_threshold(1 - POWER, freedom)
            return count >= quantiles**2 * ratio

        count = bisect_left(range(MAX_SEEDS + 1), True, lo=2, key=is_enough)
        return count if count <= MAX_SEEDS else None


def paired_difference(pairs: Sequence[tuple[float, float]], is_fine_grained: bool = False) -> Difference:
    """Return the gain over pairs of losses with the same seed.

    Args:
        pairs: Loss of the variant and of the reference, for each seed.
        is_fine_grained: Whether the metric takes so many values that equal losses mean equal models, not rounding.
    """
    gains, count = [reference - loss for loss, reference in pairs], len(pairs)
    gain = fmean(gains) if gains else math.nan
    if count < 2:
        return Difference(gain)
    error = math.hypot(*(value - gain for value in gains)) / math.sqrt(count * (count - 1))
    losses = [loss for pair in pairs for loss in pair]
    tolerance = ROUNDING * max(map(abs, losses))
    step = 0.0 if is_fine_grained else common_step(losses, tolerance)
    rounding_error = math.sqrt(2 * ROUNDED_VARIANCE) * step / math.sqrt(count)
    gain, error = (0.0 if abs(value) <= tolerance else value for value in (gain, error))
    return Difference(gain, error, count - 1, rounding_error)


def differences_to_one(
    losses: Sequence[float], variants: Sequence[Sequence[float]], is_fine_grained: bool = False
) -> list[Difference]:
    """Return the gain of one genome over each of several variants of it, all with the same seeds.

    Their noise is about the same, so it is estimated from all of them at once, as in Dunnett's (1955) comparison with a
    control: the residuals of a two-way layout, genomes by seeds. This finds effects with fewer seeds. A variant whose
    gain scatters more than `MAX_SPREAD` times as much as usual has its own error. With one variant, it is
    `paired_difference`.

    Args:
        losses: Losses of the genome, for each seed.
        variants: Losses of each variant, for each seed.
        is_fine_grained: See `paired_difference`.
    """
    differences = [paired_difference(list(zip(losses, row, strict=True)), is_fine_grained) for row in variants]
    if len(losses) < 2 or not variants:
        return differences
    usual = median(difference.error for difference in differences)
    is_usual = [difference.error <= MAX_SPREAD * usual for difference in differences]
    table = np.array([losses, *(row for row, usual in zip(variants, is_usual, strict=True) if usual)])
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (len(table) - 1) * (len(losses) - 1)
    error = math.sqrt(2.0 * float((residuals**2).sum()) / freedom / len(losses))
    return [
        replace(difference, error=error, freedom=freedom) if usual else difference
        for difference, usual in zip(differences, is_usual, strict=True)
    ]


def unpaired_difference(losses: Sequence[float], reference_losses: Sequence[float]) -> Difference:
    """Return the gain of losses over others that share no seed (Welch 1947), without equal variances."""
    if not losses or not reference_losses:
        return Difference(paired=False)
    gain = fmean(reference_losses) - fmean(losses)
    counts = len(losses), len(reference_losses)
    if min(counts) < 2:
        return Difference(gain, paired=False)
    shares = [variance(losses) / counts[0], variance(reference_losses) / counts[1]]
    every = [*losses, *reference_losses]
    tolerance = ROUNDING * max(map(abs, every))
    rounding_error = math.sqrt(ROUNDED_VARIANCE * (1 / counts[0] + 1 / counts[1])) * common_step(every, tolerance)
    total, smallest = sum(shares), tolerance**2
    parts = [share**2 / (count - 1) for share, count in zip(shares, counts, strict=True)]
    freedom = total**2 / sum(parts) if total > smallest and any(parts) else sum(counts) - 2
    gain = 0.0 if abs(gain) <= tolerance else gain
    return Difference(gain, math.sqrt(total) if total > smallest else 0.0, freedom, rounding_error, paired=False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): those ≤ α are all right with probability 1 - α.

    Args:
        p_values: One for each comparison that was made; NaN for one without a test, which counts and stays NaN.
    """
    order = sorted(range(len(p_values)), key=lambda index: (math.isnan(p_values[index]), p_values[index]))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        if not math.isnan(p_values[index]):
            largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
            corrected[index] = largest
    return corrected


def gain_of_choice(gains: Sequence[float], error: float) -> float:
    """Return the largest of several gains, corrected for having been chosen because it is the largest.

    The largest of noisy means is too large on average. It is moved towards their mean by the share of their spread
    that noise explains (the positive-part estimator of James & Stein; Efron & Morris 1975).

    Args:
        gains: At least one gain; fewer than four give no share, so the largest stays as it is.
        error: Standard error of a gain, without what all have in common.
    """
    mean, largest = fmean(gains), max(gains)
    if len(gains) < 4 or largest == mean:
        return largest
    share_of_noise = (len(gains) - 3) / (len(gains) - 1) * error**2 / variance(gains)
    return mean + max(0.0, 1.0 - share_of_noise) * (largest - mean)


def student_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds a number.

    Args:
        t: Threshold.
        freedom: Degrees of freedom, at least 1.
    """
    from scipy.special import stdtr  # takes a tenth of a second; only complete looks need it

    return float(stdtr(freedom, -t))


def student_threshold(tail: float, freedom: float) -> float:
    """Return the number that Student's t exceeds with a probability."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail))
