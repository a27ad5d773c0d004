"""Predictions of `saea`: scores in place of losses, the models that are fitted to them, and the acquisition.

- `Models` combines a forest and a Gaussian process of this run's results in one prediction.
- `FidelityModel` is a Gaussian process of partial and full trainings, for runs with `--fidelity`.
- `EarlierRuns` predicts from earlier runs (`--learn-from`); its prediction is the prior mean of this run's models.
- `Acquisition` is a product of factors: expected improvement × probability of success × probability that each
  constraint is met × prior. A factor returns its logarithm at unit
  coordinates, and the gradient where it has one; the logarithm of the product is their sum.

A score has variance about 1, and the best result has the highest. This module knows points, unit coordinates and
scores, not trials or strategies.

Sources:

- Normal scores: Blom, Statistical estimates and transformed beta-variables (1958).
- Expected improvement: Jones, Schonlau & Welch, Efficient global optimization (Journal of Global Optimization 13,
  1998).
- Predicted scores for pending points: Ginsbourger, Le Riche & Carraro, Kriging is well-suited to parallelize
  optimization (2010).
- Earlier runs: Feurer, Letham & Bakshy, Scalable meta-learning for Bayesian optimization using ranking-weighted
  Gaussian process ensembles (AutoML at ICML 2018). Here weights are rank correlations, and the ensemble is a prior mean
  instead of a vote.
- Factors: Gardner et al., Bayesian optimization with inequality constraints (ICML 2014); Gelbart, Snoek & Adams,
  Bayesian optimization with unknown constraints (UAI 2014), for failures; Hvarfner et al., πBO (ICLR 2022), for the
  prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias, cast

import numpy as np

from evo_tune.genome.forest import Forest
from evo_tune.genome.genes import Gene
from evo_tune.genome.history import Lesson
from evo_tune.genome.kernel import FeatureLayout, encode_features
from evo_tune.genome.process import GaussianProcess
from evo_tune.genome.space import log_prior, log_prior_gradient
from evo_tune.genome.values import rank_correlation, ranks
from evo_tune.plugins.strategy import GenomeResults

# Maximum number of results that a model is fitted to, which bounds the cost of a proposal in a long run. From 100,
# OpenBLAS inverts a matrix with several threads, which is slower and takes cores from the slots.
MAX_FIT_POINTS = 96

# Number of trees of the forest.
TREES = 40

# Share of the points that each tree is fitted to. Trees of different trials disagree where trials are few.
BAG = 0.7

# Maximum number of pending points that the models use: those with the highest predicted score.
PENDING = 32

# Standard deviations added to a prediction for promotions, so that the less certain of two equals is promoted.
OPTIMISM = 1.0

# Maximum number of the best fully trained genomes whose first and last results are always used.
PAIRS = 32

# Number of results of this run after which the weight of earlier runs falls.
FADE = 10.0

# Number of results of this run that count as evidence against any earlier run, because a few may agree by luck.
PRUDENCE = 5.0

# Variance that is added to the prediction of success, so that a few failures near a point do not rule it out.
UNSURE = 0.05

# Share of the variance of success that is predicted from the other trials above which failures are a region, and the
# largest noise variance there. Trials at both sides of an edge look like noise, which hides it. Failures at random
# seldom have a share above 0.1.
PREDICTABLE, SHARP = 0.2, 0.05

# Share of failures without a price, and price of each further one: by so much the power of the probability of success
# rises. Where all that is safe is known, expected improvement is larger beyond an edge, however likely a failure is. A
# region can be avoided, so fewer failures are borne.
ANYWHERE, IN_REGION = (0.05, 3.0), (0.03, 5.0)

# Largest value of a constraint that a model is fitted to, in standard deviations; larger ones are cut.
LARGEST = 3.0


def normal_scores(ranking: np.ndarray, count: int) -> np.ndarray:
    """Return the normal scores of ranks among `count` results (Blom, 1958), best highest. Shape (ranks,).

    They depend on the order of losses only, not on their scale or on outliers.
    """
    normal = NormalDist()
    return np.array([-normal.inv_cdf((rank - 0.375) / (count + 0.25)) for rank in ranking])


def loss_scores(ranking: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return scores that are linear in the loss for the better half, and fall with its logarithm for the rest.

    Normal scores make a smooth surface steepest at its minimum, because the best few scores are the farthest apart.
    These are as smooth as the losses, and still neither the scale of the losses nor outliers matter.

    Args:
        ranking: Ranks of the results, 1 for the best, used where the losses have no scale. Shape (results,).
        losses: Losses of the results, NaN for an unknown one, which counts as the worst. Shape (results,).

    Returns:
        Scores with mean 0 and variance 1, best highest. Shape (results,).
    """
    is_finite = np.isfinite(losses)
    halves = losses[is_finite] / 2.0  # the difference of two losses themselves may overflow
    middle = float(np.median(halves)) if is_finite.any() else 0.0
    span = middle - float(halves.min(initial=middle))
    if not span > 0.0:
        return normal_scores(ranking, len(ranking))
    excess = np.minimum(halves - middle, 1e9 * span) / span
    scores = np.empty(len(losses))
    scores[is_finite] = np.where(excess > 0.0, -np.log1p(np.maximum(excess, 0.0)), -excess)
    scores[~is_finite] = scores[is_finite].min()
    return np.asarray((scores - scores.mean()) / scores.std())


