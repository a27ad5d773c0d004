"""Parts that the Gaussian processes share: features of genomes, the Matérn 5/2 kernel, and a fit in fixed time.

Two values of a feature without order have the distance of the two ends of a scale. Matrix products use einsum or
small blocks: BLAS would start threads for large ones, and the slots need the cores.

Source: Riedmiller & Braun, Rprop (ICNN 1993), for the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.space import SearchSpace

LENGTH_MEDIAN, LENGTH_LOG_DEVIATION = 0.5, 1.0
"""Prior of a length scale for one gene, in unit coordinates: its median and the deviation of its logarithm."""

ORDERED, UNORDERED, CONDITIONAL = 0, 1, 2
"""Kinds of features: a scale, values without order, and a scale that only some points have."""

ABSENT = -1.0
"""Value of a conditional feature of a point that does not have it."""

ABSENT_SQUARED_DISTANCE = 0.25
"""Squared distance in a conditional feature of two points, of which one does not have it. The points that have it are
on a half circle around those that do not, with its ends at distance 1. So the kernel stays positive definite (Swersky
et al., Raiders of the lost architecture: kernels for Bayesian optimization in conditional parameter spaces, 2013)."""

EXACT_UP_TO = 16
"""Number of features up to which a kernel is computed feature by feature."""

SQRT_5 = math.sqrt(5.0)

SINGLE_THREAD_PRODUCTS = 200_000
"""Largest number of multiplications of a matrix product that BLAS does in the calling thread."""

FIT_STEPS = 20
"""Steps of a fit: enough to tell genes that matter from others, few enough to be cheap."""

FIRST_STEP, STEP_GROWTH, STEP_SHRINKAGE = 0.4, 1.2, 0.5
"""First step of a fit, and its factors if the slope keeps its sign and if it changes it."""


def unordered_sizes(space: SearchSpace) -> np.ndarray:
    """Return the number of values of each gene without order, 0 for one with an order, shape (genes,)."""
    genes = space.genes.values()
    return np.array([gene.size if isinstance(gene, Choice) and not gene.ordered else 0 for gene in genes])


def encode_features(units: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the features of genomes: unit coordinates, or indices of values for genes without order.

    Args:
        units: Unit coordinates, shape (points, genes).
        sizes: See `unordered_sizes`.

    Returns:
        Shape (points, genes).
    """
    return np.where(sizes > 0, np.minimum(np.floor(units * sizes), sizes - 1), units)


@dataclass(frozen=True)
class FeatureLayout:
    """The features of a space in which a conditional gene counts only where it is active.

    Args:
        space: Search space.
        counts: Number of values of each gene without order, 0 for one with an order, shape (genes,).
        sizes: The same, and one more for a conditional gene without order: for points in which it is not active.
        kinds: Kind of each feature, shape (genes,).
    """

    space: SearchSpace
    counts: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, space: SearchSpace) -> FeatureLayout:
        """Return the layout of a space."""
        counts, conditional = unordered_sizes(space), space.conditional
        kinds = np.where(counts > 0, UNORDERED, np.where(conditional, CONDITIONAL, ORDERED))
        return cls(space, counts, np.where((counts > 0) & conditional, counts + 1, counts), kinds)

    @classmethod
    def ignoring_conditions(cls, space: SearchSpace) -> FeatureLayout:
        """Return the layout in which inactive genes count with their coordinates."""
        counts = unordered_sizes(space)
        return cls(space, counts, counts, np.where(counts > 0, UNORDERED, ORDERED))

    def features(self, units: np.ndarray) -> np.ndarray:
        """Return the features of genomes at unit coordinates, both of shape (points, genes)."""
        found, absent = encode_features(units, self.counts), self.sizes > self.counts
        if not absent.any() and not (self.kinds == CONDITIONAL).any():
            return found
        hidden = (absent | (self.kinds == CONDITIONAL)) & ~self.space.active(units)
        return np.where(hidden, np.where(absent, self.counts, ABSENT), found)


