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

from evo_tune.genome import kernel as kernels

# Prior of the noise variance, where scores have variance 1: its median and the deviation of its logarithm.
NOISE_MEDIAN, NOISE_LOG_DEVIATION = 0.02, 1.5

# Deviation of the logarithm of the noise variance of a precise process, whose scores may have no noise at all.
PRECISE_NOISE_LOG_DEVIATION = 4.0

# Deviation of the logarithm of a length scale of a precise process without points, and number of points per feature
# from which it is LENGTH_LOG_DEVIATION. With few points, a wide prior finds differences between features that are
# chance.
FIRST_LENGTH_LOG_DEVIATION, POINTS_PER_FEATURE = 0.35, 20.0

# Number of scores of variance 1 that the prior of the scale of a precise process is worth.
SCALE_PRIOR_SCORES = 5.0

# Prior of the drift: its median and the deviation of its logarithm. The drift is the rate at which a genome's results
# lose their correlation as budgets differ. At the median, a ninth of a training run has correlation 0.67 with all of
# it.
DRIFT_MEDIAN, DRIFT_LOG_DEVIATION = 0.18, 1.0

# Smallest variance of a prediction, for scale 1.
SMALLEST_VARIANCE = 1e-9


@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process with mean 0, a Matérn 5/2 kernel and a length scale for each feature.

    Two values of a feature without order have the distance of the two ends of a scale. Scores after different shares
    of a training run are correlated by exp(-drift * |difference of the shares' logarithms|), equally at every point.

    Args:
        points: Features of the points, shape (points, features).
        kinds: Kind of each feature (see `FeatureLayout`), or whether it has no order. Shape (features,).
        relevance: Inverse squared length scale of each feature, shape (features,).
        whitening: Inverse of the Cholesky factor of the covariance of the points, noise included, for scale 1 (see
            `inverse_cholesky_factor`), shape (points, points).
        weights: Inverse of that covariance times the scores, shape (points,). 0 for pending points.
        noise: Noise variance.
        scale: Variance of the prior.
        ages: Logarithms of the shares of a training run after which the points were scored, 0 for a full one, shape
            (points,).
        drift: Rate at which scores after different shares lose their correlation.
    """

    points: np.ndarray
    kinds: np.ndarray
    relevance: np.ndarray
    whitening: np.ndarray
    weights: np.ndarray
    noise: float
    scale: float
    ages: np.ndarray
    drift: float

    @classmethod
    def fit(
        cls,
        points: np.ndarray,
        scores: np.ndarray,
        kinds: np.ndarray,
        ages: np.ndarray | None = None,
        precise: bool = False,
    ) -> GaussianProcess:
        """Return a process with length scales, noise, drift and scale near their most probable values.

        Args:
            points: Features of the points; those with an order are in [0, 1]. Shape (points, features).
            scores: Scores of the points, with mean 0 and variance 1 or less, shape (points,).
            kinds: See the class.
            ages: See the class; None if all were trained in full.
            precise: Whether scores may have no noise at all. Then features matter about alike while points are few,
                and the scale is fitted too; otherwise it is 1.
        """
        ages = np.zeros(len(points)) if ages is None else ages
        age_differences = np.abs(ages[:, None] - ages[None, :])
        features = len(kinds)
        # Logarithms of relevances (-2 log length), then of the noise, then of the drift.
        relevance_median = -2.0 * math.log(kernels.LENGTH_MEDIAN * math.sqrt(features))
        medians = np.append(np.full(features, relevance_median), [math.log(NOISE_MEDIAN), math.log(DRIFT_MEDIAN)])
        noise_deviation = PRECISE_NOISE_LOG_DEVIATION if precise else NOISE_LOG_DEVIATION
        length_deviations = np.full(features, 2.0 * kernels.LENGTH_LOG_DEVIATION)
        deviations = np.append(length_deviations, [noise_deviation, DRIFT_LOG_DEVIATION])
        reach = 3.0 * deviations
        if precise:
            evidence = min(1.0, len(points) / (POINTS_PER_FEATURE * features))
            growth = (kernels.LENGTH_LOG_DEVIATION - FIRST_LENGTH_LOG_DEVIATION) * evidence
            deviations[:features] = 2.0 * (FIRST_LENGTH_LOG_DEVIATION + growth)

        def gradient(logs: np.ndarray) -> np.ndarray:
            return likelihood_gradient(points, kinds, scores, logs, age_differences, precise)

        logs = kernels.find_posterior_mode(gradient, medians, deviations, reach)
        relevance, noise, drift = np.exp(logs[:features]), math.exp(logs[features]), math.exp(logs[-1])
        kernel = kernels.covariance(relevance, points, points, kinds) * np.exp(-drift * age_differences)
        whitening = kernels.inverse_cholesky_factor(kernel + noise * np.eye(len(kernel)))
        weights = whitening.T @ (whitening @ scores)
        scale = _scale(scores, weights) if precise else 1.0
        return cls(points, kinds, relevance, whitening, weights, scale * noise, scale, ages, drift)

    def with_pending(self, pending: np.ndarray) -> GaussianProcess:
        """Return the process as if the score of each pending point were exactly its prediction.

        The mean does not change. The variance is that of a process fitted to these points as well.

        Args:
            pending: Features of the points, shape (pending, features).
        """
        # Block form of the Cholesky factor of all points, [[L, 0], [C, P]], and of its inverse.
        cross = kernels.matrix_product(self.whitening, self._final_covariance(pending)).T
        kernel = kernels.covariance(self.relevance, pending, pending, self.kinds)
        noise = self.noise / self.scale * np.eye(len(pending))
        corner = kernels.inverse_cholesky_factor(kernel + noise - kernels.matrix_product(cross, cross.T))
        count, total = len(self.points), len(self.points) + len(pending)
        whitening = np.zeros((total, total))
        whitening[:count, :count] = self.whitening
        whitening[count:, :count] = -kernels.matrix_product(kernels.matrix_product(corner, cross), self.whitening)
        whitening[count:, count:] = corner
        points, zeros = np.concatenate([self.points, pending]), np.zeros(len(pending))
        weights, ages = np.append(self.weights, zeros), np.append(self.ages, zeros)
        return replace(self, points=points, whitening=whitening, weights=weights, ages=ages)

    def with_noise(self, noise: float) -> GaussianProcess:
        """Return a process of full trainings with another noise variance and the same length scales."""
        kernel = kernels.covariance(self.relevance, self.points, self.points, self.kinds)
        scores = kernel @ self.weights + self.noise / self.scale * self.weights
        whitening = kernels.inverse_cholesky_factor(kernel + noise / self.scale * np.eye(len(kernel)))
        return replace(self, whitening=whitening, weights=whitening.T @ (whitening @ scores), noise=noise)

    def trust(self, share: float) -> float:
        """Return the correlation of a score after a share of the training run with the final score, 0 to 1."""
        return math.exp(self.drift * math.log(share))

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the final score of each point, without noise, each of shape (points,)."""
        kernel = self._final_covariance(points)
        whitened = kernels.matrix_product(self.whitening, kernel)
        return self.weights @ kernel, self.scale * np.maximum(1.0 - (whitened**2).sum(axis=0), SMALLEST_VARIANCE)

    def leave_one_out_errors(self) -> np.ndarray:
        """Return the error of the prediction of each score from all others, shape (points,).

        Rasmussen & Williams, equation 5.12.
        """
        return np.asarray(self.weights / (self.whitening**2).sum(axis=0))

    def gradients(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return mean and variance as `predict` does, and the gradients of both by the features with an order.

        Args:
            points: Features of the points, shape (points, features).

        Returns:
            Mean and variance, each of shape (points,), then their gradients, each of shape (points, features).
        """
        kernel = self._final_covariance(points)
        whitened = kernels.matrix_product(self.whitening, kernel)
        variance = self.scale * np.maximum(1.0 - (whitened**2).sum(axis=0), SMALLEST_VARIANCE)
        _, decline = kernels.matern(kernels.square_distances(self.relevance, self.points, points, self.kinds))
        decline *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        solved = kernels.matrix_product(self.whitening.T, whitened)  # the inverse covariance times the kernel
        rising = kernels.gradient_by_columns(self.weights[:, None] * decline, self.points, points, self.kinds)
        explained = kernels.gradient_by_columns(2.0 * solved * decline, self.points, points, self.kinds)
        return self.weights @ kernel, variance, self.relevance * rising, -self.scale * (self.relevance * explained)

    def predict_after_score(
        self, points: np.ndarray, ages: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `predict`, but condition each point on one more score of its own.

        Args:
            points: Features of the points, shape (points, features).
            ages: Logarithms of the shares of a training run after which they were scored, shape (points,).
            scores: Scores of the points, shape (points,).
        """
        kernel = kernels.covariance(self.relevance, self.points, points, self.kinds)
        final = kernel * np.exp(-self.drift * np.abs(self.ages))[:, None]
        early = kernel * np.exp(-self.drift * np.abs(self.ages[:, None] - ages[None, :]))
        final_whitened, early_whitened = (kernels.matrix_product(self.whitening, x) for x in (final, early))
        early_variance = np.maximum(1.0 - (early_whitened**2).sum(axis=0), SMALLEST_VARIANCE)
        common = np.exp(self.drift * ages) - (final_whitened * early_whitened).sum(axis=0)
        gain = common / (early_variance + self.noise / self.scale)
        variance = 1.0 - (final_whitened**2).sum(axis=0) - gain * common
        mean = self.weights @ final + gain * (scores - self.weights @ early)
        return mean, self.scale * np.maximum(variance, SMALLEST_VARIANCE)

    def _final_covariance(self, points: np.ndarray) -> np.ndarray:
        """Return the prior covariance, for scale 1, of this process's scores and of final scores at points.

        Shape (points of the process, points).
        """
        kernel = kernels.covariance(self.relevance, self.points, points, self.kinds)
        kernel *= np.exp(-self.drift * np.abs(self.ages))[:, None]
        return kernel


def likelihood_gradient(
    points: np.ndarray,
    kinds: np.ndarray,
    scores: np.ndarray,
    logs: np.ndarray,
    age_differences: np.ndarray,
    precise: bool = False,
) -> np.ndarray:
    """Return the gradient of the log likelihood by log relevances, log noise and log drift, shape (logs,).

    Rasmussen & Williams, equation 5.9. For a precise process, noise is relative to the scale, which has its most
    probable value, so the likelihood does not change with it.
    """
    relevance, noise = np.exp(logs[: len(kinds)]), math.exp(logs[len(kinds)])
    kernel, slope = kernels.matern(kernels.square_distances(relevance, points, points, kinds))
    correlation = np.exp(-math.exp(logs[-1]) * age_differences)
    kernel, slope = kernel * correlation, slope * correlation
    whitening = kernels.inverse_cholesky_factor(kernel + noise * np.eye(len(kernel)))
    weights = whitening.T @ (whitening @ scores)
    scale = _scale(scores, weights) if precise else 1.0
    # Twice the gradient by the covariance.
    by_covariance = np.outer(weights, weights) / scale - kernels.matrix_product(whitening.T, whitening)
    by_relevance = relevance * kernels.gradient_by_relevance(by_covariance * slope, points, points, kinds)
    gradient = 0.5 * np.append(by_relevance, noise * np.trace(by_covariance))
    return np.append(gradient, -0.5 * math.exp(logs[-1]) * (by_covariance * kernel * age_differences).sum())


def _scale(scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the most probable variance of the prior, if its own prior is worth SCALE_PRIOR_SCORES scores.

    Args:
        scores: Scores, shape (points,).
        weights: Inverse of their covariance for scale 1, times the scores, shape (points,).
    """
    return (SCALE_PRIOR_SCORES + float(scores @ weights)) / (SCALE_PRIOR_SCORES + len(scores))