def log_density_and_probability(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logs of the normal density and of the normal distribution function, each of the shape of `z`.

    Far below zero the function is lost in rounding. There the log uses the asymptotic value density / -z.
    """
    density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z.tolist()])
    asymptote = density - np.log(np.maximum(-z, 1.0))
    return density, np.where(z > -30.0, np.log(np.maximum(below, 1e-300)), asymptote)


def log_expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Return the log of the expected improvement over the best score under normal errors. Shape as `mean`.

    Far below the best, the improvement itself is lost in rounding. There the log uses the asymptotic value
    density / z².
    """
    z = (mean - best) / deviation
    density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])
    exact = np.log(np.maximum(np.exp(density) + z * below, 1e-300))
    asymptote = density - 2.0 * np.log(np.maximum(-z, 30.0))
    return np.asarray(np.log(deviation) + np.where(z > -30.0, exact, asymptote))


@dataclass(frozen=True)
class Models:
    """The models of one proposal.

    Args:
        process: A Gaussian process.
        forest: A forest; None if the process predicts alone.
    """

    process: GaussianProcess
    forest: Forest | None = None

    @classmethod
    def fit(
        cls,
        process: GaussianProcess,
        points: np.ndarray,
        scores: np.ndarray,
        pending: np.ndarray,
        sizes: np.ndarray,
        rng: np.random.Generator,
        alone: bool,
    ) -> Models:
        """Return models of some points; pending points are assumed to get their predicted score.

        Pending points do not change the mean of the process, but they reduce its variance around them. So proposals
        that are made together do not crowd, and a place does not look worse because it is being tried.

        Args:
            process: Process fitted to the points.
            points: Features of the points. Shape (points, features).
            scores: Scores of the points. Shape (points,).
            pending: Features of pending points. Shape (pending, features).
            sizes: Number of values of each feature without order, 0 for one with an order. Shape (features,).
            rng: The only source of randomness.
            alone: Whether the process predicts alone.
        """
        if len(pending):
            expected, _ = process.predict(pending)
            best = np.argsort(-expected, kind="stable")[:PENDING]
            process = process.with_pending(pending[best])
            points, scores = np.concatenate([points, pending[best]]), np.append(scores, expected[best])
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
        results: All results.
        layout: Features of the space.
        used: Whether the process was fitted to a result. Shape (genomes, shares).
    """

    process: GaussianProcess
    results: GenomeResults
    layout: FeatureLayout
    used: np.ndarray

    @classmethod
    def of(cls, results: GenomeResults, layout: FeatureLayout) -> FidelityModel:
        """Return a model of some results; at least one must be from a full training."""
        used, count = _choose_results(results.places), len(results.places)
        rows, shares = np.nonzero(used)
        scores = normal_scores(results.places[used], count)
        points = layout.features(results.encode(rows))
        process = GaussianProcess.fit(points, scores, layout.kinds, np.log(results.shares)[shares])
        return cls(process, results, layout, used)

    def trust(self, share: float) -> float:
        return self.process.trust(share)

    def worth(self, rows: np.ndarray) -> np.ndarray:
        mean, variance = self._predict(rows)
        return np.asarray(mean + OPTIMISM * np.sqrt(variance))

    def _predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the final score of genomes, given all their results, each of shape (rows,)."""
        places, points = self.results.places, self.layout.features(self.results.encode(rows))
        last_columns = places.shape[1] - 1 - np.argmax(~np.isnan(places[rows, ::-1]), axis=1)
        mean, variance = np.empty(len(rows)), np.empty(len(rows))
        is_new = ~self.used[rows, last_columns]
        if not is_new.all():
            mean[~is_new], variance[~is_new] = self.process.predict(points[~is_new])
        if is_new.any():
            ages = np.log(self.results.shares)[last_columns[is_new]]
            scores = normal_scores(places[rows, last_columns][is_new], len(places))
            mean[is_new], variance[is_new] = self.process.predict_after_score(points[is_new], ages, scores)
        return mean, variance


