"""The loss that a larger training will reach, from those of smaller ones: L(N, D) = E + A / N^α + B / D^β.

The law of Hoffmann et al. (arXiv:2203.15556), fitted by Huber's loss of relative errors over all exponents. The
interval is a bootstrap over the observations, with the scatter of the residuals added, since one more training
scatters too. What a sample cannot tell is said and not guessed: with one size or one length of text there is no law to
be seen. Knows nothing of runs or genomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import UsageError

__all__ = ["Observation", "Prediction", "ScalingLaw", "fit", "missing", "predict"]

LEAST = 6
"""Fewest observations of a law with five parameters."""

SPREAD = 1.3
"""Two sizes, or two lengths of text, are told from each other if one is so many times the other."""

EXPONENTS = np.linspace(0.05, 1.2, 12)
"""Where both exponents are looked for: published ones lie between 0.07 and 0.6, those of tiny models higher."""


@dataclass(frozen=True)
class Observation:
    """A training that was made.

    Args:
        parameters: Weights of its model, above 0.
        tokens: Of text that it saw, above 0.
        loss: What it reached, nats, above 0.
    """

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = floor + A / N^alpha + B / D^beta.

    Args:
        floor: Loss that no size and no text goes below, nats.
        size: A.
        alpha: Exponent of the weights.
        text: B.
        beta: Exponent of the tokens.
        scatter: Root of the mean square of log(observed / law).
    """

    floor: float
    size: float
    alpha: float
    text: float
    beta: float
    scatter: float

    def __call__(self, parameters: float, tokens: float) -> float:
        """Return the loss of a model of so many weights that sees so many tokens, nats."""
        return float(self.floor + self.size * parameters**-self.alpha + self.text * tokens**-self.beta)


@dataclass(frozen=True)
class Prediction:
    """A predicted loss.

    Args:
        loss: Median over bootstraps, nats.
        low: Lower end of the interval.
        high: Its upper end.
        share: Of the cases in which the loss is meant to lie within, 0 to 1.
        law: Fitted to all observations.
    """

    loss: float
    low: float
    high: float
    share: float
    law: ScalingLaw


def missing(observations: Sequence[Observation]) -> str:
    """Return why no law can be fitted, and what would make it possible; empty if one can."""
    sizes = [one.parameters for one in observations]
    texts = [one.tokens for one in observations]
    if len(observations) < LEAST:
        return f"{len(observations)} trainings: expected at least {LEAST}, of two sizes and two budgets"
    if max(sizes) < SPREAD * min(sizes):
        return "models of one size: expected two at least, so that what size brings can be seen"
    if max(texts) < SPREAD * min(texts):
        return "one length of text: expected two at least, so that what text brings can be seen"
    corners = {(one.parameters > np.median(sizes), one.tokens > np.median(texts)) for one in observations}
    if len(corners) < 3:
        return "larger models that all saw more text, or all less: expected one size at two budgets at least"
    return ""


def fit(observations: Sequence[Observation]) -> ScalingLaw:
    """Return the law that fits best.

    For each pair of exponents on a grid the rest is a linear problem without negative coefficients, reweighted as
    Huber's loss asks, so that one bad training does not bend the law.

    Raises:
        UsageError: There is no law to be seen (see `missing`).
    """
    if reason := missing(observations):
        raise UsageError(f"the loss at another size is not identifiable: {reason}")
    return _fit(_columns(observations))


