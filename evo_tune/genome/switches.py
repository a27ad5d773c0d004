"""What all full trainings say about on/off genes, called switches: the gain by each one, and by each pair beyond that.

A linear model of the loss with a normal prior for each coefficient (Bayesian linear regression). The coefficients are
in blocks: switches, pairs of switches, slopes and squares of the other genes, and slopes with each switch. Each block
has a prior deviation of its own. These and the noise are the most probable ones after the losses (type II maximum
likelihood with a prior; MacKay 1992), found by their gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome

# A switch: off by default, and on in about a quarter of the first genomes, since a few of many may fail or harm.
SWITCH = Choice((False, True), default=False, prior=False, spread=0.25)

# Most probable deviations before any result, in deviations of the losses: of the coefficients of each block (switches,
# pairs, slopes, squares, slopes with a switch; units are in [0, 1]), and of the noise.
DEVIATIONS = (1.0, 0.4, 2.0, 6.0, 2.0, 0.3)

# Standard deviation of the logarithm of each, and by how much it may differ.
SPREADS, REACH = (1.0, 1.0, 1.0, 1.0, 1.0, 1.5), 4.0

# Prior deviation of the mean loss, in deviations of the losses.
CONSTANT = 10.0

# Losses farther above the upper quartile than this times its distance to the lowest loss count as that far.
OUTLIER = 3.0


@dataclass(frozen=True)
class SwitchModel:
    """The fitted model.

    Args:
        space: Space of the genomes.
        switches: Its on/off genes whose gains are asked for.
        center: Mean unit coordinates of the other genes, shape (genes,).
        scales: Prior deviation of each block's coefficients. Unit: `deviation`.
        features: Features of the trainings, shape (trainings, features).
        inverse: Inverse of the covariance of the losses, shape (trainings, trainings). Unit: 1 / `deviation`².
        scores: Losses less their mean, shape (trainings,). Unit: `deviation`.
        noise: Standard deviation of a loss over seeds. Unit: the losses'.
        deviation: Standard deviation of the losses. Unit: the losses'.
    """

    space: SearchSpace
    switches: Sequence[str]
    center: np.ndarray
    scales: np.ndarray
    features: np.ndarray
    inverse: np.ndarray
    scores: np.ndarray
    noise: float
    deviation: float

    def encode(self, genomes: Sequence[Genome]) -> np.ndarray:
        """Return the features of some genomes, which need not be valid, shape (genomes, features)."""
        on, units = _split(self.space, self.switches, genomes)
        blocks = [scale * block for scale, block in zip(self.scales, _blocks(on, units - self.center), strict=True)]
        return np.concatenate([*blocks, np.full((len(on), 1), CONSTANT)], axis=1)

    def contrasts(self, genome: Genome, names: Sequence[str]) -> np.ndarray:
        """Return the features of a genome without each switch, less those with it, shape (names, features)."""
        off = self.encode([{**genome, name: False} for name in names])
        return np.asarray(off - self.encode([{**genome, name: True} for name in names]))

    def mean(self, contrasts: np.ndarray) -> np.ndarray:
        """Return the expected sums of coefficients, times contrasts of shape (contrasts, features): (contrasts,)."""
        return np.asarray(self.deviation * (contrasts @ self.features.T) @ (self.inverse @ self.scores))

    def covariance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the posterior covariances of such sums, shape (first, second)."""
        explained = (first @ self.features.T) @ self.inverse @ (self.features @ second.T)
        return np.asarray(self.deviation**2 * (first @ second.T - explained))

    def variance(self, contrasts: np.ndarray) -> np.ndarray:
        """Return the posterior variances of such sums, shape (contrasts,)."""
        projected = contrasts @ self.features.T
        explained = np.einsum("ij,ij->i", projected @ self.inverse, projected)
        return np.asarray(self.deviation**2 * np.maximum((contrasts**2).sum(axis=1) - explained, 0.0))

    def expected_improvements(self, genomes: Sequence[Genome], best: float) -> np.ndarray:
        """Return by how much each genome is expected to improve on a loss (Jones et al. 1998), shape (genomes,)."""
        from scipy.special import ndtr  # SciPy takes a tenth of a second, needed only where a model is fitted

        features = self.encode(genomes)
        deviations = np.maximum(np.sqrt(self.variance(features)), 1e-12 * self.deviation)
        scores = (best - self.mean(features)) / deviations
        return np.asarray(deviations * (scores * ndtr(scores) + np.exp(-0.5 * scores**2) / math.sqrt(2.0 * math.pi)))

    def pair_gains(self) -> tuple[np.ndarray, np.ndarray]:
        """Return gains and their standard deviations.

        Returns:
            The gain by each switch alone, with the other genes at their mean, on the diagonal, and by each pair beyond
            that, shape (switches, switches); its standard deviations, same shape.
        """
        count = len(self.switches)
        rows, columns = np.triu_indices(count, 1)
        contrasts = np.eye(count + len(rows), self.features.shape[1])
        contrasts[:count] *= self.scales[0]
        contrasts[count:] *= self.scales[1]
        values, deviations = -self.mean(contrasts), np.sqrt(self.variance(contrasts))
        gains, errors = np.diag(values[:count]), np.diag(deviations[:count])
        gains[rows, columns] = gains[columns, rows] = values[count:]
        errors[rows, columns] = errors[columns, rows] = deviations[count:]
        return gains, errors


