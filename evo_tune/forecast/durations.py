"""Predict the duration of single trainings: from those that have ended, the evaluator's estimate, or timed steps.

Only the latest trainings are used, because the load of the machine changes. `ahead` predicts whole runs instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np

from evo_tune.errors import EvoTuneError
from evo_tune.forecast.timing import Pace
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome
from evo_tune.report.summary import added_share
from evo_tune.store.run import Run

ESTIMATED = "seconds"
"""Metric in which `estimate` predicts the seconds of a full training."""

LATEST = 24
"""Number of latest trainings that are used."""

LIKE = 5
"""Number of the most similar of these that predict the duration of a genome, if the evaluator predicts none."""

NEAR = 2.0
"""Largest ratio of the shares of two trainings of which one predicts the other, if there are such trainings.

A start, a checkpoint and an evaluation cost a short training relatively more."""


class Durations:
    """Predicted durations of the trainings of a run, from its results so far.

    Args:
        run: Run with its results.
        space: Present space of the run.
        estimate: Function that returns the metrics of a genome that are known before its training.
        pace: Times of a few steps, if they were measured; they predict until `LIKE` trainings have ended.
    """

    def __init__(
        self, run: Run, space: SearchSpace, estimate: Callable[[Genome], Mapping[str, float]], pace: Pace | None
    ) -> None:
        self._space, self._estimate, self._pace = space, estimate, pace
        shares = {id: added_share(run, run.candidates[id]) for id in run.recorded if run.outcomes[id].metrics}
        ids = [id for id, share in shares.items() if share > 0][-LATEST:]
        self._shares = np.array([shares[id] for id in ids])
        self._seconds = np.array([run.outcomes[id].seconds for id in ids])
        self._genomes = [run.candidates[id].genome for id in ids]
        self._units = np.array([space.encode(genome) for genome in self._genomes]).reshape(len(ids), len(space.genes))
        self._known = np.array([self._estimated(genome) for genome in self._genomes])

    def range_of(self, genome: Genome) -> tuple[float, float]:
        """Return the shortest and the longest seconds that a genome's full training may take; 0 if nothing is known."""
        found = self._of(genome, 1.0) or [0.0]
        return found[0], found[-1]

    def expected(self, genome: Genome, share: float = 1.0) -> float:
        """Return the expected seconds of a share of a genome's training; 0 if nothing is known."""
        found = self._of(genome, share)
        return median(found) if found else 0.0

    @property
    def longest(self) -> float:
        """Longest seconds of a full training so far; 0 if nothing is known."""
        timed = () if self._pace is None else (*self._pace.seconds, *self._pace.corners)
        return float(max([*(self._seconds / self._shares), *timed], default=0.0))

    @property
    def usual(self) -> float:
        """Mean seconds of a full training; 0 if nothing is known."""
        if not len(self._seconds):
            return self._pace.usual if self._pace is not None else 0.0
        near = self._near(1.0)
        return float(np.mean(self._seconds[near] / self._shares[near]))

    def _of(self, genome: Genome, share: float) -> list[float]:
        """Return what a share of a genome's training may take, in seconds, increasing."""
        near = self._near(share)
        predicted = self._estimated(genome)
        if not math.isnan(predicted):
            near = near[np.isfinite(self._known[near])]
            ratios = self._seconds[near] / (self._shares[near] * self._known[near]) if len(near) else np.ones(1)
            return sorted((share * predicted * ratios).tolist())
        far = np.abs(self._units[near] - self._space.encode(genome)).sum(axis=1)
        like = near[np.argsort(far, kind="stable")[:LIKE]]
        found = (share * self._seconds[like] / self._shares[like]).tolist()
        if self._pace is not None and len(found) < LIKE:
            found += [self._pace.judging + (each - self._pace.judging) * share for each in self._pace.seconds]
        return sorted(found)

    def _near(self, share: float) -> np.ndarray:
        """Return the places of the trainings of about this share; of all trainings if there are none."""
        far = np.abs(np.log(self._shares / share))
        near = np.flatnonzero(far <= math.log(NEAR) + 1e-9)
        return near if len(near) else np.arange(len(far))

    def _estimated(self, genome: Genome) -> float:
        """Return the seconds of a full training as the evaluator predicts them; NaN if it does not."""
        try:
            found = float(self._estimate(genome).get(ESTIMATED, math.nan))
        except EvoTuneError:  # the training reports the same error
            return math.nan
        return found if 0.0 < found < math.inf else math.nan
