"""Rungs and pruning: audits, trust in early results, and bounds that mark a curve as hopeless.

Asynchronous successive halving (Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020) with a
guard: the run itself measures how well early results predict full ones, and that decides how sharply they select
(`promotions`, `Curves`). Nothing here stops a training or proposes a genome, and nothing knows of strategies.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from evo_tune.genome.history import GrowingArray
from evo_tune.genome.trial import DECAYED
from evo_tune.genome.values import rank_correlation
from evo_tune.genome.view import GenomeTrials
from evo_tune.settings import MIN_CURVES, parse_rungs

# Prior for the rank correlation of early and full results, before any measurement.
PRIOR_TRUST = 0.6

# Weight of this prior, in measurements.
PRIOR_WEIGHT = 4.0

# Margin for promotions, in standard deviations of the eventual best genome's early score.
PROMOTION_MARGIN = 1.5


def is_audit(number: int) -> bool:
    """Return whether new genome `number` (promotions and extra seeds not counted) is an audit: always trained in full.

    Audits are the first three genomes and the genomes 8, 32, 128, …: few in a long run. Only genomes that were not
    selected by their early results can show that these mislead. A run that is very short trains in full only, since
    rungs pay off later (benchmarks/LOG.md).
    """
    return number < 2 or (number & (number - 1) == 0 and number.bit_length() % 2 == 0)


def audit_numbers(count: int) -> list[int]:
    """Return the numbers of the audits among `count` new genomes; see `is_audit`."""
    powers = range(1, count.bit_length(), 2)
    return [number for number in (0, 1, *(2**power for power in powers)) if number < count]


def rank_trust(early: Sequence[float] | np.ndarray, late: Sequence[float] | np.ndarray) -> float:
    """Return the rank correlation of early and late losses of the same genomes, shrunk towards PRIOR_TRUST.

    Most of these genomes were selected by their early losses, which narrows the range and lowers the correlation.
    The error costs more training, but not quality.
    """
    if len(early) < 2:
        return PRIOR_TRUST
    return (len(early) * rank_correlation(early, late) + PRIOR_WEIGHT * PRIOR_TRUST) / (len(early) + PRIOR_WEIGHT)


def share_to_keep(trust: float, count: int, deviations: float) -> float:
    """Return the share of genomes to keep so that the eventual best one is probably among them.

    Early and late scores are assumed normal with correlation `trust`. The best of `count` late scores is z
    standard deviations above the mean; its early score then has mean trust * z and standard deviation sqrt(1 - trust²).

    Args:
        trust: Rank correlation, -1 to 1.
        count: Number of genomes.
        deviations: Margin in these standard deviations: 1.5 keeps the best in 93% of cases, 2 in 98%.
    """
    normal = NormalDist()
    best = normal.inv_cdf(count / (count + 1))
    return 1.0 - normal.cdf(trust * best - deviations * math.sqrt(max(0.0, 1.0 - trust**2)))


def mean_genome_cost(rungs: Sequence[float], genomes: int) -> float:
    """Return the predicted mean cost of a genome, promotions included, in full trainings.

    Args:
        rungs: Budgets, increasing to 1.
        genomes: Number of genomes of the run (int ≥ 1).
    """
    audits = len(audit_numbers(genomes)) / genomes
    reaching, cost = 1.0, rungs[0]
    for low, high in pairwise(rungs):
        reaching *= max(low / high, share_to_keep(PRIOR_TRUST, max(2, genomes), PROMOTION_MARGIN))
        cost += reaching * (high - low)
    return audits + (1.0 - audits) * cost


# Rungs of a run that may choose them (`--fidelity auto`).
AUTO_RUNGS = "1/9,1/3,1"

# Numbers of affordable full trainings between which rungs pay. With fewer, the audits take most of them, and with more
# even a search without rungs finds the best (benchmarks/LOG.md).
MIN_TRAININGS, MAX_TRAININGS = 10, 120

# Shortest training of the first rung, in seconds: a start, a checkpoint and an evaluation cost nearly as much.
MIN_SECONDS = 3.0


def rungs_that_pay(trainings: float, seconds: float) -> str:
    """Return the rungs that pay, as `--fidelity` takes them: '1' for none.

    Args:
        trainings: Number of full trainings that the limits of the run allow.
        seconds: Seconds of a full training.
    """
    long_enough = seconds * min(parse_rungs(AUTO_RUNGS)) >= MIN_SECONDS
    return AUTO_RUNGS if long_enough and MIN_TRAININGS <= trainings <= MAX_TRAININGS else "1"


# Fractions of the full training at which a curve may be pruned.
LOOKS = (0.125, 0.25, 0.5)

# Minimum share of the curves that are never pruned (the median rule of Golovin et al., Vizier, KDD 2017).
MEDIAN = 0.5


class Curves:
    """The curves and the final losses of all reported genomes; the state of a fold.

    Args:
        metric: Metric of the objective.
        sign: Sign of the objective: metric times sign is the loss.
    """

    def __init__(self, metric: str, sign: float) -> None:
        self._metric, self._sign = metric, sign
        self._rows: dict[str, int] = {}
        self._losses_at_looks = GrowingArray(*[math.nan] * len(LOOKS))
        self._final_losses = GrowingArray(math.nan)

    def update(self, genome: GenomeTrials) -> None:
        """Update a genome with all of its results.

        Of its curve, the last loss at or before each of LOOKS counts. It is NaN if the curve ended earlier. Points
        after the learning-rate decay of a rung do not count, because their loss is lower than at the peak rate. The
        bounds apply only to points before the decay (`Context.report`).
        """
        row = self._rows.setdefault(genome.key, len(self._rows))
        points = [(fraction, point) for fraction, point in genome.curve if not point.get(DECAYED)]
        losses = [(share, self._sign * point[self._metric]) for share, point in points if self._metric in point]
        end = points[-1][0] if points else 0.0
        lasts = [([math.nan] + [loss for share, loss in losses if share <= look <= end])[-1] for look in LOOKS]
        self._losses_at_looks.set(row, [last if math.isfinite(last) else math.nan for last in lasts])
        final = genome.losses(1.0)
        self._final_losses.set(row, final[0] if final and final[0] < math.inf else math.nan)

    def bounds(self, start: float, budget: float) -> tuple[tuple[float, str, float], ...]:
        """Return the bounds of a proposed candidate, beyond which its curve is hopeless.

        The bound at a fraction is a quantile of the reported curves there. It follows from their correlation with
        full results (`share_to_keep`) and is never below the median.

        Args:
            start: Fraction of the training that is done.
            budget: Fraction of the training at its end.
        """
        bounds = []
        final = self._final_losses.first_column(len(self._rows))
        for look, early in zip(LOOKS, self._losses_at_looks.first_rows(len(self._rows)).T, strict=True):
            if not start < look < budget:
                continue
            has_early = ~np.isnan(early)
            has_both = has_early & ~np.isnan(final)
            if has_both.sum() < MIN_CURVES:
                continue
            losses = early[has_early]
            share = max(MEDIAN, share_to_keep(rank_trust(early[has_both], final[has_both]), len(losses), 2.0))
            count = math.ceil(share * len(losses))
            if count < len(losses):
                bounds.append((look, self._metric, float(np.partition(losses, count - 1)[count - 1])))
        return tuple(bounds)
