"""The acquisition of `saea`: a product of factors, of which each judges candidates in one respect.

    expected improvement × probability of success × probability that each constraint is met × prior

Each factor is a class that returns its logarithm at unit coordinates, and the gradient where it has one. The product is
the sum of the logarithms. This module knows fitted models and unit coordinates, not trials or strategies.

Sources: Gardner et al., Bayesian optimization with inequality constraints (ICML 2014); Gelbart, Snoek & Adams, Bayesian
optimization with unknown constraints (UAI 2014), for failures; Hvarfner et al., πBO (ICLR 2022), for the prior.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.genes import Gene
from evo_tune.genome.kernel import FeatureLayout, encode_features
from evo_tune.genome.process import Process
from evo_tune.genome.space import log_prior, log_prior_gradient
from evo_tune.strategies._models import EarlierRuns, Models, log_density_and_probability, log_expected_improvement

UNSURE = 0.05
"""Variance that is added to the prediction of success, so that a few failures near a point do not rule it out."""

PREDICTABLE, SHARP = 0.2, 0.05
"""Share of the variance of success that is predicted from the other trials above which failures are a region, and the
largest noise variance there. Trials at both sides of an edge look like noise, which hides it. Failures at random seldom
have a share above 0.1."""

ANYWHERE, IN_REGION = (0.05, 3.0), (0.03, 5.0)
"""Share of failures without a price, and price of each further one: by so much the power of the probability of success
rises. Where all that is safe is known, expected improvement is larger beyond an edge, however likely a failure is. A
region can be avoided, so fewer failures are borne."""

LARGEST = 3.0
"""Largest value of a constraint that a model is fitted to, in standard deviations; larger ones are cut."""


class Factor(ABC):
    """A factor of the acquisition."""

    smooth: bool = True
    """Whether it has a gradient."""

    @abstractmethod
    def logs(self, units: np.ndarray) -> np.ndarray:
        """Return the logarithm at unit coordinates of shape (points, genes). Shape (points,)."""

    @abstractmethod
    def slopes(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `logs` does, and its gradient, shape (points, genes), 0 for genes without an order."""


