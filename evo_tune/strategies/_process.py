"""A Gaussian process over mixed genes in numpy: a smooth model, at its best while there are few trials.

It is fitted anew each time from its prior, in a fixed number of steps, so that it costs milliseconds and
stays a function of its points. This file knows points and scores only, nothing of trials, genes or strategies.

Sources: Rasmussen & Williams, Gaussian Processes for Machine Learning (MIT Press, 2006), chapters 2 and 5;
Hvarfner, Hellsten & Nardi, Vanilla Bayesian optimization performs great in high dimensions (ICML 2024) for
length scales that grow with the number of genes; Riedmiller & Braun, Rprop (ICNN 1993) for the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Process"]

STEPS = 20
"""Steps of the fit: enough to tell genes that matter from genes that do not, few enough to be cheap."""

LENGTH, LENGTHS = 0.5, 1.0
"""Prior of a length scale, in unit coordinates and for one gene: its median and the deviation of its logarithm."""

NOISE, NOISES = 0.02, 1.5
"""Prior of the variance of noise, where scores have variance 1: its median and the deviation of its logarithm."""

ROOT = math.sqrt(5.0)


@dataclass(frozen=True)
class Process:
    """A Gaussian process with mean 0, variance 1, a Matérn 5/2 kernel and a length scale for each feature.

    Two values of a feature without order are as far apart as the ends of a scale.

    Args:
        points: Features of the points, shape (points, features).
        unordered: Whether a feature has no order, shape (features,).
        relevance: Inverse squared length scale of each feature, shape (features,).
        inverse: Inverse of the covariance of the points, noise included, shape (points, points).
        weights: Inverse times scores, shape (points,).
    """

    points: np.ndarray
    unordered: np.ndarray
    relevance: np.ndarray
    inverse: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, points: np.ndarray, scores: np.ndarray, unordered: np.ndarray) -> Process:
        """Return the process whose length scales and noise are the most probable ones, nearly.

        Args:
            points: Features of the points; those with an order are in [0, 1]. Shape (points, features).
            scores: What is to be predicted, with mean 0 and variance 1 or less. Shape (points,).
            unordered: Whether a feature has no order, shape (features,).
        """
        steps = _squares(points, points, unordered)
        features = len(steps)
        # Of relevances, -2 log length; the last one is the noise.
        middle = np.append(np.full(features, -2.0 * math.log(LENGTH * math.sqrt(features))), math.log(NOISE))
        spread = np.append(np.full(features, 2.0 * LENGTHS), NOISES)
        logs, size, last = middle.copy(), np.full(features + 1, 0.4), np.zeros(features + 1)
        for _ in range(STEPS):
            uphill = _gradient(steps, scores, logs) - (logs - middle) / spread**2
            turned = np.sign(uphill * last)
            size *= np.where(turned > 0, 1.2, np.where(turned < 0, 0.5, 1.0))
            last = np.where(turned < 0, 0.0, uphill)
            logs = np.clip(logs + np.sign(last) * size, middle - 3.0 * spread, middle + 3.0 * spread)
        kernel, _ = _matern(_sum(np.exp(logs[:-1]), steps))
        inverse = np.linalg.inv(kernel + math.exp(logs[-1]) * np.eye(len(kernel)))
        return cls(points, unordered, np.exp(logs[:-1]), inverse, inverse @ scores)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the score of each point, noise excluded, each of shape (points,)."""
        shared, _ = _matern(_sum(self.relevance, _squares(self.points, points, self.unordered)))
        explained = (shared * np.einsum("ab,bc->ac", self.inverse, shared)).sum(axis=0)
        return self.weights @ shared, np.maximum(1.0 - explained, 1e-9)


def _squares(left: np.ndarray, right: np.ndarray, unordered: np.ndarray) -> np.ndarray:
    """Return squared distances by feature, shape (features, left, right)."""
    steps = np.abs(left.T[:, :, None] - right.T[:, None, :])
    steps[unordered] = steps[unordered] > 0
    return np.asarray(steps**2)


def _sum(weights: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the weighted sum over features. By einsum: BLAS would wake threads for it, which slots need more."""
    return np.asarray(np.einsum("f,fab->ab", weights, squares))


def _matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Matérn 5/2 kernel at squared distances and its derivative by them, both of their shape."""
    distance = ROOT * np.sqrt(squares)
    decay = np.exp(-distance)
    return (1.0 + distance + distance**2 / 3.0) * decay, -5.0 / 6.0 * (1.0 + distance) * decay


def _gradient(steps: np.ndarray, scores: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Return the gradient of the log likelihood by log relevances and log noise, shape (features + 1,).

    Rasmussen & Williams, equation 5.9.
    """
    relevance, noise = np.exp(logs[:-1]), math.exp(logs[-1])
    kernel, slope = _matern(_sum(relevance, steps))
    inverse = np.linalg.inv(kernel + noise * np.eye(len(kernel)))
    weights = inverse @ scores
    pull = np.outer(weights, weights) - inverse
    return 0.5 * np.append(relevance * np.einsum("fab,ab->f", steps, pull * slope), noise * np.trace(pull))
