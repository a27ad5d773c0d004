"""A Gaussian process over mixed genes in numpy: a smooth model, at its best while there are few trials.

It is fitted anew each time from its prior, in a fixed number of steps, so that it costs milliseconds and
stays a function of its points. This file knows points and scores only, nothing of trials, genes or strategies.

Sources: Rasmussen & Williams, Gaussian Processes for Machine Learning (MIT Press, 2006), chapters 2 and 5;
Hvarfner, Hellsten & Nardi, Vanilla Bayesian optimization performs great in high dimensions (ICML 2024) for
length scales that grow with the number of genes; Swersky, Snoek & Adams, Freeze-thaw Bayesian optimization (2014) for
trainings that were not ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from evo_tune.genome.models.climbing import most_probable
from evo_tune.genome.models.matern import covariance, matern, squares, times, weighted

__all__ = ["Process"]

LENGTH, LENGTHS = 0.5, 1.0
"""Prior of a length scale, in unit coordinates and for one gene: its median and the deviation of its logarithm."""

NOISE, NOISES = 0.02, 1.5
"""Prior of the variance of noise, where scores have variance 1: its median and the deviation of its logarithm."""

DRIFT, DRIFTS = 0.18, 1.0
"""Prior of how fast a genome's results part as budgets do, for a factor e between them: that a ninth tells .67 of the
whole, in correlation. Its median and the deviation of its logarithm."""


@dataclass(frozen=True)
class Process:
    """A Gaussian process with mean 0, variance 1, a Matérn 5/2 kernel and a length scale for each feature.

    Two values of a feature without order are as far apart as the ends of a scale. Scores after different shares of a
    training are correlated by exp(-drift * |difference of the shares' logarithms|), at every point alike.

    Args:
        points: Features of the points, shape (points, features).
        unordered: Whether a feature has no order, shape (features,).
        relevance: Inverse squared length scale of each feature, shape (features,).
        inverse: Inverse of the covariance of the points, noise included, shape (points, points).
        weights: Inverse times scores, shape (points,).
        noise: Variance of noise.
        ages: Logarithms of the shares of a training after which the points had their scores, 0 for all of it. Shape
            (points,); None where all have been trained in full.
        drift: See above.
        out: Features of points that it believes to be as it expects them, shape (out, features).
        surer: Inverse of the covariance of these points, noise included, given the others. Shape (out, out).
    """

    points: np.ndarray
    unordered: np.ndarray
    relevance: np.ndarray
    inverse: np.ndarray
    weights: np.ndarray
    noise: float
    ages: np.ndarray | None = None
    drift: float = 0.0
    out: np.ndarray | None = None
    surer: np.ndarray | None = None

    @classmethod
    def fit(
        cls, points: np.ndarray, scores: np.ndarray, unordered: np.ndarray, ages: np.ndarray | None = None
    ) -> Process:
        """Return the process whose length scales, noise and drift are the most probable ones, nearly.

        Args:
            points: Features of the points; those with an order are in [0, 1]. Shape (points, features).
            scores: What is to be predicted, with mean 0 and variance 1 or less. Shape (points,).
            unordered: Whether a feature has no order, shape (features,).
            ages: As the class has it.
        """
        steps = squares(points, points, unordered)
        apart = None if ages is None else np.abs(ages[:, None] - ages[None, :])
        features = len(steps)
        # Of relevances, -2 log length; then the noise, and the drift if there is any.
        middle = np.append(np.full(features, -2.0 * math.log(LENGTH * math.sqrt(features))), math.log(NOISE))
        spread = np.append(np.full(features, 2.0 * LENGTHS), NOISES)
        if apart is not None:
            middle, spread = np.append(middle, math.log(DRIFT)), np.append(spread, DRIFTS)
        logs = most_probable(lambda logs: _gradient(steps, scores, logs, apart), middle, spread)
        relevance, noise = np.exp(logs[:features]), math.exp(logs[features])
        kernel, _ = matern(weighted(relevance, steps))
        drift = 0.0 if apart is None else math.exp(logs[-1])
        if apart is not None:
            kernel *= np.exp(-drift * apart)
        inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
        return cls(points, unordered, relevance, inverse, inverse @ scores, noise, ages, drift)

    def believing(self, out: np.ndarray) -> Process:
        """Return the process that has seen, at these points, just what it expects there.

        Its mean stays what it was; its variance is that of a process fitted to the points as well.

        Args:
            out: Features of the points, shape (out, features).
        """
        theirs = self._covariance(out, out) + self.noise * np.eye(len(out))
        return replace(self, out=out, surer=np.linalg.inv(theirs))

    def trust(self, share: float) -> float:
        """Return how a score after a share of the training and the last one are correlated, 0 to 1."""
        return math.exp(self.drift * math.log(share))

    def updated(self, points: np.ndarray, ages: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `predict` does, of points of which each has a score of its own that the process did not see.

        Args:
            points: Features of the points, shape (points, features).
            ages: Logarithms of the shares of a training after which they had their scores, shape (points,).
            scores: These, shape (points,).
        """
        kernel = self._kernel(self.points, points)
        known = np.zeros(len(self.points)) if self.ages is None else self.ages
        late = kernel * np.exp(-self.drift * np.abs(known))[:, None]
        early = kernel * np.exp(-self.drift * np.abs(known[:, None] - ages[None, :]))
        explained = times(self.inverse, early)
        doubt = np.maximum(1.0 - (early * explained).sum(axis=0), 1e-9)
        common = np.exp(self.drift * ages) - (late * explained).sum(axis=0)
        gain = common / (doubt + self.noise)
        variance = 1.0 - (late * times(self.inverse, late)).sum(axis=0) - gain * common
        return self.weights @ late + gain * (scores - self.weights @ early), np.maximum(variance, 1e-9)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the last score of each point, noise excluded, each of shape (points,)."""
        shared = self._shared(points)
        explained = (shared * times(self.inverse, shared)).sum(axis=0)
        if self.out is not None and self.surer is not None:
            further = self._covariance(self.out, points)
            explained += (further * times(self.surer, further)).sum(axis=0)
        return self.weights @ shared, np.maximum(1.0 - explained, 1e-9)

    def _kernel(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the prior's covariance of points, shape (left, right)."""
        return covariance(self.relevance, left, right, self.unordered)

    def _shared(self, points: np.ndarray) -> np.ndarray:
        """Return the prior's covariance of what it was fitted to and of points in the end, shape (fitted, points)."""
        kernel = self._kernel(self.points, points)
        if self.ages is not None:
            kernel *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        return kernel

    def _covariance(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the covariance of points given those that it was fitted to, noise excluded, shape (left, right)."""
        one, other = self._shared(left), self._shared(right)
        return np.asarray(self._kernel(left, right) - times(one.T, times(self.inverse, other)))


def _gradient(steps: np.ndarray, scores: np.ndarray, logs: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    """Return the gradient of the log likelihood by log relevances, log noise and, if any, log drift, shape (logs,).

    Rasmussen & Williams, equation 5.9.
    """
    relevance, noise = np.exp(logs[: len(steps)]), math.exp(logs[len(steps)])
    kernel, slope = matern(weighted(relevance, steps))
    if apart is not None:
        likeness = np.exp(-math.exp(logs[-1]) * apart)
        kernel, slope = kernel * likeness, slope * likeness
    inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
    weights = inverse @ scores
    pull = np.outer(weights, weights) - inverse
    found = 0.5 * np.append(relevance * np.einsum("fab,ab->f", steps, pull * slope), noise * np.trace(pull))
    if apart is None:
        return found
    return np.append(found, -0.5 * math.exp(logs[-1]) * (pull * kernel * apart).sum())