def predict(
    observations: Sequence[Observation],
    parameters: float,
    tokens: float,
    *,
    share: float = 0.8,
    bootstraps: int = 100,
    seed: int = 0,
) -> Prediction:
    """Return the loss to expect of a training, with an interval.

    Args:
        observations: Trainings that were made, each with a recipe that suits its size.
        parameters: Weights of the model.
        tokens: Of text.
        share: Of cases that are to lie within the interval.
        bootstraps: Samples, drawn with replacement.
        seed: Of the samples.

    Raises:
        UsageError: See `fit`.
    """
    law = fit(observations)
    rng, columns = np.random.default_rng(seed), _columns(observations)
    found: list[float] = []
    while len(found) < bootstraps:
        rows = rng.integers(0, len(observations), len(observations))
        drawn = [observations[row] for row in rows]
        if missing(drawn):
            continue
        noise = rng.normal(0.0, law.scatter)
        found.append(_fit(columns[rows])(parameters, tokens) * float(np.exp(noise)))
    low, middle, high = np.quantile(found, [(1 - share) / 2, 0.5, (1 + share) / 2])
    return Prediction(float(middle), float(low), float(high), share, law)


def _columns(observations: Sequence[Observation]) -> NDArray[np.float64]:
    return np.array([(one.parameters, one.tokens, one.loss) for one in observations])


def _fit(columns: NDArray[np.float64]) -> ScalingLaw:
    """Try all pairs of exponents of a grid, then those of a finer one around the best."""
    alphas, betas = EXPONENTS, EXPONENTS
    for _ in range(2):
        law = _best_of(columns, *(grid.ravel() for grid in np.meshgrid(alphas, betas)))
        fine = (EXPONENTS[1] - EXPONENTS[0]) / 4 * np.arange(-3, 4)
        alphas, betas = (np.clip(found + fine, 0.02, None) for found in (law.alpha, law.beta))
    return law


def _best_of(columns: NDArray[np.float64], alphas: NDArray[np.float64], betas: NDArray[np.float64]) -> ScalingLaw:
    """Return the best law with one of these pairs of exponents, (pairs,) each."""
    parameters, tokens, losses = columns.T
    # In units of the smallest, so that the columns are alike in size; by the loss, so that relative errors count.
    sizes = (parameters / parameters.min()) ** -alphas[:, None]
    texts = (tokens / tokens.min()) ** -betas[:, None]
    design = np.stack([np.ones_like(sizes), sizes, texts], axis=-1) / losses[:, None]
    weights = np.ones_like(sizes)
    for _ in range(3):
        found = _nonnegative(design * weights[..., None], weights)
        residuals = np.abs(1.0 - (design @ found[..., None])[..., 0])
        knee = np.maximum(1e-6, 1.5 * np.median(residuals, axis=1, keepdims=True))
        weights = np.sqrt(np.minimum(1.0, knee / np.maximum(residuals, 1e-12)))
    errors = np.where(residuals < knee, residuals**2, knee * (2 * residuals - knee)).sum(axis=1)
    best = int(np.argmin(errors))
    (floor, size, text), alpha, beta = found[best], float(alphas[best]), float(betas[best])
    freedom = len(losses) / max(1, len(losses) - 5)
    return ScalingLaw(
        float(floor),
        float(size * parameters.min() ** alpha),
        alpha,
        float(text * tokens.min() ** beta),
        beta,
        float(np.sqrt(freedom * np.mean(residuals[best] ** 2))),
    )


def _nonnegative(design: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return least-squares solutions without a negative coefficient: the best over all subsets of the columns.

    Args:
        design: (problems, rows, 3).
        wanted: (problems, rows).
    """
    least = np.square(wanted).sum(axis=1)
    best = np.zeros((len(design), 3))
    for subset in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        part = design[..., subset]
        across = part.transpose(0, 2, 1)
        # The ridge only keeps columns that are one and the same apart.
        square = across @ part + 1e-12 * np.eye(len(subset))
        solution = np.linalg.solve(square, across @ wanted[..., None])[..., 0]
        errors = np.square((part @ solution[..., None])[..., 0] - wanted).sum(axis=1)
        better = (solution >= 0).all(axis=1) & (errors < least * (1 - 1e-9))
        least = np.where(better, errors, least)
        whole = np.zeros((len(design), 3))
        whole[:, subset] = solution
        best = np.where(better[:, None], whole, best)
    return best
