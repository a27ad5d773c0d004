"""A Gaussian process over mixed genes in numpy: a smooth model that predicts well from few trials.

Each fit starts from the prior and takes a fixed number of steps, so it costs milliseconds and is a function of its
points. This module knows points and scores only, not trials, genes or strategies.

Sources: Rasmussen & Williams, Gaussian Processes for Machine Learning (MIT Press, 2006), chapters 2 and 5;
Hvarfner, Hellsten & Nardi, Vanilla Bayesian optimization performs great in high dimensions (ICML 2024), for length
scales that grow with the number of genes; Swersky, Snoek & Adams, Freeze-thaw Bayesian optimization (2014), for partial
training runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from evo_tune.genome.models.gaussian import (
    LENGTH_LOG_DEVIATION,
    LENGTH_MEDIAN,
    covariance,
    fit_mode,
    gradient_by_points,
    gradient_by_relevance,
    matern,
    matrix_product,
    squared_distances,
)

NOISE_MEDIAN, NOISE_LOG_DEVIATION = 0.02, 1.5
"""Prior of the noise variance, where scores have variance 1: its median and the deviation of its logarithm."""

PRECISE_NOISE_LOG_DEVIATION = 4.0
"""Deviation of the logarithm of the noise variance of a precise process, whose scores may have no noise at all."""

FIRST_LENGTH_LOG_DEVIATION, POINTS_PER_FEATURE = 0.35, 20.0
"""Deviation of the logarithm of a length scale of a precise process without points, and number of points per feature
from which it is LENGTHS. With few points, a wide prior finds differences between features that are chance."""

SCALE_PRIOR_SCORES = 5.0
"""Number of scores of variance 1 that the prior of the scale of a precise process is worth."""

DRIFT_MEDIAN, DRIFT_LOG_DEVIATION = 0.18, 1.0
"""Prior of the drift: its median and the deviation of its logarithm. The drift is the rate at which a genome's results
lose their correlation as budgets differ. At the median, a ninth of a training run has correlation 0.67 with all of it.
"""


@dataclass(frozen=True)
class Process:
    """A Gaussian process with mean 0, a Matérn 5/2 kernel and a length scale for each feature.

    Two values of a feature without order have the distance of the two ends of a scale. Scores after different shares
    of a training run are correlated by exp(-drift * |difference of the shares' logarithms|), equally at every point.

    Args:
        points: Features of the points, shape (points, features).
        kinds: Kind of each feature (see `Layout`), or whether it has no order. Shape (features,).
        relevance: Inverse squared length scale of each feature, shape (features,).
        inverse: Inverse of the covariance of the points, noise included, for scale 1, shape (points, points).
        weights: Inverse times scores, shape (points,).
        noise: Noise variance.
        scale: Variance of the prior.
        ages: Logarithms of the shares of a training run after which the points were scored, 0 for a full one, shape
            (points,). None if all were trained in full.
        drift: Rate at which scores after different shares lose their correlation.
        pending: Features of pending points, expected to get the predicted score, shape (pending, features).
        surer: Inverse of the covariance of the pending points given the others, noise included, for scale 1, shape
            (pending, pending).
    """

    points: np.ndarray
    kinds: np.ndarray
    relevance: np.ndarray
    inverse: np.ndarray
    weights: np.ndarray
    noise: float
    scale: float = 1.0
    ages: np.ndarray | None = None
    drift: float = 0.0
    pending: np.ndarray | None = None
    surer: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        points: np.ndarray,
        scores: np.ndarray,
        kinds: np.ndarray,
        ages: np.ndarray | None = None,
        precise: bool = False,
    ) -> Process:
        """Return a process with length scales, noise, drift and scale near their most probable values.

        Args:
            points: Features of the points; those with an order are in [0, 1]. Shape (points, features).
            scores: Scores of the points, with mean 0 and variance 1 or less, shape (points,).
            kinds: See the class.
            ages: See the class.
            precise: Whether scores may have no noise at all. Then features matter about alike while points are few,
                and the scale is fitted too; otherwise it is 1.
        """
        apart = None if ages is None else np.abs(ages[:, None] - ages[None, :])
        features = len(kinds)
        # Logarithms of relevances (-2 log length), then of the noise, then of the drift if there is one.
        middle = np.append(
            np.full(features, -2.0 * math.log(LENGTH_MEDIAN * math.sqrt(features))), math.log(NOISE_MEDIAN)
        )
        spread = np.append(
            np.full(features, 2.0 * LENGTH_LOG_DEVIATION),
            PRECISE_NOISE_LOG_DEVIATION if precise else NOISE_LOG_DEVIATION,
        )
        if apart is not None:
            middle, spread = np.append(middle, math.log(DRIFT_MEDIAN)), np.append(spread, DRIFT_LOG_DEVIATION)
        reach = 3.0 * spread
        if precise:
            spread[:features] = 2.0 * (
                FIRST_LENGTH_LOG_DEVIATION
                + (LENGTH_LOG_DEVIATION - FIRST_LENGTH_LOG_DEVIATION)
                * min(1.0, len(points) / (POINTS_PER_FEATURE * features))
            )
        logs = fit_mode(lambda logs: _gradient(points, kinds, scores, logs, apart, precise), middle, spread, reach)
        relevance, noise = np.exp(logs[:features]), math.exp(logs[features])
        kernel = covariance(relevance, points, points, kinds)
        drift = 0.0 if apart is None else math.exp(logs[-1])
        if apart is not None:
            kernel *= np.exp(-drift * apart)
        inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
        weights = inverse @ scores
        scale = _scale(scores, weights) if precise else 1.0
        return cls(points, kinds, relevance, inverse, weights, scale * noise, scale, ages, drift)

    def with_pending(self, pending: np.ndarray) -> Process:
        """Return the process as if the score of each pending point were exactly its prediction.

        The mean does not change. The variance is that of a process fitted to these points as well.

        Args:
            pending: Features of the points, shape (pending, features).
        """
        theirs = self._posterior_covariance(pending, pending) + self.noise / self.scale * np.eye(len(pending))
        return replace(self, pending=pending, surer=np.linalg.inv(theirs))

    def with_noise(self, noise: float) -> Process:
        """Return the process with another noise variance and the same length scales, without pending points."""
        matrix = np.linalg.inv(self.inverse)
        inverse = np.linalg.inv(matrix + (noise - self.noise) / self.scale * np.eye(len(matrix)))
        weights = inverse @ (matrix @ self.weights)
        return replace(self, inverse=inverse, weights=weights, noise=noise, pending=None, surer=None)

    def trust(self, share: float) -> float:
        """Return the correlation of a score after a share of the training run with the final score, 0 to 1."""
        return math.exp(self.drift * math.log(share))

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the final score of each point, without noise, each of shape (points,)."""
        mean, variance, *_ = self._predict(points)
        return mean, variance

    def _predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Return mean and variance, and by how much each fitted and each pending point explains each point.

        Returns:
            Mean and variance, each of shape (points,), and weights of shapes (fitted, points) and (pending, points),
            the last one None without pending points.
        """
        shared = self._final_covariance(points)
        fitted, waiting = matrix_product(self.inverse, shared), None
        explained = (shared * fitted).sum(axis=0)
        if self.pending is not None and self.surer is not None:
            further = self._kernel(self.pending, points) - matrix_product(
                self._final_covariance(self.pending).T, fitted
            )
            waiting = matrix_product(self.surer, further)
            explained += (further * waiting).sum(axis=0)
        return self.weights @ shared, self.scale * np.maximum(1.0 - explained, 1e-9), fitted, waiting

    def leave_one_out_errors(self) -> np.ndarray:
        """Return the error of the prediction of each score from all others, shape (points,).

        Rasmussen & Williams, equation 5.12.
        """
        return np.asarray(self.weights / np.diag(self.inverse))

    def slopes(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what `predict` does, and the gradients of both by the features with an order.

        Args:
            points: Features of the points, shape (points, features).

        Returns:
            Mean and variance, each of shape (points,), then their gradients, each of shape (points, features).
        """
        known = self.points if self.pending is None else np.concatenate([self.points, self.pending])
        _, decline = matern(squared_distances(self.relevance, known, points, self.kinds))
        if self.ages is not None:
            decline[: len(self.points)] *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        mean, variance, fitted, waiting = self._predict(points)
        pulls = 2.0 * fitted
        if self.pending is not None and waiting is not None:
            pulls = pulls - matrix_product(
                matrix_product(self.inverse, self._final_covariance(self.pending)), 2.0 * waiting
            )
            pulls = np.concatenate([pulls, 2.0 * waiting])
        weights = np.zeros(len(known))
        weights[: len(self.points)] = self.weights
        rising = self.relevance * gradient_by_points(weights[:, None] * decline, known, points, self.kinds)
        falling = self.relevance * gradient_by_points(pulls * decline, known, points, self.kinds)
        return mean, variance, rising, -self.scale * falling

    def predict_after_score(
        self, points: np.ndarray, ages: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `predict`, but condition each point on one more score of its own.

        Args:
            points: Features of the points, shape (points, features).
            ages: Logarithms of the shares of a training run after which they were scored, shape (points,).
            scores: Scores of the points, shape (points,).
        """
        kernel = self._kernel(self.points, points)
        known = np.zeros(len(self.points)) if self.ages is None else self.ages
        late = kernel * np.exp(-self.drift * np.abs(known))[:, None]
        early = kernel * np.exp(-self.drift * np.abs(known[:, None] - ages[None, :]))
        explained = matrix_product(self.inverse, early)
        left = np.maximum(1.0 - (early * explained).sum(axis=0), 1e-9)
        common = np.exp(self.drift * ages) - (late * explained).sum(axis=0)
        gain = common / (left + self.noise / self.scale)
        variance = 1.0 - (late * matrix_product(self.inverse, late)).sum(axis=0) - gain * common
        return self.weights @ late + gain * (scores - self.weights @ early), self.scale * np.maximum(variance, 1e-9)

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the prior covariance of points for scale 1, shape (left, right)."""
        return covariance(self.relevance, left, right, self.kinds)

    def _final_covariance(self, points: np.ndarray) -> np.ndarray:
        """Return the prior covariance for scale 1 of the fitted points and of final scores at points.

        Shape (fitted, points).
        """
        kernel = self._kernel(self.points, points)
        if self.ages is not None:
            kernel *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        return kernel

    def _posterior_covariance(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the covariance of points given the fitted ones, without noise, for scale 1. Shape (left, right)."""
        one, other = self._final_covariance(left), self._final_covariance(right)
        return np.asarray(self._kernel(left, right) - matrix_product(one.T, matrix_product(self.inverse, other)))


def _gradient(
    points: np.ndarray,
    kinds: np.ndarray,
    scores: np.ndarray,
    logs: np.ndarray,
    apart: np.ndarray | None = None,
    scaled: bool = False,
) -> np.ndarray:
    """Return the gradient of the log likelihood by log relevances, log noise and, if any, log drift, shape (logs,).

    Rasmussen & Williams, equation 5.9. If `scaled`, noise is relative to the scale, which has its most probable value,
    so the likelihood does not change with it.
    """
    relevance, noise = np.exp(logs[: len(kinds)]), math.exp(logs[len(kinds)])
    kernel, slope = matern(squared_distances(relevance, points, points, kinds))
    if apart is not None:
        likeness = np.exp(-math.exp(logs[-1]) * apart)
        kernel, slope = kernel * likeness, slope * likeness
    inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
    weights = inverse @ scores
    pull = np.outer(weights, weights) / (_scale(scores, weights) if scaled else 1.0) - inverse
    found = 0.5 * np.append(
        relevance * gradient_by_relevance(pull * slope, points, points, kinds), noise * np.trace(pull)
    )
    if apart is None:
        return found
    return np.append(found, -0.5 * math.exp(logs[-1]) * (pull * kernel * apart).sum())


def _scale(scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the most probable variance of the prior, if its own prior is worth KNOWN scores of variance 1.

    Args:
        scores: Scores, shape (points,).
        weights: Inverse of their covariance for scale 1, times the scores, shape (points,).
    """
    return (SCALE_PRIOR_SCORES + float(scores @ weights)) / (SCALE_PRIOR_SCORES + len(scores))