@dataclass(frozen=True)
class Improvement(Factor):
    """Expected improvement over the best score.

    Args:
        models: Models of the scores.
        layout: Features of the space.
        best: Best score of a trial that meets the constraints.
        earlier: Prediction of earlier runs, which is added to that of the models.
    """

    models: Models
    layout: FeatureLayout
    best: float
    earlier: EarlierRuns | None = None

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """Whether a Gaussian process predicts alone."""
        return self.models.forest is None and (self.earlier is None or not self.earlier.lessons)

    def logs(self, units: np.ndarray) -> np.ndarray:
        mean, deviation = self.models.predict(self.layout.features(units))
        if self.earlier is not None and self.earlier.lessons:
            mean = mean + self.earlier(encode_features(units, self.earlier.sizes))
        return log_expected_improvement(mean, deviation, self.best)

    def slopes(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance, rising, widening = self.models.process.slopes(self.layout.features(units))
        deviation = np.sqrt(variance)
        density, below = log_density_and_probability((mean - self.best) / deviation)
        improvement = log_expected_improvement(mean, deviation, self.best)
        by_mean = np.exp(np.minimum(below - improvement, 50.0))
        by_deviation = np.exp(np.minimum(density - improvement, 50.0))
        return improvement, by_mean[:, None] * rising + (by_deviation / (2.0 * deviation))[:, None] * widening


@dataclass(frozen=True)
class Below(Factor):
    """Probability that a value is below a limit.

    Args:
        process: Process of the value.
        layout: Features of the space.
        limit: Largest allowed value.
        noise: Variance that is added to that of the process.
        power: Power of the probability.
    """

    process: Process
    layout: FeatureLayout
    limit: float
    noise: float
    power: float = 1.0

    def logs(self, units: np.ndarray) -> np.ndarray:
        mean, variance = self.process.predict(self.layout.features(units))
        return self.power * log_density_and_probability((self.limit - mean) / np.sqrt(variance + self.noise))[1]

    def slopes(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance, rising, widening = self.process.slopes(self.layout.features(units))
        variance = variance + self.noise
        z = (self.limit - mean) / np.sqrt(variance)
        density, below = log_density_and_probability(z)
        by_z = self.power * np.exp(np.minimum(density - below, 50.0)) / np.sqrt(variance)
        falling = by_z[:, None] * (rising + (0.5 * z / np.sqrt(variance))[:, None] * widening)
        return self.power * below, -falling


@dataclass(frozen=True)
class Prior(Factor):
    """Priors of the genes, to a power.

    Args:
        genes: Genes by name.
        weight: The power, which falls as a run goes on.
    """

    genes: Mapping[str, Gene]
    weight: float

    def logs(self, units: np.ndarray) -> np.ndarray:
        return self.weight * log_prior(self.genes, units)

    def slopes(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.logs(units), self.weight * log_prior_gradient(self.genes, units)


@dataclass(frozen=True)
class Acquisition:
    """The product of factors.

    Args:
        factors: The factors.
        noise: Share of the variance of the scores that the process takes for noise.
        precise: Whether a process judges alone that predicts each good result well from the others.
    """

    factors: Sequence[Factor]
    noise: float
    precise: bool = False

    @property
    def smooth(self) -> bool:
        """Whether all factors have a gradient."""
        return all(factor.smooth for factor in self.factors)

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """Return the logarithm of the acquisition at unit coordinates, shape (points, genes). Shape (points,)."""
        return np.asarray(np.sum([factor.logs(units) for factor in self.factors], axis=0))

    def slopes(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what a call does, and its gradient, shape (points, genes), 0 for genes without an order."""
        logs, slopes = zip(*(factor.slopes(units) for factor in self.factors), strict=True)
        return np.asarray(np.sum(logs, axis=0)), np.asarray(np.sum(slopes, axis=0))


def success_factor(layout: FeatureLayout, units: np.ndarray, labels: np.ndarray, trials: int) -> Below | None:
    """Return the probability that a training does not fail, to a power; None if all labels are equal.

    Args:
        layout: Features of the space.
        units: Unit coordinates of trials, shape (labels, genes).
        labels: 1 for a trial that succeeded, -1 for one that failed, between for an unknown cause. Shape (labels,).
        trials: Number of all trials. A share of them may fail without a price.
    """
    if not len(labels) or labels.min() == labels.max():
        return None
    process = Process.fit(layout.features(units), -labels, layout.kinds)
    region = 1.0 - float(np.mean(process.leave_one_out_errors() ** 2)) / float(labels.var()) > PREDICTABLE
    bearable, price = IN_REGION if region else ANYWHERE
    beyond = float((labels < 0.0).sum()) - bearable * trials
    if region and process.noise > SHARP:
        process = process.with_noise(SHARP)
    return Below(process, layout, 0.0, process.noise + UNSURE, 1.0 + price * max(0.0, beyond))


def constraint_factor(layout: FeatureLayout, units: np.ndarray, excess: np.ndarray) -> Below | None:
    """Return the probability that a constraint is met; None if nothing is known of it.

    Args:
        layout: Features of the space.
        units: Unit coordinates of trials, shape (trials, genes).
        excess: Value of each trial beyond the bound, negative within it, NaN if it is not known. Shape (trials,).
    """
    is_finite = np.isfinite(excess)
    values = excess[is_finite]
    if len(values) < 2 or math.isclose(values.min(), values.max()):
        return None
    middle, (low, high) = float(np.median(values)), np.quantile(values, (0.16, 0.84))
    scale = max(float(high - low) / 2.0, 1e-3 * float(values.std()))
    scores = np.clip((values - middle) / scale, -LARGEST, LARGEST)
    mean, deviation = float(scores.mean()), float(scores.std())
    process = Process.fit(layout.features(units[is_finite]), (scores - mean) / deviation, layout.kinds, precise=True)
    return Below(process, layout, float(np.clip(-middle / scale, -LARGEST, LARGEST) - mean) / deviation, 0.0)
