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

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evo_tune.genome.models.gaussian import (
    LENGTH_LOG_DEVIATION,
    LENGTH_MEDIAN,
    covariance,
    fit_mode,
    matern,
    matrix_product,
    squared_differences,
    weighted_sum,
)
from evo_tune.genome.values import mean_of, resolution

OWN, SHARED, NOISE = 0.02, 0.02, 0.05
"""Medians of the priors of three variances, if losses have variance 1: the part of the genome alone, of the seed, and
noise."""

VARIANCES = 1.5
"""Deviation of the logarithm of each of these variances."""

WORST = 0.5
"""Losses are cut at the median plus this share of its distance from the best. Otherwise the size of bad losses would
hide the differences between good ones."""

FEWEST = 3
"""Smallest number of genomes to which the model is fitted. With fewer, the expected loss is the mean loss."""

LEADERS = 32
"""Number of genomes with the best means that are always in the model."""

MOST = 72
"""Largest number of training runs in the model, which bounds its cost in a long search."""

FEWEST_FINE = 8
"""Fewest different losses from which a metric may be known to be fine."""

STEPS = 1000
"""Least number of steps in the range of the losses (see `resolution`) for which equal losses are no chance."""

TIES = 6
"""Number of extra seeds without a change of the loss after which the seed is taken to change nothing, if equal losses
may be chance."""

NODES = np.array([NormalDist().inv_cdf((place + 0.5) / 25) for place in range(25)])
"""Equally probable outcomes of a training run, in standard deviations, that represent all outcomes."""


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
    def parts(self) -> list[np.ndarray]:
        """Matrices of training runs that share the genome, the seed, and both, each (trainings, trainings)."""
        found = [np.equal.outer(one, one).astype(float) for one in (self.rows, self.seeds, np.arange(len(self.rows)))]
        return found if self.shared else [found[0], np.zeros_like(found[1]), found[2]]

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
    best, rest = order[:LEADERS], order[LEADERS:]
    room = max(0, MOST - int(counts[best].sum()))
    steps = np.unique(np.linspace(0, len(rest) - 1, min(room, len(rest))).astype(int))
    others = rest[steps]
    return np.asarray(np.append(best, others[np.cumsum(counts[others]) <= room]))


def fit_seed_model(given: Trainings) -> np.ndarray:
    """Return logarithms of relevances and variances near their most probable values, shape (features + 3,)."""
    scores, *_ = given.standardize()
    distances = squared_differences(given.points[given.rows], given.points[given.rows], given.unordered)
    features, parts = len(distances), np.stack(given.parts)
    middle = np.append(
        np.full(features, -2.0 * math.log(LENGTH_MEDIAN * math.sqrt(features))), np.log([OWN, SHARED, NOISE])
    )
    spread = np.append(np.full(features, 2.0 * LENGTH_LOG_DEVIATION), np.full(3, VARIANCES))
    return fit_mode(lambda logs: _gradient(distances, parts, scores, logs), middle, spread)


