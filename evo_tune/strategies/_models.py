"""Predictions of `saea`: scores in place of losses, and the models that are fitted to them.

- `Models` combines a forest and a Gaussian process of this run's results in one prediction.
- `FidelityModel` is a Gaussian process of partial and full trainings, for runs with `--fidelity`.
- `EarlierRuns` predicts from earlier runs (`--learn-from`); its prediction is the prior mean of this run's models.

A score has variance about 1, and the best result has the highest. This module knows points and scores, not strategies.

Sources:

- Normal scores: Blom, Statistical estimates and transformed beta-variables (1958).
- Expected improvement: Jones, Schonlau & Welch, Efficient global optimization (Journal of Global Optimization 13,
  1998).
- Predicted scores for pending points: Ginsbourger, Le Riche & Carraro, Kriging is well-suited to parallelize
  optimization (2010).
- Earlier runs: Feurer, Letham & Bakshy, Scalable meta-learning for Bayesian optimization using ranking-weighted
  Gaussian process ensembles (AutoML at ICML 2018). Here weights are rank correlations, and the ensemble is a prior mean
  instead of a vote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evo_tune.genome.forest import Forest
from evo_tune.genome.history import Lesson
from evo_tune.genome.importance import rank_correlation, ranks
from evo_tune.genome.kernel import encode_features
from evo_tune.genome.process import Process
from evo_tune.plugins.strategy import GenomeResults

MAX_FIT_POINTS = 96
"""Maximum number of results that a model is fitted to, which bounds the cost of a proposal in a long run. From 100,
OpenBLAS inverts a matrix with several threads, which is slower and takes cores from the slots."""

TREES = 40
"""Number of trees of the forest."""

BAG = 0.7
"""Share of the points that each tree is fitted to. Trees of different trials disagree where trials are few."""

PENDING = 32
"""Maximum number of pending points that the models use: those with the highest predicted score."""

OPTIMISM = 1.0
"""Standard deviations added to a prediction for promotions, so that the less certain of two equals is promoted."""

PAIRS = 32
"""Maximum number of the best fully trained genomes whose first and last results are always used."""

FADE = 10.0
"""Number of results of this run after which the weight of earlier runs falls."""

PRUDENCE = 5.0
"""Number of results of this run that count as evidence against any earlier run, because a few may agree by luck."""


def normal_scores(places: np.ndarray, count: int) -> np.ndarray:
    """Return the normal scores of places among `count` results (Blom, 1958), best highest. Shape (places,).

    They depend on the order of losses only, not on their scale or on outliers.
    """
    normal = NormalDist()
    return np.array([-normal.inv_cdf((place - 0.375) / (count + 0.25)) for place in places])


def loss_scores(places: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return scores that are linear in the loss for the better half, and fall with its logarithm for the rest.

    Normal scores make a smooth surface steepest at its minimum, because the best few scores are the farthest apart.
    These are as smooth as the losses, and still neither the scale of the losses nor outliers matter.

    Args:
        places: Places of the results, 1 for the best, used where the losses have no scale. Shape (results,).
        losses: Losses of the results, NaN for one that is not known, which counts as the worst. Shape (results,).

    Returns:
        Scores with mean 0 and variance 1, best highest. Shape (results,).
    """
    known = np.isfinite(losses)
    halves = losses[known] / 2.0  # the difference of whole ones may overflow
    middle = float(np.median(halves)) if known.any() else 0.0
    span = middle - float(halves.min(initial=middle))
    if not span > 0.0:
        return normal_scores(places, len(places))
    beyond = np.minimum(halves - middle, 1e9 * span) / span
    scores = np.empty(len(losses))
    scores[known] = np.where(beyond > 0.0, -np.log1p(np.maximum(beyond, 0.0)), -beyond)
    scores[~known] = scores[known].min()
    return np.asarray((scores - scores.mean()) / scores.std())


def log_density_and_probability(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logs of the normal density and of the normal distribution function, each of the shape of `z`.

    Far below zero the function is lost in rounding. There the log uses the asymptotic value density / -z.
    """
    density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z.tolist()])
    far = density - np.log(np.maximum(-z, 1.0))
    return density, np.where(z > -30.0, np.log(np.maximum(below, 1e-300)), far)


def log_expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Return the log of the expected improvement over the best score under normal errors. Shape as `mean`.

    Far below the best, the improvement itself is lost in rounding. There the log uses the asymptotic value
    density / z².
    """
    z = (mean - best) / deviation
    density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])
    near = np.log(np.maximum(np.exp(density) + z * below, 1e-300))
    return np.asarray(np.log(deviation) + np.where(z > -30.0, near, density - 2.0 * np.log(np.maximum(-z, 30.0))))


