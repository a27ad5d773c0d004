"""The one prediction of durations: of a genome's training, and of an average one.

The dry run, `--hours`, the deadline and the lines of progress ask it. It knows the results of the run, the timed steps,
and what the evaluator estimates, and loads no torch.
"""

import math
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np

from evo_tune.errors import EvoTuneError
from evo_tune.forecast.timing import Pace
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome
from evo_tune.report.summary import candidate_costs, training_share
from evo_tune.store.run import Run

# Metric in which `estimate` predicts the seconds of a full training.
ESTIMATED_SECONDS = "seconds"

# Number of results that allow a prediction without timings. Timings count as much as this many results.
MIN_RESULTS = 3

# Number of latest trainings that predict the duration of a genome: the load of the machine changes.
MOST_RECENT = 24

# Number of the most similar of these that predict it, if the evaluator estimates no duration.
MOST_SIMILAR = 5

# Largest ratio of the shares of two trainings of which one predicts the other, if there are such trainings. A start, a
# checkpoint and an evaluation cost a short training relatively more.
MAX_SHARE_RATIO = 2.0


class Clock:
    """Predicts the durations of trainings.

    Args:
        run: The run, whose results it learns from; None before it begins.
        pace: Times of a few steps, if they were measured; they predict until `MOST_SIMILAR` trainings have ended.
        space: Returns the present space, which a run may widen; needed for the durations of single genomes.
        estimate: Returns the metrics of a genome that are known before its training.
    """

    def __init__(
        self,
        run: Run | None = None,
        pace: Pace | None = None,
        space: Callable[[], SearchSpace] = lambda: SearchSpace(),
        estimate: Callable[[Genome], Mapping[str, float]] = lambda genome: {},
    ) -> None:
        self.run, self.pace, self.space, self._estimate = run, pace, space, estimate
        # Number of results and space that the arrays below follow from.
        self._learned: tuple[int, SearchSpace | None] = (-1, None)

    @property
    def state(self) -> tuple[int, SearchSpace]:
        """What predictions follow from: the number of results, and the present space."""
        return (0 if self.run is None else len(self.run.recorded)), self.space()

    @property
    def mean_seconds(self) -> float:
        """Expected seconds of a full training in the rest of a search; 0 if unknown.

        Timings count as much as `MIN_RESULTS` trainings. A search concentrates on good genomes, so later results
        predict it better.
        """
        weight, timed_seconds = (0, 0.0) if self.pace is None else (MIN_RESULTS, self.pace.mean_seconds)
        seconds, cost = weight * timed_seconds, float(weight)
        if self.run is not None:
            ids = list(self.run.outcomes)  # before the costs, since other threads record results
            costs = candidate_costs(self.run)
            for id in ids[len(ids) // 2 :] if len(ids) >= 2 * self.run.manifest.population else ids:
                seconds, cost = seconds + self.run.outcomes[id].seconds, cost + costs[id]
        return seconds / cost if cost > 0 else 0.0

    def predict_seconds(self, genome: Genome, share: float = 1.0) -> float:
        """Return the expected seconds of a share of a genome's training; 0 if unknown."""
        return median(self._predictions(genome, share) or [0.0])

    def own_seconds(self, id: int) -> float:
        """Return the seconds of a trial's own full training, from all its parts; 0 if that is unknown."""
        assert self.run is not None
        seconds, share, part = 0.0, 0.0, self.run.candidates[id]
        while True:
            outcome = self.run.outcomes.get(part.id)
            if outcome is None:
                return 0.0
            seconds, share = seconds + outcome.seconds, share + training_share(self.run, part)
            if part.resumes is None:
                return seconds / share if share > 0 else 0.0
            part = self.run.candidates[part.resumes]

    def repeat_seconds(self, id: int) -> float:
        """Return the predicted seconds of another full training of a trial's genome; 0 if unknown."""
        assert self.run is not None
        predictions = self._predictions(self.run.candidates[id].genome, 1.0) or [0.0]
        own_seconds = self.own_seconds(id)
        # The load of the machine may have changed since its own training, and workers started during the first ones.
        return min(max(own_seconds, predictions[0]), predictions[-1]) if own_seconds else predictions[-1]

    def _learn(self) -> None:
        """Read the latest trainings, after a new result or in a wider space."""
        if self._learned == self.state:
            return
        self._learned, space, latest = self.state, self.space(), []
        if (run := self.run) is not None:
            trained = [(run.candidates[id], run.outcomes[id]) for id in run.recorded if run.outcomes[id].metrics]
            rows = [(candidate.genome, training_share(run, candidate), end.seconds) for candidate, end in trained]
            latest = [row for row in rows if row[1] > 0][-MOST_RECENT:]
        genomes = [genome for genome, _, _ in latest]
        self._shares = np.array([share for _, share, _ in latest])
        self._seconds = np.array([seconds for _, _, seconds in latest])
        self._units = np.array([space.encode(genome) for genome in genomes]).reshape(len(latest), len(space.genes))
        self._estimates = np.array([self._estimate_seconds(genome) for genome in genomes])

    def _predictions(self, genome: Genome, share: float) -> list[float]:
        """Return predicted seconds of a share of a genome's training, increasing; empty if nothing is known.

        If the evaluator estimates seconds, each is this estimate times the error of an earlier one. Otherwise each is
        the time of a similar training, or of a timed one.
        """
        self._learn()
        # Trainings of about this share; all trainings if there are none.
        differences = np.abs(np.log(self._shares / share))
        indices = np.flatnonzero(differences <= math.log(MAX_SHARE_RATIO) + 1e-9)
        indices = indices if len(indices) else np.arange(len(differences))
        estimate = self._estimate_seconds(genome)
        if not math.isnan(estimate):
            indices = indices[np.isfinite(self._estimates[indices])]
            errors = self._seconds[indices] / (self._shares[indices] * self._estimates[indices])
            return sorted((share * estimate * (errors if len(errors) else np.ones(1))).tolist())
        distances = np.abs(self._units[indices] - self.space().encode(genome)).sum(axis=1)
        similar = indices[np.argsort(distances, kind="stable")[:MOST_SIMILAR]]
        predictions: list[float] = (share * self._seconds[similar] / self._shares[similar]).tolist()
        if self.pace is not None and len(similar) < MOST_SIMILAR:
            judging = self.pace.judging
            predictions += [judging + (seconds - judging) * share for seconds in self.pace.seconds]
        return sorted(predictions)

    def _estimate_seconds(self, genome: Genome) -> float:
        """Return the seconds of a full training as the evaluator estimates them; NaN if it does not."""
        try:
            seconds = float(self._estimate(genome).get(ESTIMATED_SECONDS, math.nan))
        except EvoTuneError:  # the training reports the same error
            return math.nan
        return seconds if 0.0 < seconds < math.inf else math.nan
