"""Expected losses of genomes over all seeds, estimated from noisy training runs, and the value of another run.

A loss is the sum of four parts, each with a fitted variance:

- A smooth function of the genome (a Gaussian process).
- A part of this genome alone.
- A part of the seed, equal for all genomes, if genomes share seeds. Without it a lucky seed would look like merit.
- Noise.

So the expected loss of a genome is shrunk towards that of similar genomes, less so with more seeds. This module
knows points, seeds and numbers only.

Sources: Rasmussen & Williams, Gaussian Processes for Machine Learning (MIT Press, 2006), chapters 2 and 5; Frazier,
Powell & Dayanik, The knowledge-gradient policy for correlated normal beliefs (INFORMS Journal on Computing 21, 2009).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evo_tune.genome import kernel as kernels
from evo_tune.genome.values import common_step, mean_of

# Medians of the priors of three variances, if losses have variance 1: the part of the genome alone, of the seed, and
# noise.
OWN, SHARED, NOISE = 0.02, 0.02, 0.05

# Deviation of the logarithm of each of these variances.
VARIANCES = 1.5

# Losses are cut at the median plus this share of its distance from the best. Otherwise the size of bad losses would
# hide the differences between good ones.
WORST = 0.5

# Smallest number of genomes to which the model is fitted. With fewer, the expected loss is the mean loss.
FEWEST = 3

# Number of genomes with the best means that are always in the model.
LEADERS = 32

# Largest number of training runs in the model, which bounds its cost in a long search.
MOST = 72

# Fewest different losses from which a metric may be known to be fine.
FEWEST_FINE = 8

# Least number of steps in the range of the losses (see `common_step`) for which equal losses are no chance.
STEPS = 1000

# Number of extra seeds without a change of the loss after which the seed is taken to change nothing, if equal losses
# may be chance.
TIES = 6

# Equally probable outcomes of a training run, in standard deviations, that represent all outcomes.
NODES = np.array([NormalDist().inv_cdf((place + 0.5) / 25) for place in range(25)])


@dataclass(frozen=True)
class Trainings:
    """Training runs of some genomes with some seeds.

    Args:
        points: Features of the genomes, shape (genomes, features); those with an order are in [0, 1].
        rows: Row of the genome of each training run, shape (trainings,).
        seeds: Seed number of each training run, shape (trainings,).
        losses: Loss of each training run, shape (trainings,).
        unordered: Whether a feature has no order, shape (features,).
        shared: Whether a seed number is the same seed for all genomes.
    """

    points: np.ndarray
    rows: np.ndarray
    seeds: np.ndarray
    losses: np.ndarray
    unordered: np.ndarray
    shared: bool = True

    @property
    def common_parts(self) -> np.ndarray:
        """Whether training runs share the genome, the seed, and both; shape (3, trainings, trainings)."""
        columns = (self.rows, self.seeds, np.arange(len(self.rows)))
        genome, seed, training = (np.equal.outer(column, column).astype(float) for column in columns)
        return np.stack([genome, seed if self.shared else np.zeros_like(seed), training])

    def standardize(self) -> tuple[np.ndarray, float, float]:
        """Return the losses, cut (`WORST`) and scaled to mean 0 and variance 1; then their mean and deviation."""
        _, power = np.frexp(np.abs(self.losses).max())  # squares and sums of large losses would overflow
        small = np.ldexp(self.losses, -power)
        middle = float(np.median(small))
        losses = np.minimum(small, middle + WORST * (middle - small.min()))
        mean, deviation = float(losses.mean()), float(losses.std())
        scores = np.asarray((losses - mean) / (deviation or 1.0))
        return scores, float(np.ldexp(mean, power)), float(np.ldexp(deviation, power))


def choose_genomes(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rows of the genomes in the model: the best, then others at equal steps down to the worst.

    Args:
        means: Mean loss of each genome, shape (genomes,).
        counts: Number of training runs of each genome, shape (genomes,).
    """
    order = np.argsort(means, kind="stable")
    if counts.sum() <= MOST:
        return order
    best, worse = order[:LEADERS], order[LEADERS:]
    room = max(0, MOST - int(counts[best].sum()))
    steps = np.unique(np.linspace(0, len(worse) - 1, min(room, len(worse))).astype(int))
    spread = worse[steps]
    return np.asarray(np.append(best, spread[np.cumsum(counts[spread]) <= room]))