def squared_differences(left: np.ndarray, right: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the squared distances of points in each feature, shape (features, left, right).

    Args:
        left: Features of points, shape (left, features).
        right: Features of points, shape (right, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    steps = np.abs(left.T[:, :, None] - right.T[:, None, :])
    unordered, some = kinds == UNORDERED, kinds == CONDITIONAL
    steps[unordered] = steps[unordered] > 0
    steps **= 2
    if some.any():
        one, other = (points.T[some] >= 0.0 for points in (left, right))
        both, chord = one[:, :, None] & other[:, None, :], np.sin(0.5 * np.pi * np.sqrt(steps[some])) ** 2
        steps[some] = np.where(both, chord, np.where(one[:, :, None] ^ other[:, None, :], ABSENT_SQUARED_DISTANCE, 0.0))
    return np.asarray(steps)


def gradient_by_points(matrix: np.ndarray, left: np.ndarray, right: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the gradient by `right` of the sum of a matrix times `squared_differences`, shape (right, features).

    The derivatives are 0 for features without order, and where one of the points does not have the feature.

    Args:
        matrix: Factors of the derivatives, shape (left, right).
        left: Features of points, shape (left, features).
        right: Features of points, shape (right, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    found = 2.0 * (matrix.sum(axis=0)[:, None] * right - matrix_product(matrix.T, left))
    found[:, kinds == UNORDERED] = 0.0
    some = kinds == CONDITIONAL
    if some.any():
        one, other = left.T[some][:, :, None], right.T[some][:, None, :]
        steep = np.where((one >= 0.0) & (other >= 0.0), 0.5 * np.pi * np.sin(np.pi * (other - one)), 0.0)
        found[:, some] = np.einsum("fab,ab->bf", steep, matrix)
    return np.asarray(found)


def farthest_points(points: np.ndarray, kinds: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of up to `count` distinct points that are far from each other, the first point included.

    Each is the farthest from those before it (Gonzalez, Theoretical Computer Science 38, 1985).

    Args:
        points: Features of points, shape (points, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
        count: Largest number of indices, 1 or more.
    """
    kept, away = [0], squared_differences(points[:1], points, kinds).sum(axis=(0, 1))
    while len(kept) < count and away.max() > 0.0:
        kept.append(int(np.argmax(away)))
        away = np.minimum(away, squared_differences(points[kept[-1:]], points, kinds).sum(axis=(0, 1)))
    return np.array(kept)


def weighted_sum(weights: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the sum of parts, shape (features, left, right), weighted by weights, shape (features,)."""
    return np.asarray(np.einsum("f,fab->ab", weights, parts))


def matern(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Matérn 5/2 kernel at squared distances and its derivative by them, each of the same shape."""
    distance = SQRT_5 * np.sqrt(distances)
    decay = np.exp(-distance)
    return (1.0 + distance + distance**2 / 3.0) * decay, -5.0 / 6.0 * (1.0 + distance) * decay


def squared_distances(relevance: np.ndarray, left: np.ndarray, right: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the squared distances of points, weighted by relevance and summed over features. Shape (left, right).

    Features with an order are one matrix product, however many they are.

    Args:
        relevance: Inverse squared length scale of each feature, shape (features,).
        left: Features of points, shape (left, features).
        right: Features of points, shape (right, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    plain = kinds == ORDERED
    one, other = (points[:, plain] * np.sqrt(relevance[plain]) for points in (left, right))
    found = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * matrix_product(one, other.T)
    if not plain.all():
        found += weighted_sum(relevance[~plain], squared_differences(left[:, ~plain], right[:, ~plain], kinds[~plain]))
    return np.asarray(np.maximum(found, 0.0))


def gradient_by_relevance(matrix: np.ndarray, left: np.ndarray, right: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the sum of `squared_differences` times a matrix for each feature, shape (features,).

    Args:
        matrix: Factors of the distances, shape (left, right).
        left: Features of points, shape (left, features).
        right: Features of points, shape (right, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    plain, found = kinds == ORDERED, np.empty(len(kinds))
    one, other = left[:, plain], right[:, plain]
    sums = matrix.sum(axis=1) @ one**2 + matrix.sum(axis=0) @ other**2
    found[plain] = sums - 2.0 * (one * matrix_product(matrix, other)).sum(axis=0)
    if not plain.all():
        special = squared_differences(left[:, ~plain], right[:, ~plain], kinds[~plain])
        found[~plain] = np.einsum("fab,ab->f", special, matrix)
    return found


def covariance(relevance: np.ndarray, left: np.ndarray, right: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the kernel of points, shape (left, right); see `squared_distances` for the arguments.

    With few features it is exact: the matrix product of `squared_distances` leaves a rounding error between equal
    points.
    """
    if len(kinds) <= EXACT_UP_TO:
        return matern(weighted_sum(relevance, squared_differences(left, right, kinds)))[0]
    return matern(squared_distances(relevance, left, right, kinds))[0]


def matrix_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a matrix product, computed in column blocks so small that BLAS starts no threads."""
    width = max(1, SINGLE_THREAD_PRODUCTS // max(1, left.size))
    return np.concatenate([left @ right[:, at : at + width] for at in range(0, right.shape[1] or 1, width)], axis=1)


def fit_mode(
    slope: Callable[[np.ndarray], np.ndarray], middle: np.ndarray, spread: np.ndarray, reach: np.ndarray | None = None
) -> np.ndarray:
    """Return values near the mode of a posterior with a normal prior, after a fixed number of steps. Shape (values,).

    Args:
        slope: Function that returns the gradient of the log likelihood, shape (values,), at some values.
        middle: Medians of the prior, shape (values,).
        spread: Deviations of the prior, shape (values,).
        reach: Largest differences from the medians, shape (values,); None for three deviations.
    """
    reach = 3.0 * spread if reach is None else reach
    values, size, last = middle.copy(), np.full(len(middle), FIRST_STEP), np.zeros(len(middle))
    for _ in range(FIT_STEPS):
        uphill = slope(values) - (values - middle) / spread**2
        turned = np.sign(uphill * last)
        size *= np.where(turned > 0, STEP_GROWTH, np.where(turned < 0, STEP_SHRINKAGE, 1.0))
        last = np.where(turned < 0, 0.0, uphill)
        values = np.clip(values + np.sign(last) * size, middle - reach, middle + reach)
    return np.asarray(values)
