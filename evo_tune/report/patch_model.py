"""What all full trainings of a run say about its patches: the gain by each one, and by each pair beyond that.

A linear model of the loss, with a normal prior for each coefficient (Bayesian linear regression): patches, pairs of
patches with a smaller prior, and the other genes with their squares and with each patch. Prior and noise are those
with the highest marginal likelihood on a grid. It is an estimate beside the final comparison, and decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from evo_tune.report.run_data import RunData

# Fewest trainings with a value.
MIN_TRIALS = 10

# Prior deviations: of a pair, of a gene's slope and curve, and of a slope with a patch, in those of a patch.
PAIR, SLOPE, SLOPE_WITH_PATCH = 0.3, 2.0, 1.0

# Prior deviations of a patch and noises that are tried, in deviations of the losses.
SCALES, NOISES = (0.1, 0.2, 0.4, 0.8), (0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class PatchModel:
    """Estimated gains.

    Args:
        genes: Genes of the patches, in order.
        gains: Gain by each patch alone on the diagonal, and by each pair beyond that, shape (patches, patches).
        errors: Standard deviations of the gains, same shape.
    """

    genes: tuple[str, ...]
    gains: np.ndarray
    errors: np.ndarray


def fit_patch_model(data: RunData) -> PatchModel | None:
    """Return the model of a run's full trainings; None in a run without patches, or with too few results."""
    genes = tuple(patch.gene for patch in data.run.patches)
    trials, losses = data.ranked_trials, np.minimum(data.ranked_losses, data.edge_loss)
    if not genes or len(trials) < MIN_TRIALS or not losses.std() > 0.0:
        return None
    on = np.array([[trial.genome[gene] is True for gene in genes] for trial in trials], dtype=np.float64)
    others = [index for name, index in data.gene_indices.items() if name not in genes]
    return fit_gains(genes, on, data.ranked_units[:, others], losses)


def fit_gains(genes: tuple[str, ...], on: np.ndarray, units: np.ndarray, losses: np.ndarray) -> PatchModel:
    """Return the model of some trainings.

    Args:
        genes: Genes of the patches.
        on: 1 for each patch that is on, shape (trainings, patches).
        units: Unit coordinates of the other genes, shape (trainings, genes).
        losses: Losses that are not all equal, shape (trainings,).
    """
    slopes, deviation, others = units - units.mean(axis=0), float(losses.std()), range(units.shape[1])
    pairs = list(combinations(range(len(genes)), 2))
    with_patch = [on[:, patch] * slopes[:, other] for patch, other in product(range(len(genes)), others)]
    columns = [on, *(PAIR * (on[:, [a]] * on[:, [b]]) for a, b in pairs), SLOPE * slopes, SLOPE * slopes**2]
    columns += [SLOPE_WITH_PATCH * column[:, None] for column in with_patch]
    features = np.concatenate([*columns, np.full((len(losses), 1), 10.0)], axis=1)
    squares, scores = features @ features.T, (losses - losses.mean()) / deviation
    scale, noise = max(product(SCALES, NOISES), key=lambda pair: _evidence(squares, scores, *pair))
    covariance = scale**2 * squares + noise**2 * np.eye(len(losses))
    weights = scale**2 * features.T @ np.linalg.solve(covariance, np.column_stack([scores, features]))
    means, explained = weights[:, 0], np.einsum("ij,ji->i", weights[:, 1:], scale**2 * np.eye(features.shape[1]))
    deviations = np.sqrt(np.maximum(scale**2 - explained, 0.0))
    gains, errors = np.diag(-means[: len(genes)]), np.diag(deviations[: len(genes)])
    for place, (a, b) in enumerate(pairs, len(genes)):
        gains[a, b] = gains[b, a] = -PAIR * means[place]
        errors[a, b] = errors[b, a] = PAIR * deviations[place]
    return PatchModel(genes, gains * deviation, errors * deviation)


def _evidence(squares: np.ndarray, scores: np.ndarray, scale: float, noise: float) -> float:
    """Return the logarithm of the marginal likelihood, without a constant."""
    factor = np.linalg.cholesky(scale**2 * squares + noise**2 * np.eye(len(scores)))
    solved = np.linalg.solve(factor, scores)
    return float(-0.5 * solved @ solved - np.log(np.diag(factor)).sum()) if np.isfinite(solved).all() else -math.inf
