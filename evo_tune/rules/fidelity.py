"""Many fidelities: who goes on to a larger budget, and which curves are hopeless; pure functions of history.

Asynchronous successive halving (Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020),
with a guard: how far early results can be trusted is measured in the run itself and decides how sharply they
select. This module proposes no new genome and knows nothing of strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.genome.importance import rank_correlation, ranks
from evo_tune.genome.operators import PROMOTION
from evo_tune.genome.standing import Entry
from evo_tune.genome.trial import DECAYED, Proposal

__all__ = ["audits_among", "bounds", "expected_cost", "is_audit", "keep", "parse_rungs", "promotion", "trust"]

BELIEF = 0.6
"""Rank correlation that is taken for granted before anything was measured."""

WEIGHT = 4.0
"""Number of measurements that this belief counts for."""

CAUTION = 1.5
"""Deviations of the early score of the eventual best that are allowed for when genomes go on."""

LEADERS = 3
"""Genomes leading at the end from whose early places promotions learn how far down to look."""

LOOKS = (0.125, 0.25, 0.5)
"""Fractions of the full training at which a curve may be found hopeless."""

ENOUGH = 5
"""Fewest fully trained genomes with a curve before any is found hopeless."""

MEDIAN = 0.5
"""Least share of the curves that are never found hopeless (the median rule of Golovin et al., Vizier, KDD 2017)."""


def parse_rungs(text: str | float | Sequence[str | float]) -> tuple[float, ...]:
    """Read '1/9,1/3,1', or the numbers themselves: (1/9, 1/3, 1).

    Raises:
        OptionError: They are no increasing fractions that end in 1.
    """
    parts = text.split(",") if isinstance(text, str) else list(text) if isinstance(text, Sequence) else [text]
    try:
        rungs = tuple(float(Fraction(part.strip()) if isinstance(part, str) else part) for part in parts)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise OptionError(f"--fidelity {text}: expected fractions of a full training, such as 1/9,1/3,1") from None
    if not rungs or not all(0.0 < rung <= 1.0 for rung in rungs):
        raise OptionError(f"--fidelity {text}: expected fractions above 0 and at most 1, such as 1/9,1/3,1")
    if any(low >= high for low, high in pairwise(rungs)):
        raise OptionError(f"--fidelity {text}: expected increasing fractions, such as 1/9,1/3,1")
    if rungs[-1] != 1.0:
        raise OptionError(f"--fidelity {text}: expected 1, the full training, as the last one, such as 1/9,1/3,1")
    return rungs


def is_audit(number: int) -> bool:
    """Say whether birth `number` (promotions and replicates not counted) is trained in full whatever it shows.

    The default and the births 1, 2, 4, 8, …: many at first, when nothing is known, and few in a long run. Only
    genomes that were not chosen by their early results can show that those mislead.
    """
    return number & (number - 1) == 0


def audits_among(count: int) -> list[int]:
    """Return which of so many births are audits; see `is_audit`."""
    return [number for number in (0, *(2**power for power in range(count.bit_length()))) if number < count]


def trust(early: Sequence[float], late: Sequence[float]) -> float:
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


def promotion(
    told: Sequence[Entry], promoted: set[tuple[str, float]], audits: set[str], rungs: Sequence[float]
) -> Proposal | None:
    """Return the continuation that is due, or None.

    Audits come first, then the highest rung. Of those with a value at a rung, the best go on: as many as the
    rungs' ratio says, or more where early results are not to be trusted.

    Args:
        told: What was told of each genome.
        promoted: Keys and budgets that are out.
        audits: Keys of the genomes that are trained in full whatever they show.
        rungs: Budgets, increasing.
    """
    steps = list(pairwise(rungs))

    def waits(entry: Entry, high: float) -> bool:
        return high not in entry.results and (entry.key, high) not in promoted

    for low, high in steps:
        for entry in told:
            if entry.key in audits and entry.losses(low) is not None and entry.results[low].ok and waits(entry, high):
                return _continued(entry, high)
    for low, high in reversed(steps):
        ranked = _ranked(told, low)
        share = max(low / high, _share(told, low, ranked))
        for entry in ranked[: math.floor(share * len(ranked))]:
            if waits(entry, high):
                return _continued(entry, high)
    return None


def _continued(entry: Entry, budget: float) -> Proposal:
    latest = entry.latest
    return Proposal(latest.genome, PROMOTION, latest.candidate.parents, budget, resumes=latest.id)


def _ranked(told: Sequence[Entry], rung: float) -> list[Entry]:
    """Return the genomes with a value at a rung: feasible ones first, then by the number that dominate them."""
    there = [entry for entry in told if rung in entry.results and entry.results[rung].ok]
    losses = np.array([entry.results[rung].losses for entry in there], dtype=float)
    if not there:
        return []
    if losses.shape[1] == 1:
        order = ranks(losses[:, 0])
    else:  # Fonseca & Fleming, 1993
        below = (losses[:, None, :] <= losses[None, :, :]).all(axis=2) & (losses[:, None, :] < losses[None]).any(axis=2)
        order = below.sum(axis=0)
    rows = zip(there, order.tolist(), strict=True)
    return [
        entry for entry, _ in sorted(rows, key=lambda row: (row[0].results[rung].violation, row[1], row[0].birth.id))
    ]


def _share(told: Sequence[Entry], rung: float, ranked: Sequence[Entry]) -> float:
    """Return the share of the genomes at a rung that go on, from those that were trained in full as well.

    It reaches at least as far down as the place from which one of the present leaders came.
    """
    place = {entry.key: place for place, entry in enumerate(ranked, 1)}
    late = [entry for entry in _ranked(told, 1.0) if entry.key in place]
    measured = trust([place[entry.key] for entry in late], range(len(late)))
    depth = max((place[entry.key] for entry in late[:LEADERS]), default=0)
    return max(keep(measured, max(1, len(ranked)), CAUTION), depth / max(1, len(ranked)))


def bounds(
    told: Sequence[Entry], metric: str, sign: float, start: float, budget: float
) -> tuple[tuple[float, str, float], ...]:
    """Return the bounds with which a candidate is born: beyond them its curve is hopeless.

    A curve is hopeless where it is worse than those of so large a share of the told genomes that, by the
    correlation of curves there with full results, it cannot be expected to end best; never better than the median.

    Args:
        told: What was told of each genome.
        metric: The objective's.
        sign: Of the objective.
        start: Fraction of the training that is done.
        budget: Where it ends.
    """
    found = []
    for look in LOOKS:
        if not start < look < budget:
            continue
        reached = [(value, entry) for entry in told if (value := _value_at(entry, metric, sign, look)) is not None]
        full = [
            (value, losses[0]) for value, entry in reached if (losses := entry.losses(1.0)) and losses[0] < math.inf
        ]
        if len(full) < ENOUGH:
            continue
        share = max(MEDIAN, keep(trust(*zip(*full, strict=True)), len(reached), 2.0))
        kept = math.ceil(share * len(reached))
        if kept < len(reached):
            found.append((look, metric, sorted(value for value, _ in reached)[kept - 1]))
    return tuple(found)


def _value_at(entry: Entry, metric: str, sign: float, look: float) -> float | None:
    """Return a curve's last loss at or before a fraction; None if it did not get there or does not say.

    A loss after the decay of a rung is no match for one at the peak of the learning rate, which it would put to shame:
    only points before it count, and bounds are for such alone (`Context.report`).
    """
    before = [(fraction, point) for fraction, point in entry.curve if not point.get(DECAYED)]
    if not before or before[-1][0] < look:
        return None
    values = [sign * point[metric] for fraction, point in before if fraction <= look and metric in point]
    return values[-1] if values and math.isfinite(values[-1]) else None
