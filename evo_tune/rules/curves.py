"""Which learning curves are hopeless: bounds with which a candidate is born, from the curves of all genomes told.

What curves had reached at a few fractions is kept while the run goes on (`Curves`, the state of a fold). How far early
results can be trusted is `fidelity`'s; nothing here stops a training, and nothing proposes one.
"""

from __future__ import annotations

import math

import numpy as np

from evo_tune.genome.history import Grown
from evo_tune.genome.standing import Entry
from evo_tune.genome.trial import DECAYED
from evo_tune.rules.fidelity import keep, trust

__all__ = ["Curves"]

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
