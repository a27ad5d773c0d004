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
    LENGTH,
    LENGTHS,
    covariance,
    distances,
    matern,
    most_probable,
    pulled,
    pulled_apart,
    times,
)

NOISE, NOISES = 0.02, 1.5
"""Prior of the noise variance, where scores have variance 1: its median and the deviation of its logarithm."""

PRECISE = 2.5
"""Deviation of the logarithm of the noise variance where values may have no noise at all, and where it matters."""

DRIFT, DRIFTS = 0.18, 1.0
"""Prior of the drift: its median and the deviation of its logarithm. The drift is the rate at which a genome's results
lose their correlation as budgets differ. At the median, a ninth of a training run has correlation 0.67 with all of it.
"""


@dataclass(frozen=True)
class Process:
    """A Gaussian process with mean 0, variance 1, a Matérn 5/2 kernel and a length scale for each feature.

    Two values of a feature without order have the distance of the two ends of a scale. Scores after different shares
    of a training run are correlated by exp(-drift * |difference of the shares' logarithms|), equally at every point.

    Args:
        points: Features of the points, shape (points, features).
        kinds: Kind of each feature (see `Layout`), or whether it has no order. Shape (features,).
        relevance: Inverse squared length scale of each feature, shape (features,).
        inverse: Inverse of the covariance of the points, noise included, shape (points, points).
        weights: Inverse times scores, shape (points,).
        noise: Noise variance.
        ages: Logarithms of the shares of a training run after which the points were scored, 0 for a full one, shape
            (points,). None if all were trained in full.
        drift: Rate at which scores after different shares lose their correlation.
        pending: Features of pending points, expected to get the predicted score, shape (pending, features).
        surer: Inverse of the covariance of the pending points given the others, noise included, shape
            (pending, pending).
    """

    points: np.ndarray
    kinds: np.ndarray
    relevance: np.ndarray
    inverse: np.ndarray
    weights: np.ndarray
    noise: float
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
        noises: float = NOISES,
    ) -> Process:
        """Return a process with length scales, noise and drift near their most probable values.

        Args:
            points: Features of the points; those with an order are in [0, 1]. Shape (points, features).
            scores: Scores of the points, with mean 0 and variance 1 or less, shape (points,).
            kinds: See the class.
            ages: See the class.
            noises: Deviation of the logarithm of the noise variance in its prior.
        """
        apart = None if ages is None else np.abs(ages[:, None] - ages[None, :])
        features = len(kinds)
        # Logarithms of relevances (-2 log length), then of the noise, then of the drift if there is one.
        middle = np.append(np.full(features, -2.0 * math.log(LENGTH * math.sqrt(features))), math.log(NOISE))
        spread = np.append(np.full(features, 2.0 * LENGTHS), noises)
        if apart is not None:
            middle, spread = np.append(middle, math.log(DRIFT)), np.append(spread, DRIFTS)
        logs = most_probable(lambda logs: _gradient(points, kinds, scores, logs, apart), middle, spread)
        relevance, noise = np.exp(logs[:features]), math.exp(logs[features])
        kernel = covariance(relevance, points, points, kinds)
        drift = 0.0 if apart is None else math.exp(logs[-1])
        if apart is not None:
            kernel *= np.exp(-drift * apart)
        inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
        return cls(points, kinds, relevance, inverse, inverse @ scores, noise, ages, drift)

    def expecting(self, pending: np.ndarray) -> Process:
        """Return the process as if the score of each pending point were exactly its prediction.

        The mean does not change. The variance is that of a process fitted to these points as well.

        Args:
            pending: Features of the points, shape (pending, features).
        """
        theirs = self._covariance(pending, pending) + self.noise * np.eye(len(pending))
        return replace(self, pending=pending, surer=np.linalg.inv(theirs))

    def with_noise(self, noise: float) -> Process:
        """Return the process with another noise variance and the same length scales, without pending points."""
        matrix = np.linalg.inv(self.inverse)
        inverse = np.linalg.inv(matrix + (noise - self.noise) * np.eye(len(matrix)))
        weights = inverse @ (matrix @ self.weights)
        return replace(self, inverse=inverse, weights=weights, noise=noise, pending=None, surer=None)

    def trust(self, share: float) -> float:
        """Return the correlation of a score after a share of the training run with the final score, 0 to 1."""
        return math.exp(self.drift * math.log(share))

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the final score of each point, without noise, each of shape (points,)."""
        mean, variance, *_ = self._predicted(points)
        return mean, variance

    def _predicted(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Return mean and variance, and by how much each fitted and each pending point explains each point.

        Returns:
            Mean and variance, each of shape (points,), and weights of shapes (fitted, points) and (pending, points),
            the last one None without pending points.
        """
        shared = self._shared(points)
        fitted, waiting = times(self.inverse, shared), None
        explained = (shared * fitted).sum(axis=0)
        if self.pending is not None and self.surer is not None:
            further = self._kernel(self.pending, points) - times(self._shared(self.pending).T, fitted)
            waiting = times(self.surer, further)
            explained += (further * waiting).sum(axis=0)
        return self.weights @ shared, np.maximum(1.0 - explained, 1e-9), fitted, waiting

    def left_out(self) -> np.ndarray:
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
        _, decline = matern(distances(self.relevance, known, points, self.kinds))
        if self.ages is not None:
            decline[: len(self.points)] *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        mean, variance, fitted, waiting = self._predicted(points)
        pulls = 2.0 * fitted
        if self.pending is not None and waiting is not None:
            pulls = pulls - times(times(self.inverse, self._shared(self.pending)), 2.0 * waiting)
            pulls = np.concatenate([pulls, 2.0 * waiting])
        weights = np.zeros(len(known))
        weights[: len(self.points)] = self.weights
        rising = self.relevance * pulled_apart(weights[:, None] * decline, known, points, self.kinds)
        falling = self.relevance * pulled_apart(pulls * decline, known, points, self.kinds)
        return mean, variance, rising, -falling

    def updated(self, points: np.ndarray, ages: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
        explained = times(self.inverse, early)
        left = np.maximum(1.0 - (early * explained).sum(axis=0), 1e-9)
        common = np.exp(self.drift * ages) - (late * explained).sum(axis=0)
        gain = common / (left + self.noise)
        variance = 1.0 - (late * times(self.inverse, late)).sum(axis=0) - gain * common
        return self.weights @ late + gain * (scores - self.weights @ early), np.maximum(variance, 1e-9)

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the prior covariance of points, shape (left, right)."""
        return covariance(self.relevance, left, right, self.kinds)

    def _shared(self, points: np.ndarray) -> np.ndarray:
        """Return the prior covariance of the fitted points and of final scores at points, shape (fitted, points)."""
        kernel = self._kernel(self.points, points)
        if self.ages is not None:
            kernel *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        return kernel

    def _covariance(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the covariance of points given the fitted ones, without noise, shape (left, right)."""
        one, other = self._shared(left), self._shared(right)
        return np.asarray(self._kernel(left, right) - times(one.T, times(self.inverse, other)))


def _gradient(
    points: np.ndarray, kinds: np.ndarray, scores: np.ndarray, logs: np.ndarray, apart: np.ndarray | None = None
) -> np.ndarray:
    """Return the gradient of the log likelihood by log relevances, log noise and, if any, log drift, shape (logs,).

    Rasmussen & Williams, equation 5.9.
    """
    relevance, noise = np.exp(logs[: len(kinds)]), math.exp(logs[len(kinds)])
    kernel, slope = matern(distances(relevance, points, points, kinds))
    if apart is not None:
        likeness = np.exp(-math.exp(logs[-1]) * apart)
        kernel, slope = kernel * likeness, slope * likeness
    inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
    weights = inverse @ scores
    pull = np.outer(weights, weights) - inverse
    found = 0.5 * np.append(relevance * pulled(pull * slope, points, points, kinds), noise * np.trace(pull))
    if apart is None:
        return found
    return np.append(found, -0.5 * math.exp(logs[-1]) * (pull * kernel * apart).sum())
