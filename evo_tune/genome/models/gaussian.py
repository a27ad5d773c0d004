"""Parts that the Gaussian processes share: features of genomes, the Matérn 5/2 kernel, and a fit in fixed time.

Two values of a feature without order have the distance of the two ends of a scale. Matrix products use einsum or
small blocks: BLAS would start threads for large ones, and the slots need the cores.

Source: Riedmiller & Braun, Rprop (ICNN 1993), for the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.space import SearchSpace

LENGTH, LENGTHS = 0.5, 1.0
"""Prior of a length scale for one gene, in unit coordinates: its median and the deviation of its logarithm."""

ROOT = math.sqrt(5.0)

ALONE = 200_000
"""Largest number of multiplications of a matrix product that BLAS does in the calling thread."""

STEPS = 20
"""Steps of a fit: enough to tell genes that matter from others, few enough to be cheap."""

FIRST, FASTER, SLOWER = 0.4, 1.2, 0.5
"""First step of a fit, and its factors if the slope keeps its sign and if it changes it."""


def sizes_of(space: SearchSpace) -> np.ndarray:
    """Return the number of values of each gene without order, 0 for one with an order, shape (genes,)."""
    genes = space.genes.values()
    return np.array([gene.size if isinstance(gene, Choice) and not gene.ordered else 0 for gene in genes])


def features_of(units: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the features of genomes: unit coordinates, or indices of values for genes without order.

    Args:
        units: Unit coordinates, shape (points, genes).
        sizes: See `sizes_of`.

    Returns:
        Shape (points, genes).
    """
    return np.where(sizes > 0, np.minimum(np.floor(units * sizes), sizes - 1), units)


def squares(left: np.ndarray, right: np.ndarray, unordered: np.ndarray) -> np.ndarray:
    """Return the squared distances of points in each feature, shape (features, left, right)."""
    steps = np.abs(left.T[:, :, None] - right.T[:, None, :])
    steps[unordered] = steps[unordered] > 0
    return np.asarray(steps**2)


def weighted(weights: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the sum of parts, shape (features, left, right), weighted by weights, shape (features,)."""
    return np.asarray(np.einsum("f,fab->ab", weights, parts))


def matern(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Matérn 5/2 kernel at squared distances and its derivative by them, each of the same shape."""
    distance = ROOT * np.sqrt(distances)
    decay = np.exp(-distance)
    return (1.0 + distance + distance**2 / 3.0) * decay, -5.0 / 6.0 * (1.0 + distance) * decay


def covariance(relevance: np.ndarray, left: np.ndarray, right: np.ndarray, unordered: np.ndarray) -> np.ndarray:
    """Return the kernel of points, shape (left, right).

    Args:
        relevance: Inverse squared length scale of each feature, shape (features,).
        left: Features of points, shape (left, features).
        right: Features of points, shape (right, features).
        unordered: Whether a feature has no order, shape (features,).
    """
    return matern(weighted(relevance, squares(left, right, unordered)))[0]


def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a matrix product, computed in column blocks so small that BLAS starts no threads."""
    width = max(1, ALONE // max(1, left.size))
    return np.concatenate([left @ right[:, at : at + width] for at in range(0, right.shape[1] or 1, width)], axis=1)


def most_probable(slope: Callable[[np.ndarray], np.ndarray], middle: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return values near the mode of a posterior with a normal prior, after a fixed number of steps. Shape (values,).

    Args:
        slope: Function that returns the gradient of the log likelihood, shape (values,), at some values.
        middle: Medians of the prior, shape (values,).
        spread: Deviations of the prior, shape (values,).
    """
    values, size, last = middle.copy(), np.full(len(middle), FIRST), np.zeros(len(middle))
    for _ in range(STEPS):
        uphill = slope(values) - (values - middle) / spread**2
        turned = np.sign(uphill * last)
        size *= np.where(turned > 0, FASTER, np.where(turned < 0, SLOWER, 1.0))
        last = np.where(turned < 0, 0.0, uphill)
        values = np.clip(values + np.sign(last) * size, middle - 3.0 * spread, middle + 3.0 * spread)
    return np.asarray(values)