@dataclass(frozen=True)
class Models:
    """The models of one proposal.

    Args:
        process: A Gaussian process.
        forest: A forest; None if the process predicts alone.
    """

    process: Process
    forest: Forest | None = None

    @classmethod
    def fit(
        cls,
        points: np.ndarray,
        scores: np.ndarray,
        pending: np.ndarray,
        sizes: np.ndarray,
        kinds: np.ndarray,
        rng: np.random.Generator,
        alone: bool = False,
        process: Process | None = None,
    ) -> Models:
        """Return models of some points; pending points are assumed to get their predicted score.

        Pending points do not change the mean of the process, but they reduce its variance around them. So proposals
        that are made together do not crowd, and a place does not look worse because it is being tried.

        Args:
            points: Features of the points. Shape (points, features).
            scores: Scores of the points. Shape (points,).
            pending: Features of pending points. Shape (pending, features).
            sizes: Number of values of each feature without order, 0 for one with an order. Shape (features,).
            kinds: Kind of each feature (see `Layout`). Shape (features,).
            rng: The only source of randomness.
            alone: Whether the process predicts alone.
            process: A process that is already fitted; None fits one to the points.
        """
        if process is None:
            process = Process.fit(points, scores, kinds)
        if len(pending):
            expected, _ = process.predict(pending)
            kept = np.argsort(-expected, kind="stable")[:PENDING]
            process = process.with_pending(pending[kept])
            points, scores = np.concatenate([points, pending[kept]]), np.append(scores, expected[kept])
        if alone:
            return cls(process)
        samples = np.argsort(rng.random((TREES, len(points))), axis=1)[:, : math.ceil(BAG * len(points))]
        return cls(process, Forest.fit(points, scores, sizes, samples, rng))

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the score of each point, both of shape (points,).

        Two models form a mixture with equal weights, so their disagreement adds to the variance.
        """
        predictions = [model.predict(points) for model in (self.forest, self.process) if model is not None]
        means, variances = (np.stack(parts) for parts in zip(*predictions, strict=True))
        return means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))


@dataclass(frozen=True)
class FidelityModel:
    """A Gaussian process of partial and full trainings, which predicts the result of a full training.

    It is fitted to results after several shares of a training at once. So it learns how far partial results can be
    trusted, and for which genomes they mislead.

    Args:
        process: Process fitted to some of the results.
        seen: All results.
        sizes: See `features_of`.
        used: Whether the process was fitted to a result. Shape (genomes, shares).
        best: Best score of a fully trained genome.
    """

    process: Process
    seen: GenomeResults
    sizes: np.ndarray
    used: np.ndarray
    best: float

    @classmethod
    def of(cls, seen: GenomeResults, sizes: np.ndarray) -> FidelityModel:
        """Return a process of some results; at least one must be from a full training."""
        used = _choose_results(seen.places)
        rows, shares = np.nonzero(used)
        scores = normal_scores(seen.places[used], len(seen.places))
        points = encode_features(seen.encode(rows), sizes)
        process = Process.fit(points, scores, sizes > 0, np.log(seen.shares)[shares])
        best = normal_scores(np.nanmin(seen.places[:, -1:], axis=0), len(seen.places))
        return cls(process, seen, sizes, used, float(best[0]))

    def trust(self, share: float) -> float:
        return self.process.trust(share)

    def worth(self, rows: np.ndarray) -> np.ndarray:
        mean, variance = self._predict(rows)
        return np.asarray(mean + OPTIMISM * np.sqrt(variance))

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores of genomes: measured if they were fully trained, else predicted. Shape (rows,)."""
        final = self.seen.places[rows, -1]
        known = ~np.isnan(final)
        found = np.empty(len(rows))
        found[known] = normal_scores(final[known], len(self.seen.places))
        if not known.all():
            found[~known], _ = self._predict(rows[~known])
        return np.asarray(found)

    def _predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the final score of genomes, given all their results, each of shape (rows,)."""
        points = encode_features(self.seen.encode(rows), self.sizes)
        mean, variance, last = np.empty(len(rows)), np.empty(len(rows)), self._last(rows)
        left = ~self.used[rows, last]
        if not left.all():
            mean[~left], variance[~left] = self.process.predict(points[~left])
        if left.any():
            ages, place = np.log(self.seen.shares)[last[left]], self.seen.places[rows, last][left]
            scores = normal_scores(place, len(self.seen.places))
            mean[left], variance[left] = self.process.predict_after_score(points[left], ages, scores)
        return mean, variance

    def _last(self, rows: np.ndarray) -> np.ndarray:
        """Return the column of the last result of genomes. Shape (rows,)."""
        return np.asarray(len(self.seen.shares) - 1 - np.argmax(~np.isnan(self.seen.places[rows, ::-1]), axis=1))


def _choose_results(places: np.ndarray) -> np.ndarray:
    """Return a mask of the results to fit a process to, at most POINTS. Shape (genomes, shares).

    The first and last results of the best fully trained genomes come first, so that the process can learn how the two
    are related. Half of the rest are the best other results, and half are results spread over the run.
    """
    there = ~np.isnan(places)
    if there.sum() <= MAX_FIT_POINTS:
        return np.asarray(there)
    used = np.zeros_like(there)
    ended = np.flatnonzero(there[:, -1])
    best = ended[np.argsort(places[ended, -1], kind="stable")[:PAIRS]]
    used[best, -1] = True
    used[best, 0] = there[best, 0]
    rows, columns = np.nonzero(there & ~used)
    order = np.argsort(places[rows, columns], kind="stable")
    left = MAX_FIT_POINTS - int(used.sum())
    others = np.sort(order[left // 2 :])
    spread = others[np.linspace(0, len(others) - 1, left - left // 2).astype(int)]
    for some in (order[: left // 2], spread):
        used[rows[some], columns[some]] = True
    return np.asarray(used)


@dataclass(frozen=True)
class EarlierRuns:
    """A prediction from earlier runs: the mean of their processes, weighted by how well each ranks this run's results.

    A run that ranks them at random or the other way round gets no weight.

    Args:
        lessons: Results of the earlier runs that have a weight.
        weights: Weight of each run. Shape (lessons,).
        sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
        middle: Mean prediction for this run's results.
    """

    lessons: tuple[Lesson, ...]
    weights: np.ndarray
    sizes: np.ndarray
    middle: float

    @classmethod
    def of(cls, lessons: Sequence[Lesson], points: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> EarlierRuns:
        """Return the prediction after some results of this run.

        Args:
            lessons: Results of any number of earlier runs.
            points: Features of this run's results. Shape (results, genes).
            scores: Scores of these results, best highest. Shape (results,).
            sizes: See the class.
        """
        means = [_process_of(one, sizes).predict(points[:, one.shared])[0] for one in lessons]
        count = len(scores)
        trusts = [max(0.0, rank_correlation(mean.tolist(), scores.tolist()) - 1.0 / math.sqrt(count)) for mean in means]
        kept = [place for place, trust in enumerate(trusts) if trust > 0.0]
        shares = np.array([trusts[place] ** 2 for place in kept])
        if not kept:
            return cls((), shares, sizes, 0.0)
        shares /= shares.sum()
        together = shares @ np.stack([means[place] for place in kept])
        away = together - together.mean()
        slope = float(away @ (scores - scores.mean()) / (away @ away + PRUDENCE * max(1e-9, float(together.var()))))
        slope = min(1.0, max(0.0, slope)) * min(1.0, FADE / count)
        return cls(tuple(lessons[place] for place in kept), slope * shares, sizes, slope * float(together.mean()))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the predicted scores of points, minus their mean over this run's results. Shape (points,)."""
        total = np.full(len(points), -self.middle)
        for lesson, weight in zip(self.lessons, self.weights.tolist(), strict=True):
            total += weight * _process_of(lesson, self.sizes).predict(points[:, lesson.shared])[0]
        return total


def _process_of(lesson: Lesson, sizes: np.ndarray) -> Process:
    """Return the process of an earlier run, fitted once to at most POINTS results.

    Half of them are the best, the others are spread over the ranks. Scores here are the ranks, scaled to variance 1.
    """
    if "process" not in lesson.memo:
        order = np.argsort(lesson.losses, kind="stable")
        if len(order) > MAX_FIT_POINTS:
            others = np.linspace(MAX_FIT_POINTS // 2, len(order) - 1, MAX_FIT_POINTS - MAX_FIT_POINTS // 2).astype(int)
            order = np.append(order[: MAX_FIT_POINTS // 2], order[others])
        places = ranks(lesson.losses)
        scores = np.asarray(math.sqrt(12.0) * (0.5 - (places - 0.5) / len(places)))
        points = encode_features(lesson.units[order], sizes)[:, lesson.shared]
        lesson.memo["process"] = Process.fit(points, scores[order], sizes[lesson.shared] > 0)
    found: Process = lesson.memo["process"]
    return found