def _gradient(distances: np.ndarray, parts: np.ndarray, scores: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Return the gradient of the log likelihood by the logarithms (Rasmussen & Williams, equation 5.9)."""
    weights = np.exp(logs)
    relevance, variances = weights[:-3], weights[-3:]
    kernel, slope = matern(weighted_sum(relevance, distances))
    inverse = np.linalg.inv(kernel + weighted_sum(variances, parts))
    pulled = inverse @ scores
    pull = np.outer(pulled, pulled) - inverse
    smooth = relevance * np.einsum("fab,ab->f", distances, pull * slope)
    return 0.5 * np.append(smooth, variances * np.einsum("fab,ab->f", parts, pull))


class SeedModel:
    """Posterior of the losses of some genomes over all seeds.

    Args:
        given: Training runs of the genomes.
        logs: Result of `fit_seed_model` for these training runs or for earlier ones.

    Attributes:
        expected: Expected loss of each genome with a new seed, shape (genomes,).
        best: Row of the genome with the lowest expected loss.
    """

    def __init__(self, given: Trainings, logs: np.ndarray) -> None:
        weights = np.exp(logs)
        self._given, self._relevance = given, weights[:-3]
        self._own, self._shared, self._noise = (weights[-3:] * (1.0, given.shared, 1.0)).tolist()
        scores, mean, self._scale = given.standardize()
        rows, smooth = given.rows, self._kernel(given.points, given.points)
        whole = smooth[np.ix_(rows, rows)] + weighted_sum(weights[-3:], np.stack(given.parts))
        self._inverse = np.linalg.inv(whole)
        self._pulled = self._inverse @ scores
        mine = np.equal.outer(np.arange(len(given.points)), rows)
        self._cross = smooth[:, rows] + self._own * mine
        self._means = self._cross @ self._pulled
        self._spread = smooth + self._own * np.eye(len(given.points))
        self.expected = mean + self._scale * self._means
        self.best = int(np.argmin(self._means))

    def gain_of_seed(self, row: int, seed: int) -> float:
        """Return the expected decrease of the lowest expected loss by another training run of a genome.

        Args:
            row: Row of the genome.
            seed: Seed number of the training run.
        """
        shared = self._cross[row] + self._shared * (self._given.seeds == seed)
        known = self._inverse @ shared
        variance = self._spread[row, row] + self._shared + self._noise - shared @ known
        moved = (self._spread[:, row] - self._cross @ known) / math.sqrt(max(variance, 1e-12))
        return self._scale * float(self._means.min() - _lowest(self._means, moved[:, None]).mean())

    def gain_of_new(self, points: np.ndarray) -> float:
        """Return the largest expected decrease of the lowest expected loss by training one of some new genomes.

        Args:
            points: Features of the new genomes, shape (points, features). They are trained with the first seed.
        """
        smooth = self._kernel(points, self._given.points)
        cross = smooth[:, self._given.rows]
        shared = cross + self._shared * (self._given.seeds == 0)
        known = matrix_product(shared, self._inverse)
        variance = 1.0 + self._own + self._shared + self._noise - (known * shared).sum(axis=1)
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        moved = (smooth.T - matrix_product(self._cross, known.T)) / deviation
        own = (1.0 + self._own - (known * cross).sum(axis=1)) / deviation
        low = np.minimum(_lowest(self._means, moved), (cross @ self._pulled)[:, None] + own[:, None] * NODES)
        return self._scale * float((self._means.min() - low.mean(axis=1)).max())

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return covariance(self._relevance, left, right, self._given.unordered)


def _lowest(means: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the lowest mean after each outcome of each training run, shape (trainings, nodes).

    Args:
        means: Mean of each genome, shape (genomes,).
        moved: Change of each mean by an outcome one deviation higher, shape (genomes, trainings).
    """
    reach = NODES[-1] * np.abs(moved).max(axis=1)
    near = means - reach <= (means + reach).min()  # no outcome makes another genome the best
    return np.asarray((means[near, None, None] + moved[near, :, None] * NODES).min(axis=0))


def is_fine(losses: Sequence[float]) -> bool:
    """Return whether a metric takes so many values that two seeds with equal losses are no chance.

    Args:
        losses: Losses of some trainings, no means. The best `LEADERS` count, since one bad loss would widen the range.
    """
    best = sorted(set(losses))[:LEADERS]
    return len(best) >= FEWEST_FINE and 0.0 < STEPS * resolution(best) < best[-1] - best[0]


def seeds_change_nothing(known: Sequence[Mapping[int, float]]) -> bool:
    """Return whether the seed has no influence on the loss: no extra seed changed one, and that is no chance.

    Args:
        known: Losses of each genome by seed number; genomes without a loss are skipped.
    """
    repeated = [losses for losses in known if len(losses) > 1]
    if any(len(set(losses.values())) > 1 for losses in repeated):
        return False
    ties = sum(len(losses) - 1 for losses in repeated)
    return ties >= TIES or (ties > 0 and is_fine([next(iter(losses.values())) for losses in known if losses]))


def expected_losses(
    known: Sequence[Mapping[int, float]],
    points: Callable[[Sequence[int]], np.ndarray],
    unordered: np.ndarray,
    shared: bool = True,
) -> dict[int, float]:
    """Return the expected losses of genomes with new seeds, by place of the genome, the lowest first.

    The result has the best genomes and some others. It has the mean losses with few genomes, and if seeds do not change
    the loss. It also has them if there are no more genomes than genes and none has two seeds. In this case the model
    cannot tell noise from a loss that changes much between genomes, and its predictions are nearly equal.

    Args:
        known: Losses of each genome by seed number, at least one.
        points: Function that returns the features of the genomes at given places, shape (places, features).
        unordered: Whether a feature has no order, shape (features,).
        shared: See `Trainings`.
    """
    means = np.array([float(mean_of(list(losses.values()))) for losses in known])
    kept: list[int] = choose_genomes(means, np.array([len(losses) for losses in known])).tolist()
    unclear = len(known) <= len(unordered) and all(len(losses) == 1 for losses in known)
    if len(kept) < FEWEST or unclear or seeds_change_nothing(known):
        return {place: float(means[place]) for place in sorted(kept, key=lambda place: means[place])}
    rows = [(place, *one) for place, genome in enumerate(kept) for one in known[genome].items()]
    numbers, seeds, losses = (np.array(column) for column in zip(*rows, strict=True))
    given = Trainings(points(kept), numbers, seeds, losses, unordered, shared)
    expected = SeedModel(given, fit_seed_model(given)).expected
    return {kept[place]: float(expected[place]) for place in np.argsort(expected, kind="stable")}
