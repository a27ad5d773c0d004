"""Parts that the Gaussian processes share: features of genomes, the Matérn 5/2 kernel, and a fit in fixed time.

Two values of a feature without order have the distance of the two ends of a scale. Matrix products are small blocks,
and matrices have less than 100 rows: BLAS would start threads for larger ones, and the slots need the cores.

Source: Riedmiller & Braun, Rprop (ICNN 1993), for the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.space import SearchSpace

# Prior of a length scale for one gene, in unit coordinates: its median and the deviation of its logarithm.
LENGTH_MEDIAN, LENGTH_LOG_DEVIATION = 0.5, 1.0

# Kinds of features: a scale, values without order, and a scale that only some points have. A boolean array, whether
# features have no order, serves as kinds too, because True == UNORDERED.
ORDERED, UNORDERED, CONDITIONAL = 0, 1, 2

# Value of a conditional feature of a point that does not have it.
ABSENT = -1.0

# Squared distance in a conditional feature of two points, of which one does not have it. The points that have it are on
# a half circle around those that do not, with its ends at distance 1. So the kernel stays positive definite (Swersky et
# al., Raiders of the lost architecture: kernels for Bayesian optimization in conditional parameter spaces, 2013).
ABSENT_SQUARED_DISTANCE = 0.25

# Number of features up to which a kernel is computed feature by feature.
EXACT_UP_TO = 16

SQRT_5 = math.sqrt(5.0)

# Largest number of multiplications of a matrix product that BLAS does in the calling thread.
SINGLE_THREAD_PRODUCTS = 200_000

# Variance that is added to a covariance matrix that rounding has made singular.
JITTER = 1e-6

# Steps of a fit: enough to tell genes that matter from others, few enough to be cheap.
FIT_STEPS = 20

# First step of a fit, and its factors if the slope keeps its sign and if it changes it.
FIRST_STEP, STEP_GROWTH, STEP_SHRINKAGE = 0.4, 1.2, 0.5


def category_counts(space: SearchSpace) -> np.ndarray:
    """Return the number of values of each gene without order, 0 for one with an order, shape (genes,)."""
    genes = space.genes.values()
    return np.array([gene.size if isinstance(gene, Choice) and not gene.ordered else 0 for gene in genes])


def encode_features(units: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the features of genomes: unit coordinates, or indices of values for genes without order.

    Args:
        units: Unit coordinates, shape (points, genes).
        counts: See `category_counts`.

    Returns:
        Shape (points, genes).
    """
    return np.where(counts > 0, np.minimum(np.floor(units * counts), counts - 1), units)


@dataclass(frozen=True)
class FeatureLayout:
    """The features of a space in which a conditional gene counts only where it is active.

    Args:
        space: Search space.
        category_counts: Number of values of each gene without order, 0 for one with an order, shape (genes,).
        category_counts_with_absent: The same, and one more for a conditional gene without order: for points in which it
            is not active.
        kinds: Kind of each feature, shape (genes,).
    """

    space: SearchSpace
    category_counts: np.ndarray
    category_counts_with_absent: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, space: SearchSpace) -> FeatureLayout:
        counts, conditional = category_counts(space), space.conditional
        kinds = np.where(counts > 0, UNORDERED, np.where(conditional, CONDITIONAL, ORDERED))
        return cls(space, counts, np.where((counts > 0) & conditional, counts + 1, counts), kinds)

    def features(self, units: np.ndarray) -> np.ndarray:
        """Return the features of genomes at unit coordinates, both of shape (points, genes).

        Where a conditional gene is inactive, its feature is ABSENT, or one more than the last index without an order.
        """
        features = encode_features(units, self.category_counts)
        conditional = self.space.conditional
        absent_values = np.where(self.category_counts > 0, self.category_counts, ABSENT)
        return np.where(conditional & ~self.space.active(units), absent_values, features)


