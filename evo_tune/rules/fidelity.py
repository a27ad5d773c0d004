"""Many fidelities: their budgets, which births are trained in full, and how far early results can be trusted.

Asynchronous successive halving (Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020),
with a guard: how far early results can be trusted is measured in the run itself and decides how sharply they
select (`promotions`, `curves`). This module proposes no new genome and knows nothing of strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from evo_tune.genome.importance import rank_correlation

__all__ = ["audits_among", "expected_cost", "is_audit", "keep", "trust"]

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
