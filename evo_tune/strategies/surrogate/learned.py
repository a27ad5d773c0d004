"""What a Gaussian process learns of genomes that were trained in part: what they would come to, trained in full.

It is fitted to results after several shares of a training at once, and so learns how far early results can be trusted,
and where they mislead: what they are wrong by is as smooth over the genes as what they tell. This file knows places and
coordinates, nothing of trials, budgets to come or rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evo_tune.genome.models.features import features_of
from evo_tune.plugins.strategy import Seen
from evo_tune.strategies.surrogate.process import Process
from evo_tune.strategies.surrogate.scores import normal_scores

__all__ = ["Learned"]

POINTS = 96
"""Results that the process learns from, at most, as many as it does elsewhere."""

OPTIMISM = 1.0
"""Deviations that a genome is credited with when it is decided who goes on: of two equals, the less known one does."""

PAIRS = 32
"""Genomes trained in full, at most, whose first and last results are always among them: the best."""


@dataclass(frozen=True)
class Learned:
    """A process, and the results that it may have learned from.

    Args:
        process: Made of some of the results.
        seen: All of them.
        sizes: See `features_of`.
        used: Which of them it knows, shape (genomes, shares).
        best: The best score of a genome trained in full.
    """

    process: Process
    seen: Seen
    sizes: np.ndarray
    used: np.ndarray
    best: float

    @classmethod
    def of(cls, seen: Seen, sizes: np.ndarray) -> Learned:
        """Return what is learned of results, at least one of them after the whole training."""
        used = _selected(seen.places)
        rows, shares = np.nonzero(used)
        scores = normal_scores(seen.places[used], len(seen.places))
        points = features_of(seen.encoded(rows), sizes)
        process = Process.fit(points, scores, sizes > 0, np.log(seen.shares)[shares])
        best = normal_scores(np.nanmin(seen.places[:, -1:], axis=0), len(seen.places))
        return cls(process, seen, sizes, used, float(best[0]))

    def trust(self, share: float) -> float:
        return self.process.trust(share)

    def worth(self, rows: np.ndarray) -> np.ndarray:
        mean, variance = self._believed(rows)
        return np.asarray(mean + OPTIMISM * np.sqrt(variance))

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores of genomes: their own where they were trained in full, else what is expected."""
        last = self.seen.places[rows, -1]
        known = ~np.isnan(last)
        found = np.empty(len(rows))
        found[known] = normal_scores(last[known], len(self.seen.places))
        if not known.all():
            found[~known], _ = self._believed(rows[~known])
        return np.asarray(found)

    def _believed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the last score of genomes, given all results of theirs, each of shape (rows,)."""
        points = features_of(self.seen.encoded(rows), self.sizes)
        mean, variance, last = np.empty(len(rows)), np.empty(len(rows)), self._last(rows)
        left = ~self.used[rows, last]
        if not left.all():
            mean[~left], variance[~left] = self.process.predict(points[~left])
        if left.any():
            ages, place = np.log(self.seen.shares)[last[left]], self.seen.places[rows, last][left]
            scores = normal_scores(place, len(self.seen.places))
            mean[left], variance[left] = self.process.updated(points[left], ages, scores)
        return mean, variance

    def _last(self, rows: np.ndarray) -> np.ndarray:
        """Return the column of the last result of genomes, shape (rows,)."""
        return np.asarray(len(self.seen.shares) - 1 - np.argmax(~np.isnan(self.seen.places[rows, ::-1]), axis=1))


def _selected(places: np.ndarray) -> np.ndarray:
    """Return which results the process learns from, of shape (genomes, shares), at most POINTS.

    First and last results of the best that have the last one, so that it can learn how these go together; of what is
    left, half of the places go to the best and half to results spread over the run.
    """
    there = ~np.isnan(places)
    if there.sum() <= POINTS:
        return np.asarray(there)
    used = np.zeros_like(there)
    ended = np.flatnonzero(there[:, -1])
    best = ended[np.argsort(places[ended, -1], kind="stable")[:PAIRS]]
    used[best, -1] = True
    used[best, 0] = there[best, 0]
    rows, columns = np.nonzero(there & ~used)
    order = np.argsort(places[rows, columns], kind="stable")
    left = POINTS - int(used.sum())
    others = np.sort(order[left // 2 :])
    spread = others[np.linspace(0, len(others) - 1, left - left // 2).astype(int)]
    for some in (order[: left // 2], spread):
        used[rows[some], columns[some]] = True
    return np.asarray(used)