def _choose_results(places: np.ndarray) -> np.ndarray:
    """Return a mask of the results to fit a process to, at most MAX_FIT_POINTS. Shape (genomes, shares).

    The first and last results of the best fully trained genomes come first, so that the process can learn how the two
    are related. Half of the rest are the best other results, and half are results spread over the run.
    """
    exists = ~np.isnan(places)
    if exists.sum() <= MAX_FIT_POINTS:
        return np.asarray(exists)
    used = np.zeros_like(exists)
    full = np.flatnonzero(exists[:, -1])
    best = full[np.argsort(places[full, -1], kind="stable")[:PAIRS]]
    used[best, -1] = True
    used[best, 0] = exists[best, 0]
    rows, columns = np.nonzero(exists & ~used)
    order = np.argsort(places[rows, columns], kind="stable")
    room = MAX_FIT_POINTS - int(used.sum())
    worse = np.sort(order[room // 2 :])
    spread = worse[np.linspace(0, len(worse) - 1, room - room // 2).astype(int)]
    chosen = np.append(order[: room // 2], spread)
    used[rows[chosen], columns[chosen]] = True
    return np.asarray(used)


@dataclass(frozen=True)
class EarlierRuns:
    """A prediction from earlier runs: the mean of their processes, weighted by how well each ranks this run's results.

    A run that ranks them at random or the other way round gets no weight.

    Args:
        lessons: Results of the earlier runs that have a weight.
        weights: Weight of each run. Shape (lessons,).
        sizes: Number of values of each gene without order, 0 for one with an order. Shape (genes,).
        mean: Mean prediction for this run's results.
    """

    lessons: tuple[Lesson, ...]
    weights: np.ndarray
    sizes: np.ndarray
    mean: float

    @classmethod
    def of(cls, lessons: Sequence[Lesson], points: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> EarlierRuns:
        """Return the prediction after some results of this run.

        Args:
            lessons: Results of any number of earlier runs.
            points: Features of this run's results. Shape (results, genes).
            scores: Scores of these results, best highest. Shape (results,).
            sizes: See the class.
        """
        count = len(scores)
        means = [_lesson_process(lesson, sizes).predict(points[:, lesson.shared])[0] for lesson in lessons]
        trusts = [max(0.0, rank_correlation(mean.tolist(), scores.tolist()) - 1.0 / math.sqrt(count)) for mean in means]
        useful = [number for number, trust in enumerate(trusts) if trust > 0.0]
        shares = np.array([trusts[number] ** 2 for number in useful])
        if not useful:
            return cls((), shares, sizes, 0.0)
        shares /= shares.sum()
        together = shares @ np.stack([means[number] for number in useful])
        centred = together - together.mean()
        evidence = centred @ centred + PRUDENCE * max(1e-9, float(together.var()))
        slope = float(centred @ (scores - scores.mean()) / evidence)
        slope = min(1.0, max(0.0, slope)) * min(1.0, FADE / count)
        return cls(tuple(lessons[number] for number in useful), slope * shares, sizes, slope * float(together.mean()))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the predicted scores of points, minus their mean over this run's results. Shape (points,)."""
        total = np.full(len(points), -self.mean)
        for lesson, weight in zip(self.lessons, self.weights.tolist(), strict=True):
            total += weight * _lesson_process(lesson, self.sizes).predict(points[:, lesson.shared])[0]
        return total


def _lesson_process(lesson: Lesson, sizes: np.ndarray) -> GaussianProcess:
    """Return the process of an earlier run, fitted once to at most MAX_FIT_POINTS results.

    Half of them are the best, the others are spread over the ranks. Scores here are the ranks, scaled to variance 1.
    """
    if "process" not in lesson.memo:
        order, half = np.argsort(lesson.losses, kind="stable"), MAX_FIT_POINTS // 2
        if len(order) > MAX_FIT_POINTS:
            spread = np.linspace(half, len(order) - 1, MAX_FIT_POINTS - half).astype(int)
            order = np.append(order[:half], order[spread])
        scores = np.asarray(math.sqrt(12.0) * (0.5 - (ranks(lesson.losses) - 0.5) / len(lesson.losses)))
        points = encode_features(lesson.units[order], sizes)[:, lesson.shared]
        lesson.memo["process"] = GaussianProcess.fit(points, scores[order], sizes[lesson.shared] > 0)
    return cast(GaussianProcess, lesson.memo["process"])


@dataclass(frozen=True)
class ExpectedImprovement:
    """Expected improvement over the best score.

    Args:
        models: Models of the scores.
        layout: Features of the space.
        best: Best score of a trial that meets the constraints.
        earlier: Prediction of earlier runs, which is added to that of the models.
    """

    models: Models
    layout: FeatureLayout
    best: float
    earlier: EarlierRuns

    def logs(self, units: np.ndarray) -> np.ndarray:
        mean, deviation = self.models.predict(self.layout.features(units))
        earlier_mean = self.earlier(encode_features(units, self.earlier.sizes))
        return log_expected_improvement(mean + earlier_mean, deviation, self.best)

    def gradients(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `logs` does and its gradient, where a Gaussian process of this run predicts alone."""
        mean, variance, mean_gradient, variance_gradient = self.models.process.gradients(self.layout.features(units))
        deviation = np.sqrt(variance)
        density, below = log_density_and_probability((mean - self.best) / deviation)
        improvement = log_expected_improvement(mean, deviation, self.best)
        by_mean = np.exp(np.minimum(below - improvement, 50.0))
        by_variance = np.exp(np.minimum(density - improvement, 50.0)) / (2.0 * deviation)
        return improvement, by_mean[:, None] * mean_gradient + by_variance[:, None] * variance_gradient


@dataclass(frozen=True)
class Feasibility:
    """Probability that a value is below a limit.

    Args:
        process: Process of the value.
        layout: Features of the space.
        limit: Largest allowed value.
        noise: Variance that is added to that of the process.
        power: Power of the probability.
    """

    process: GaussianProcess
    layout: FeatureLayout
    limit: float
    noise: float
    power: float = 1.0

    def logs(self, units: np.ndarray) -> np.ndarray:
        mean, variance = self.process.predict(self.layout.features(units))
        return self.power * log_density_and_probability((self.limit - mean) / np.sqrt(variance + self.noise))[1]

    def probabilities(self, units: np.ndarray) -> np.ndarray:
        """Return the probabilities themselves, without the power. Shape (points,)."""
        return np.asarray(np.exp(self.logs(units) / self.power))

    def gradients(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance, mean_gradient, variance_gradient = self.process.gradients(self.layout.features(units))
        variance = variance + self.noise
        z = (self.limit - mean) / np.sqrt(variance)
        density, below = log_density_and_probability(z)
        by_z = self.power * np.exp(np.minimum(density - below, 50.0)) / np.sqrt(variance)
        falling = by_z[:, None] * (mean_gradient + (0.5 * z / np.sqrt(variance))[:, None] * variance_gradient)
        return self.power * below, -falling


@dataclass(frozen=True)
class Prior:
    """Priors of the genes, to a power.

    Args:
        genes: Genes by name.
        weight: The power, which falls as a run goes on.
    """

    genes: Mapping[str, Gene]
    weight: float

    def logs(self, units: np.ndarray) -> np.ndarray:
        return self.weight * log_prior(self.genes, units)

    def gradients(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.logs(units), self.weight * log_prior_gradient(self.genes, units)


# A factor of the acquisition. `logs` returns its logarithm at unit coordinates of shape (points, genes): (points,).
# `gradients` returns that and its gradient, shape (points, genes), 0 for genes without an order.
Factor: TypeAlias = ExpectedImprovement | Feasibility | Prior


@dataclass(frozen=True)
class Acquisition:
    """The product of factors.

    Args:
        factors: The factors.
        noise: Share of the variance of the scores that the process takes for noise.
        precise: Whether a process judges alone that predicts each good result well from the others.
        smooth: Whether all factors have a gradient.
    """

    factors: Sequence[Factor]
    noise: float
    precise: bool = False
    smooth: bool = True

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """Return the logarithm of the acquisition at unit coordinates, shape (points, genes). Shape (points,)."""
        return np.asarray(np.sum([factor.logs(units) for factor in self.factors], axis=0))

    def gradients(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what a call does, and its gradient, shape (points, genes), 0 for genes without an order."""
        logs, gradients = zip(*(factor.gradients(units) for factor in self.factors), strict=True)
        return np.asarray(np.sum(logs, axis=0)), np.asarray(np.sum(gradients, axis=0))


def success_factor(layout: FeatureLayout, units: np.ndarray, labels: np.ndarray, trials: int) -> Feasibility | None:
    """Return the probability that a training does not fail, to a power; None if all labels are equal.

    Args:
        layout: Features of the space.
        units: Unit coordinates of trials, shape (labels, genes).
        labels: 1 for a trial that succeeded, -1 for one that failed, between for an unknown cause. Shape (labels,).
        trials: Number of all trials. A share of them may fail without a price.
    """
    if not len(labels) or labels.min() == labels.max():
        return None
    process = GaussianProcess.fit(layout.features(units), -labels, layout.kinds)
    region = 1.0 - float(np.mean(process.leave_one_out_errors() ** 2)) / float(labels.var()) > PREDICTABLE
    bearable, price = IN_REGION if region else ANYWHERE
    beyond = float((labels < 0.0).sum()) - bearable * trials
    if region and process.noise > SHARP:
        process = process.with_noise(SHARP)
    return Feasibility(process, layout, 0.0, process.noise + UNSURE, 1.0 + price * max(0.0, beyond))


def constraint_factor(layout: FeatureLayout, units: np.ndarray, excess: np.ndarray) -> Feasibility | None:
    """Return the probability that a constraint is met; None if nothing is known of it.

    Args:
        layout: Features of the space.
        units: Unit coordinates of trials, shape (trials, genes).
        excess: Value of each trial beyond the bound, negative within it, NaN if it is not known. Shape (trials,).
    """
    is_finite = np.isfinite(excess)
    values = excess[is_finite]
    if len(values) < 2 or math.isclose(values.min(), values.max()):
        return None
    middle, (low, high) = float(np.median(values)), np.quantile(values, (0.16, 0.84))
    scale = max(float(high - low) / 2.0, 1e-3 * float(values.std()))
    scores = np.clip((values - middle) / scale, -LARGEST, LARGEST)
    mean, deviation = float(scores.mean()), float(scores.std())
    process = GaussianProcess.fit(
        layout.features(units[is_finite]), (scores - mean) / deviation, layout.kinds, precise=True
    )
    return Feasibility(process, layout, float(np.clip(-middle / scale, -LARGEST, LARGEST) - mean) / deviation, 0.0)