def fit_seed_model(trainings: Trainings) -> np.ndarray:
    """Return logarithms of relevances and variances near their most probable values, shape (features + 3,)."""
    scores, *_ = trainings.standardize()
    points = trainings.points[trainings.rows]
    squares, parts = kernels.square_distances_by_feature(points, points, trainings.unordered), trainings.common_parts
    relevance_median = -2.0 * math.log(kernels.LENGTH_MEDIAN * math.sqrt(len(squares)))
    medians = np.append(np.full(len(squares), relevance_median), np.log([OWN, SHARED, NOISE]))
    deviations = np.append(np.full(len(squares), 2.0 * kernels.LENGTH_LOG_DEVIATION), np.full(3, VARIANCES))

    def gradient(logs: np.ndarray) -> np.ndarray:
        return likelihood_gradient(squares, parts, scores, logs)

    return kernels.find_posterior_mode(gradient, medians, deviations, 3.0 * deviations)


def likelihood_gradient(squares: np.ndarray, parts: np.ndarray, scores: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Return the gradient of the log likelihood by the logarithms (Rasmussen & Williams, equation 5.9).

    Args:
        squares: Squared differences of the training runs in each feature, shape (features, trainings, trainings).
        parts: See `Trainings.common_parts`.
        scores: Standardized losses, shape (trainings,).
        logs: Logarithms of relevances and variances, shape (features + 3,).
    """
    relevance, variances = np.exp(logs[:-3]), np.exp(logs[-3:])
    kernel, slope = kernels.matern(kernels.sum_weighted(relevance, squares))
    whitening = kernels.inverse_cholesky_factor(kernel + kernels.sum_weighted(variances, parts))
    weights = whitening.T @ (whitening @ scores)
    by_covariance = np.outer(weights, weights) - kernels.matrix_product(whitening.T, whitening)  # twice the gradient
    by_relevance = relevance * np.einsum("fab,ab->f", squares, by_covariance * slope)
    return 0.5 * np.append(by_relevance, variances * np.einsum("fab,ab->f", parts, by_covariance))


class SeedModel:
    """Posterior of the losses of some genomes over all seeds.

    Args:
        trainings: Training runs of the genomes.
        logs: Result of `fit_seed_model` for these training runs or for earlier ones.

    Attributes:
        expected: Expected loss of each genome with a new seed, shape (genomes,).
        best: Row of the genome with the lowest expected loss.
    """

    def __init__(self, trainings: Trainings, logs: np.ndarray) -> None:
        self._trainings, self._relevance = trainings, np.exp(logs[:-3])
        self._own, self._shared, self._noise = (np.exp(logs[-3:]) * (1.0, trainings.shared, 1.0)).tolist()
        scores, mean, self._scale = trainings.standardize()
        rows, smooth = trainings.rows, self._kernel(trainings.points, trainings.points)
        parts = kernels.sum_weighted(np.exp(logs[-3:]), trainings.common_parts)
        self._whitening = kernels.inverse_cholesky_factor(smooth[np.ix_(rows, rows)] + parts)
        self._weights = self._whitening.T @ (self._whitening @ scores)
        of_genome = np.equal.outer(np.arange(len(trainings.points)), rows)
        self._cross = smooth[:, rows] + self._own * of_genome  # covariance of genomes and training runs
        self._cross_whitened = kernels.matrix_product(self._cross, self._whitening.T)
        self._prior = smooth + self._own * np.eye(len(trainings.points))
        self._means = self._cross @ self._weights
        self.expected = mean + self._scale * self._means
        self.best = int(np.argmin(self._means))

    def gain_of_seed(self, row: int, seed: int) -> float:
        """Return the expected decrease of the lowest expected loss by another training run of a genome.

        Args:
            row: Row of the genome.
            seed: Seed number of the training run.
        """
        whitened = self._whitening @ (self._cross[row] + self._shared * (self._trainings.seeds == seed))
        variance = self._prior[row, row] + self._shared + self._noise - whitened @ whitened
        changes = (self._prior[:, row] - self._cross_whitened @ whitened) / math.sqrt(max(variance, 1e-12))
        return self._scale * float(self._means.min() - _lowest_means(self._means, changes[:, None]).mean())

    def gain_of_new(self, points: np.ndarray) -> float:
        """Return the largest expected decrease of the lowest expected loss by training one of some new genomes.

        Args:
            points: Features of the new genomes, shape (points, features). They are trained with the first seed.
        """
        smooth = self._kernel(self._trainings.points, points)
        cross = smooth[self._trainings.rows]
        whitened = kernels.matrix_product(self._whitening, cross + self._shared * (self._trainings.seeds == 0)[:, None])
        variance = 1.0 + self._own + self._shared + self._noise - (whitened**2).sum(axis=0)
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        changes = (smooth - kernels.matrix_product(self._cross_whitened, whitened)) / deviation
        # A new genome's own mean changes most by its result.
        own_explained = (kernels.matrix_product(self._whitening, cross) * whitened).sum(axis=0)
        own_changes = (1.0 + self._own - own_explained) / deviation
        own_means = (self._weights @ cross)[:, None] + own_changes[:, None] * NODES
        lowest = np.minimum(_lowest_means(self._means, changes), own_means)
        return self._scale * float((self._means.min() - lowest.mean(axis=1)).max())

    def _kernel(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return kernels.covariance(self._relevance, rows, columns, self._trainings.unordered)


def _lowest_means(means: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return the lowest mean after each outcome of each training run, shape (trainings, nodes).

    Args:
        means: Mean of each genome, shape (genomes,).
        changes: Change of each mean by an outcome one deviation higher, shape (genomes, trainings).
    """
    reach = NODES[-1] * np.abs(changes).max(axis=1)
    contenders = means - reach <= (means + reach).min()  # no outcome makes another genome the best
    return np.asarray((means[contenders, None, None] + changes[contenders, :, None] * NODES).min(axis=0))


def is_fine(losses: Sequence[float]) -> bool:
    """Return whether a metric takes so many values that two seeds with equal losses are no chance.

    Args:
        losses: Losses of some trainings, no means. The best `LEADERS` count, since one bad loss would widen the range.
    """
    best = sorted(set(losses))[:LEADERS]
    return len(best) >= FEWEST_FINE and 0.0 < STEPS * common_step(best) < best[-1] - best[0]


def seeds_change_nothing(losses_by_seed: Sequence[Mapping[int, float]]) -> bool:
    """Return whether the seed has no influence on the loss: no extra seed changed one, and that is no chance.

    Args:
        losses_by_seed: Losses of each genome by seed number; genomes without a loss are skipped.
    """
    repeated = [losses for losses in losses_by_seed if len(losses) > 1]
    if any(len(set(losses.values())) > 1 for losses in repeated):
        return False
    ties = sum(len(losses) - 1 for losses in repeated)
    return ties >= TIES or (ties > 0 and is_fine([next(iter(losses.values())) for losses in losses_by_seed if losses]))


def predict_losses(
    losses_by_seed: Sequence[Mapping[int, float]],
    features: Callable[[Sequence[int]], np.ndarray],
    unordered: np.ndarray,
    shared: bool = True,
) -> dict[int, float]:
    """Return the expected losses of genomes with new seeds, by index of the genome, the lowest first.

    The result has the best genomes and some others. It has the mean losses with few genomes, and if seeds do not change
    the loss. It also has them if there are no more genomes than genes and none has two seeds. In this case the model
    cannot tell noise from a loss that changes much between genomes, and its predictions are nearly equal.

    Args:
        losses_by_seed: Losses of each genome by seed number, at least one.
        features: Function that returns the features of the genomes at given indices, shape (indices, features).
        unordered: Whether a feature has no order, shape (features,).
        shared: See `Trainings`.
    """
    means = np.array([float(mean_of(list(losses.values()))) for losses in losses_by_seed])
    genomes: list[int] = choose_genomes(means, np.array([len(losses) for losses in losses_by_seed])).tolist()
    unclear = len(losses_by_seed) <= len(unordered) and all(len(losses) == 1 for losses in losses_by_seed)
    if len(genomes) < FEWEST or unclear or seeds_change_nothing(losses_by_seed):
        return {index: float(means[index]) for index in sorted(genomes, key=lambda index: means[index])}
    trainings = [(row, *pair) for row, index in enumerate(genomes) for pair in losses_by_seed[index].items()]
    rows, seeds, losses = (np.array(column) for column in zip(*trainings, strict=True))
    table = Trainings(features(genomes), rows, seeds, losses, unordered, shared)
    expected = SeedModel(table, fit_seed_model(table)).expected
    return {genomes[row]: float(expected[row]) for row in np.argsort(expected, kind="stable")}
