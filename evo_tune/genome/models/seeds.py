"""What genomes' losses are over seeds, as far as noisy trainings tell, and what a further training is worth.

A loss is the sum of four parts, each with a variance that is fitted: a smooth function of the genome (a Gaussian
process), what is the genome's own, what a seed does to every genome (where they share their seeds, so that it is not
taken for the merit of those that were trained with a lucky one), and noise. So a genome stands by what its like say of
it as well, the less the more seeds it has had: shrunken, not lucky. This file knows points, seeds and numbers only.

Sources: Rasmussen & Williams, Gaussian Processes for Machine Learning (MIT Press, 2006), chapters 2 and 5; Frazier,
Powell & Dayanik, The knowledge-gradient policy for correlated normal beliefs (INFORMS Journal on Computing 21, 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evo_tune.genome.models.gaussian import LENGTH, LENGTHS, covariance, matern, most_probable, squares, times, weighted
from evo_tune.genome.values import mean_of

__all__ = ["Belief", "Trainings", "by_expectation", "fitted", "selected"]

OWN, SHARED, NOISE = 0.02, 0.02, 0.05
"""Medians of the priors of the variances of what is a genome's own, a seed's, and noise, where losses have variance
1."""

VARIANCES = 1.5
"""Deviation of the logarithm of each of them."""

WORST = 0.5
"""Losses count up to the median and this share of its distance from the best: how bad the bad ones are tells nothing
of the good ones, and would drown their differences."""

FEWEST = 3
"""Genomes from which anything is expected; of fewer what was seen is all there is."""

LEADERS = 32
"""Genomes that a belief is about at the least: the best ones by their means."""

MOST = 72
"""Trainings that it rests on, at most: what bounds its cost in a long run."""

NODES = np.array([NormalDist().inv_cdf((place + 0.5) / 25) for place in range(25)])
"""Outcomes of a training, in deviations, that stand for all of them: equally probable ones."""


@dataclass(frozen=True)
class Trainings:
    """Some trainings.

    Args:
        points: Features of the genomes, shape (genomes, features); those with an order are in [0, 1].
        rows: Genome of each training, shape (trainings,).
        seeds: Number of its seed, shape (trainings,).
        losses: Shape (trainings,).
        unordered: Whether a feature has no order, shape (features,).
        shared: Whether a number is the same seed for all genomes, and not of each one's own.
    """

    points: np.ndarray
    rows: np.ndarray
    seeds: np.ndarray
    losses: np.ndarray
    unordered: np.ndarray
    shared: bool = True

    @property
    def parts(self) -> list[np.ndarray]:
        """Which trainings share their genome, their seed, and both, each of shape (trainings, trainings)."""
        found = [np.equal.outer(one, one).astype(float) for one in (self.rows, self.seeds, np.arange(len(self.rows)))]
        return found if self.shared else [found[0], np.zeros_like(found[1]), found[2]]

    def scaled(self) -> tuple[np.ndarray, float, float]:
        """Return the losses with mean 0 and variance 1, the worst drawn in (`WORST`); mean and deviation before."""
        _, power = np.frexp(np.abs(self.losses).max())  # squares and sums of what they are would overflow
        told = np.ldexp(self.losses, -power)
        middle = float(np.median(told))
        losses = np.minimum(told, middle + WORST * (middle - told.min()))
        mean, deviation = float(losses.mean()), float(losses.std())
        scores = np.asarray((losses - mean) / (deviation or 1.0))
        return scores, float(np.ldexp(mean, power)), float(np.ldexp(deviation, power))


def selected(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rows of the genomes that a belief rests on: the best, then others at equal steps down to the worst.

    Args:
        means: Mean loss of each genome, shape (genomes,).
        counts: Its trainings, shape (genomes,).
    """
    order = np.argsort(means, kind="stable")
    if counts.sum() <= MOST:
        return order
    best, rest = order[:LEADERS], order[LEADERS:]
    room = max(0, MOST - int(counts[best].sum()))
    steps = np.unique(np.linspace(0, len(rest) - 1, min(room, len(rest))).astype(int))
    others = rest[steps]
    return np.asarray(np.append(best, others[np.cumsum(counts[others]) <= room]))


def fitted(given: Trainings) -> np.ndarray:
    """Return the most probable relevances and variances, nearly, as logarithms: shape (features + 3,)."""
    scores, *_ = given.scaled()
    distances = squares(given.points[given.rows], given.points[given.rows], given.unordered)
    features, parts = len(distances), np.stack(given.parts)
    middle = np.append(np.full(features, -2.0 * math.log(LENGTH * math.sqrt(features))), np.log([OWN, SHARED, NOISE]))
    spread = np.append(np.full(features, 2.0 * LENGTHS), np.full(3, VARIANCES))
    return most_probable(lambda logs: _gradient(distances, parts, scores, logs), middle, spread)


