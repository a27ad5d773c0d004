"""The Matérn 5/2 kernel over mixed genes: what Gaussian processes here have in common.

Two values of a feature without order are as far apart as the ends of a scale. Products are by einsum, or in
small pieces: BLAS would wake threads for them, which slots need more.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["covariance", "matern", "squares", "times", "weighted"]

ROOT = math.sqrt(5.0)

ALONE = 200_000
"""Multiplications of a product of matrices that BLAS does in the thread that asks."""


def squares(left: np.ndarray, right: np.ndarray, unordered: np.ndarray) -> np.ndarray:
    """Return squared distances by feature, shape (features, left, right)."""
    steps = np.abs(left.T[:, :, None] - right.T[:, None, :])
    steps[unordered] = steps[unordered] > 0
    return np.asarray(steps**2)


def weighted(weights: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the weighted sum over the first axis."""
    return np.asarray(np.einsum("f,fab->ab", weights, parts))


def matern(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Matérn 5/2 kernel at squared distances and its derivative by them, both of their shape."""
    distance = ROOT * np.sqrt(distances)
    decay = np.exp(-distance)
    return (1.0 + distance + distance**2 / 3.0) * decay, -5.0 / 6.0 * (1.0 + distance) * decay


def covariance(relevance: np.ndarray, left: np.ndarray, right: np.ndarray, unordered: np.ndarray) -> np.ndarray:
    """Return the kernel of points, shape (left, right).

    Args:
        relevance: Inverse squared length scale of each feature, shape (features,).
        left: Features of points, shape (left, features).
        right: Shape (right, features).
        unordered: Whether a feature has no order, shape (features,).
    """
    return matern(weighted(relevance, squares(left, right, unordered)))[0]


def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a product of matrices, by as many columns at a time as BLAS takes without waking threads."""
    width = max(1, ALONE // max(1, left.size))
    return np.concatenate([left @ right[:, at : at + width] for at in range(0, right.shape[1] or 1, width)], axis=1)