def fit_switches(
    space: SearchSpace, switches: Sequence[str], genomes: Sequence[Genome], losses: np.ndarray
) -> SwitchModel | None:
    """Return the model of some trainings; None if their losses are equal.

    Args:
        space: Space of the genomes.
        switches: Its on/off genes whose gains are asked for.
        genomes: A genome for each training.
        losses: Finite losses, shape (trainings,).
    """
    from scipy.optimize import minimize  # takes a tenth of a second, needed only where a model is fitted

    lowest, quartile = np.quantile(losses, [0.0, 0.75])
    losses = np.minimum(losses, quartile + OUTLIER * (quartile - lowest))
    on, units = _split(space, switches, genomes)
    center, deviation, count = units.mean(axis=0), float(losses.std()), len(losses)
    if not deviation > 0.0:
        return None
    scores = (losses - losses.mean()) / deviation
    grams = [block @ block.T for block in _blocks(on, units - center)] + [np.eye(count)]
    middle, spreads = np.log(DEVIATIONS), np.array(SPREADS)

    def covariance(logs: np.ndarray) -> np.ndarray:
        parts = (np.exp(2.0 * log) * gram for log, gram in zip(logs, grams, strict=True))
        return sum(parts, np.full((count, count), CONSTANT**2))

    def improbability(logs: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative logarithm of the posterior density, without a constant, and its gradient."""
        matrix = covariance(logs)
        inverse, (_, log_determinant) = np.linalg.inv(matrix), np.linalg.slogdet(matrix)
        solved = inverse @ scores
        slopes = [
            np.exp(2.0 * log) * ((inverse * gram).sum() - solved @ gram @ solved)
            for log, gram in zip(logs, grams, strict=True)
        ]
        distance = (logs - middle) / spreads
        value = 0.5 * (scores @ solved + log_determinant + distance @ distance)
        return float(value), np.array(slopes) + distance / spreads

    bounds = list(zip(middle - REACH, middle + REACH, strict=True))
    logs = minimize(improbability, middle, jac=True, method="L-BFGS-B", bounds=bounds).x
    *scales, noise = np.exp(logs)
    inverse = np.linalg.inv(covariance(logs))
    model = SwitchModel(
        space, switches, center, np.array(scales), np.empty(0), inverse, scores, float(noise) * deviation, deviation
    )
    return replace(model, features=model.encode(genomes))


def _split(space: SearchSpace, switches: Sequence[str], genomes: Sequence[Genome]) -> tuple[np.ndarray, np.ndarray]:
    """Return which switches are on (1 or 0), and the unit coordinates of the other genes; a row for each genome."""
    others = [place for place, name in enumerate(space.genes) if name not in switches]
    on = np.array([[genome[name] is True for name in switches] for genome in genomes], dtype=np.float64)
    return on, np.array([space.encode(genome) for genome in genomes])[:, others]


def _blocks(on: np.ndarray, slopes: np.ndarray) -> list[np.ndarray]:
    """Return the features of genomes by block: switches, pairs, slopes, squares, and slopes with each switch."""
    rows, columns = np.triu_indices(on.shape[1], 1)
    with_switch = (on[:, :, None] * slopes[:, None, :]).reshape(len(on), -1)
    return [on, on[:, rows] * on[:, columns], slopes, slopes**2, with_switch]