def square_distances_by_feature(rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the squared distances of points in each feature, shape (features, rows, columns).

    Args:
        rows: Features of points, shape (rows, features).
        columns: Features of points, shape (columns, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    differences = np.abs(rows.T[:, :, None] - columns.T[:, None, :])
    unordered, conditional = kinds == UNORDERED, kinds == CONDITIONAL
    differences[unordered] = differences[unordered] > 0
    squares = differences**2
    if conditional.any():
        row_has, column_has = rows.T[conditional][:, :, None] >= 0.0, columns.T[conditional][:, None, :] >= 0.0
        # Squared chord of the half circle of ABSENT_SQUARED_DISTANCE.
        chord = np.sin(0.5 * np.pi * np.sqrt(squares[conditional])) ** 2
        only_one = np.where(row_has ^ column_has, ABSENT_SQUARED_DISTANCE, 0.0)
        squares[conditional] = np.where(row_has & column_has, chord, only_one)
    return np.asarray(squares)


def gradient_by_columns(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the gradient by `columns` of the sum of weighted squared distances, shape (columns, features).

    The derivatives are 0 for features without order, and where one of the points does not have the feature.

    Args:
        matrix: Weights of `square_distances_by_feature`, the same for all features, shape (rows, columns).
        rows: Features of points, shape (rows, features).
        columns: Features of points, shape (columns, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    # Of a scale: the sum over r of 2 m[r, c] (columns[c] - rows[r]).
    gradient = 2.0 * (matrix.sum(axis=0)[:, None] * columns - matrix_product(matrix.T, rows))
    gradient[:, kinds == UNORDERED] = 0.0
    conditional = kinds == CONDITIONAL
    if conditional.any():
        x, y = rows.T[conditional][:, :, None], columns.T[conditional][:, None, :]
        # Derivative of the squared chord, sin²(π (y - x) / 2).
        chord_slope = np.where((x >= 0.0) & (y >= 0.0), 0.5 * np.pi * np.sin(np.pi * (y - x)), 0.0)
        gradient[:, conditional] = np.einsum("fab,ab->bf", chord_slope, matrix)
    return np.asarray(gradient)


def gradient_by_relevance(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the sum of `square_distances_by_feature` times a matrix for each feature, shape (features,).

    It is the gradient by the relevance of each feature, where the matrix is the gradient by `square_distances`.

    Args:
        matrix: Factors of the squared distances, shape (rows, columns).
        rows: Features of points, shape (rows, features).
        columns: Features of points, shape (columns, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    ordered, gradient = kinds == ORDERED, np.empty(len(kinds))
    x, y = rows[:, ordered], columns[:, ordered]
    # The sum of m (x - y)² is that of m x² and m y², minus that of 2 m x y.
    squares = matrix.sum(axis=1) @ x**2 + matrix.sum(axis=0) @ y**2
    gradient[ordered] = squares - 2.0 * (x * matrix_product(matrix, y)).sum(axis=0)
    if not ordered.all():
        by_feature = square_distances_by_feature(rows[:, ~ordered], columns[:, ~ordered], kinds[~ordered])
        gradient[~ordered] = np.einsum("fab,ab->f", by_feature, matrix)
    return gradient


def farthest_points(points: np.ndarray, kinds: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of up to `count` distinct points that are far from each other, the first point included.

    Each is the farthest from those before it (Gonzalez, Theoretical Computer Science 38, 1985).

    Args:
        points: Features of points, shape (points, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
        count: Largest number of indices, 1 or more.
    """
    indices, nearest = [0], square_distances_by_feature(points[:1], points, kinds).sum(axis=(0, 1))
    while len(indices) < count and nearest.max() > 0.0:
        indices.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, square_distances_by_feature(points[indices[-1:]], points, kinds).sum(axis=(0, 1)))
    return np.array(indices)


def sum_weighted(weights: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return the sum of matrices, shape (features, rows, columns), with weights, shape (features,)."""
    return np.asarray(np.einsum("f,fab->ab", weights, matrices))


def matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Matérn 5/2 kernel at squared distances and its derivative by them, each of the same shape."""
    scaled = SQRT_5 * np.sqrt(squares)
    decay = np.exp(-scaled)
    return (1.0 + scaled + scaled**2 / 3.0) * decay, -5.0 / 6.0 * (1.0 + scaled) * decay


def square_distances(relevance: np.ndarray, rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the squared distances of points, weighted by relevance and summed over features. Shape (rows, columns).

    Features with an order are one matrix product, however many they are.

    Args:
        relevance: Inverse squared length scale of each feature, shape (features,).
        rows: Features of points, shape (rows, features).
        columns: Features of points, shape (columns, features).
        kinds: Kind of each feature, or whether it has no order. Shape (features,).
    """
    ordered = kinds == ORDERED
    x, y = (points[:, ordered] * np.sqrt(relevance[ordered]) for points in (rows, columns))
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2.0 * matrix_product(x, y.T)
    if not ordered.all():
        by_feature = square_distances_by_feature(rows[:, ~ordered], columns[:, ~ordered], kinds[~ordered])
        squares += sum_weighted(relevance[~ordered], by_feature)
    return np.asarray(np.maximum(squares, 0.0))


def covariance(relevance: np.ndarray, rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the kernel of points, shape (rows, columns); see `square_distances` for the arguments.

    With few features it is exact: the matrix product of `square_distances` leaves a rounding error between equal
    points.
    """
    if len(kinds) <= EXACT_UP_TO:
        return matern(sum_weighted(relevance, square_distances_by_feature(rows, columns, kinds)))[0]
    return matern(square_distances(relevance, rows, columns, kinds))[0]


def matrix_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a matrix product, computed in column blocks so small that BLAS starts no threads."""
    width = max(1, SINGLE_THREAD_PRODUCTS // max(1, a.size))
    starts = range(0, b.shape[1] or 1, width)  # one empty block for a matrix without columns
    return np.concatenate([a @ b[:, start : start + width] for start in starts], axis=1)


def inverse_cholesky_factor(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse W of the lower Cholesky factor of a covariance matrix, so W.T @ W is the matrix's inverse.

    Solves with the factor itself would start threads in BLAS even for small matrices.

    Args:
        matrix: Positive definite matrix, shape (points, points).

    Returns:
        Lower triangular matrix, shape (points, points).
    """
    from scipy.linalg import lapack  # takes a tenth of a second, needed only where a model is fitted

    factor, error = lapack.dpotrf(matrix, lower=1)
    if error:
        factor, error = lapack.dpotrf(matrix + JITTER * np.eye(len(matrix)), lower=1)
    if error:
        raise np.linalg.LinAlgError("the covariance matrix of a Gaussian process is not positive definite")
    return np.asarray(lapack.dtrtri(factor, lower=1)[0])


def find_posterior_mode(
    gradient: Callable[[np.ndarray], np.ndarray], medians: np.ndarray, deviations: np.ndarray, max_distance: np.ndarray
) -> np.ndarray:
    """Return values near the mode of a posterior with a normal prior, after a fixed number of steps. Shape (values,).

    Args:
        gradient: Function that returns the gradient of the log likelihood, shape (values,), at some values.
        medians: Medians of the prior, shape (values,).
        deviations: Deviations of the prior, shape (values,).
        max_distance: Largest differences from the medians, shape (values,).
    """
    values, step_sizes, last_slope = medians.copy(), np.full(len(medians), FIRST_STEP), np.zeros(len(medians))
    for _ in range(FIT_STEPS):
        slope = gradient(values) - (values - medians) / deviations**2
        sign_of_product = np.sign(slope * last_slope)  # negative where a step went too far
        step_sizes *= np.where(sign_of_product > 0, STEP_GROWTH, np.where(sign_of_product < 0, STEP_SHRINKAGE, 1.0))
        last_slope = np.where(sign_of_product < 0, 0.0, slope)
        values = np.clip(values + np.sign(last_slope) * step_sizes, medians - max_distance, medians + max_distance)
    return np.asarray(values)
