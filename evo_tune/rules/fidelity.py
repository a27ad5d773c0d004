"""Rungs and pruning: which trials are trained in full, how far early results are trusted, which curves are hopeless.

Asynchronous successive halving (Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020) with a
guard: the run itself measures how well early results predict full ones, and that decides how sharply they select
(`promotions`, `Curves`). Nothing here stops a training or proposes a genome, and nothing knows of strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from evo_tune.genome.history import Grown
from evo_tune.genome.importance import rank_correlation
from evo_tune.genome.trial import DECAYED
from evo_tune.genome.view import Entry

__all__ = ["Curves", "audits_among", "expected_cost", "is_audit", "keep", "trust"]

BELIEF = 0.6
"""Rank correlation that is taken for granted before anything was measured."""

WEIGHT = 4.0
"""Number of measurements that this belief counts for."""

CAUTION = 1.5
"""Deviations of the early score of the eventual best that are allowed for when genomes go on."""


def is_audit(number: int) -> bool:
    """Say whether birth `number` (promotions and extra seeds not counted) is trained in full whatever it shows.

    The default and the births 1, 2, 4, 8, …: many at first, when nothing is known, and few in a long run. Only
    genomes that were not chosen by their early results can show that those mislead.
    """
    return number & (number - 1) == 0


def audits_among(count: int) -> list[int]:
    """Return which of so many births are audits; see `is_audit`."""
    return [number for number in (0, *(2**power for power in range(count.bit_length()))) if number < count]


def trust(early: Sequence[float] | np.ndarray, late: Sequence[float] | np.ndarray) -> float:
    """Return the rank correlation of early and late losses of the same genomes, drawn towards BELIEF.

    Most of these genomes were chosen by their early losses, which narrows the range and lowers the figure: it
    errs towards too little trust, which costs training and not quality.
    """
    if len(early) < 2:
        return BELIEF
    return (len(early) * rank_correlation(early, late) + WEIGHT * BELIEF) / (len(early) + WEIGHT)


def keep(trust: float, count: int, deviations: float) -> float:
    """Return the share of genomes to go on with so that the one that would end best is among them.

    Were early and late scores normal with correlation `trust`, the best of `count` at the end, at z deviations
    above the mean, would stand at trust * z early on, give or take sqrt(1 - trust²).

    Args:
        trust: Rank correlation, -1 to 1.
        count: How many compete.
        deviations: Of that uncertainty that are allowed for: 1.5 keeps it in 93% of cases, 2 in 98%.
    """
    normal = NormalDist()
    best = normal.inv_cdf(count / (count + 1))
    return 1.0 - normal.cdf(trust * best - deviations * math.sqrt(max(0.0, 1.0 - trust**2)))


def expected_cost(rungs: Sequence[float], births: int) -> float:
    """Return what a genome takes with its promotions, in full trainings, as far as that can be told beforehand.

    Args:
        rungs: Budgets, increasing to 1.
        births: Genomes in all, 1 or more.
    """
    audits = len(audits_among(births)) / births
    reaching, cost = 1.0, rungs[0]
    for low, high in pairwise(rungs):
        reaching *= max(low / high, keep(BELIEF, max(2, births), CAUTION))
        cost += reaching * (high - low)
    return audits + (1.0 - audits) * cost


LOOKS = (0.125, 0.25, 0.5)
"""Fractions of the full training at which a curve may be found hopeless."""

ENOUGH = 5
"""Fewest fully trained genomes with a curve before any is found hopeless."""

MEDIAN = 0.5
"""Least share of the curves that are never found hopeless (the median rule of Golovin et al., Vizier, KDD 2017)."""


class Curves:
    """What the curves of all genomes told had reached, and how they ended.

    Args:
        metric: The objective's.
        sign: Of the objective.
    """

    def __init__(self, metric: str, sign: float) -> None:
        self._metric, self._sign = metric, sign
        self._rows: dict[str, int] = {}
        self._reached = Grown(*[math.nan] * len(LOOKS))
        self._full = Grown(math.nan)

    def take(self, entry: Entry) -> None:
        """Note what was told of a genome, all of it."""
        row = self._rows.setdefault(entry.key, len(self._rows))
        self._reached.set(row, self._at_looks(entry))
        losses = entry.losses(1.0)
        self._full.set(row, losses[0] if losses and losses[0] < math.inf else math.nan)

    def bounds(self, start: float, budget: float) -> tuple[tuple[float, str, float], ...]:
        """Return the bounds with which a candidate is born: beyond them its curve is hopeless.

        A curve is hopeless where it is worse than those of so large a share of the told genomes that, by the
        correlation of curves there with full results, it cannot be expected to end best; never better than the median.

        Args:
            start: Fraction of the training that is done.
            budget: Where it ends.
        """
        found = []
        ends = self._full.get(len(self._rows))[:, 0]
        for look, reached in zip(LOOKS, self._reached.get(len(self._rows)).T, strict=True):
            if not start < look < budget:
                continue
            there = ~np.isnan(reached)
            both = there & ~np.isnan(ends)
            if both.sum() < ENOUGH:
                continue
            values = reached[there]
            share = max(MEDIAN, keep(trust(reached[both], ends[both]), len(values), 2.0))
            kept = math.ceil(share * len(values))
            if kept < len(values):
                found.append((look, self._metric, float(np.partition(values, kept - 1)[kept - 1])))
        return tuple(found)

    def _at_looks(self, entry: Entry) -> list[float]:
        """Return a curve's last loss at or before each look; NaN where it did not get there or does not say.

        A loss after the decay of a rung is no match for one at the peak of the learning rate, which it would put to
        shame: only points before it count, and bounds are for such alone (`Context.report`).
        """
        before = [(fraction, point) for fraction, point in entry.curve if not point.get(DECAYED)]
        known = [(fraction, self._sign * point[self._metric]) for fraction, point in before if self._metric in point]
        found = []
        for look in LOOKS:
            last = math.nan
            if before and before[-1][0] >= look:
                last = next((value for fraction, value in reversed(known) if fraction <= look), math.nan)
            found.append(last if math.isfinite(last) else math.nan)
        return found