def _gradient(distances: np.ndarray, parts: np.ndarray, scores: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Return the gradient of the log likelihood by the logarithms (Rasmussen & Williams, equation 5.9)."""
    weights = np.exp(logs)
    relevance, variances = weights[:-3], weights[-3:]
    kernel, slope = matern(weighted(relevance, distances))
    inverse = np.linalg.inv(kernel + weighted(variances, parts))
    pulled = inverse @ scores
    pull = np.outer(pulled, pulled) - inverse
    smooth = relevance * np.einsum("fab,ab->f", distances, pull * slope)
    return 0.5 * np.append(smooth, variances * np.einsum("fab,ab->f", parts, pull))


class Belief:
    """What is believed of some genomes' losses over all seeds.

    Args:
        given: What was trained.
        logs: See `fitted`; of these trainings, or of earlier ones.
    """

    def __init__(self, given: Trainings, logs: np.ndarray) -> None:
        weights = np.exp(logs)
        self._given, self._relevance = given, weights[:-3]
        self._own, self._shared, self._noise = (weights[-3:] * (1.0, given.shared, 1.0)).tolist()
        scores, mean, self._scale = given.scaled()
        rows, smooth = given.rows, self._kernel(given.points, given.points)
        whole = smooth[np.ix_(rows, rows)] + weighted(weights[-3:], np.stack(given.parts))
        self._inverse = np.linalg.inv(whole)
        self._pulled = self._inverse @ scores
        mine = np.equal.outer(np.arange(len(given.points)), rows)
        self._cross = smooth[:, rows] + self._own * mine
        self._means = self._cross @ self._pulled
        self._spread = smooth + self._own * np.eye(len(given.points))
        self.expected = mean + self._scale * self._means
        """Loss that is expected of each genome with another seed, shape (genomes,)."""
        self.best = int(np.argmin(self._means))
        """The genome of which the least is expected."""

    def of_seed(self, row: int, seed: int) -> float:
        """Return by how much the loss that is expected of the best genome falls, on the average, by a further training.

        Args:
            row: Of the genome that is trained.
            seed: Number of the seed that it is trained with.
        """
        shared = self._cross[row] + self._shared * (self._given.seeds == seed)
        known = self._inverse @ shared
        variance = self._spread[row, row] + self._shared + self._noise - shared @ known
        moved = (self._spread[:, row] - self._cross @ known) / math.sqrt(max(variance, 1e-12))
        return self._scale * float(self._means.min() - _lowest(self._means, moved[:, None]).mean())

    def of_new(self, points: np.ndarray) -> float:
        """Return the same of a new genome, trained with the first seed: that one of some points which promises most.

        Args:
            points: Features of the points, shape (points, features).
        """
        smooth = self._kernel(points, self._given.points)
        cross = smooth[:, self._given.rows]
        shared = cross + self._shared * (self._given.seeds == 0)
        known = times(shared, self._inverse)
        variance = 1.0 + self._own + self._shared + self._noise - (known * shared).sum(axis=1)
        deviation = np.sqrt(np.maximum(variance, 1e-12))
        moved = (smooth.T - times(self._cross, known.T)) / deviation
        own = (1.0 + self._own - (known * cross).sum(axis=1)) / deviation
        low = np.minimum(_lowest(self._means, moved), (cross @ self._pulled)[:, None] + own[:, None] * NODES)
        return self._scale * float((self._means.min() - low.mean(axis=1)).max())

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return covariance(self._relevance, left, right, self._given.unordered)


def _lowest(means: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the lowest mean after each outcome of each training, shape (trainings, nodes).

    Args:
        means: Shape (genomes,).
        moved: How far each mean moves by a training that comes out a deviation higher, shape (genomes, trainings).
    """
    reach = NODES[-1] * np.abs(moved).max(axis=1)
    near = means - reach <= (means + reach).min()  # no outcome makes the others the best
    return np.asarray((means[near, None, None] + moved[near, :, None] * NODES).min(axis=0))


def by_expectation(
    known: Sequence[Mapping[int, float]],
    points: Callable[[Sequence[int]], np.ndarray],
    unordered: np.ndarray,
    shared: bool = True,
) -> dict[int, float]:
    """Return the loss that is expected with other seeds, by the place of the genome; the least first.

    It is told of the best few genomes, and of some others. Where little is known, or seeds change nothing, it is what
    was seen.

    Args:
        known: Of each genome its losses by number of the seed, one at least.
        points: Returns the features of the genomes in some places, shape (places, features).
        unordered: Whether a feature has no order, shape (features,).
        shared: See `Trainings`.
    """
    means = np.array([float(mean_of(list(losses.values()))) for losses in known])
    kept: list[int] = selected(means, np.array([len(losses) for losses in known])).tolist()
    again = [losses for losses in known if len(losses) > 1]
    if len(kept) < FEWEST or (again and all(len(set(losses.values())) == 1 for losses in again)):
        return {place: float(means[place]) for place in sorted(kept, key=lambda place: means[place])}
    rows = [(place, *one) for place, genome in enumerate(kept) for one in known[genome].items()]
    numbers, seeds, losses = (np.array(column) for column in zip(*rows, strict=True))
    given = Trainings(points(kept), numbers, seeds, losses, unordered, shared)
    expected = Belief(given, fitted(given)).expected
    return {kept[place]: float(expected[place]) for place in np.argsort(expected, kind="stable")}
