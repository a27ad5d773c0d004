"""What the models believe: a forest and a Gaussian process as one prediction, and what is out as they expect it to be.

This file knows points and scores only, nothing of trials, genes or strategies.

Sources: Ginsbourger, Le Riche & Carraro, Kriging is well-suited to parallelize optimization (2010) for the believer;
Jones, Schonlau & Welch, Efficient global optimization (Journal of Global Optimization 13, 1998) for the expected
improvement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evo_tune.genome.forest import Forest
from evo_tune.strategies.surrogate.process import Process

__all__ = ["Screen", "expected_improvement"]

BAG = 0.7
"""Share of the points that each tree learns from: trees that saw other trials disagree where trials are few."""

PENDING = 32
"""Points that are out and believed in, at most: those of which the most is expected."""


@dataclass(frozen=True)
class Screen:
    """The models of one birth.

    Args:
        forest: None where it is not asked.
        process: None likewise.
    """

    forest: Forest | None
    process: Process | None

    @classmethod
    def fit(
        cls,
        points: np.ndarray,
        scores: np.ndarray,
        out: np.ndarray,
        sizes: np.ndarray,
        trees: int,
        models: Literal["both", "forest", "process"],
        rng: np.random.Generator,
        process: Process | None = None,
    ) -> Screen:
        """Return models of the points, which believe that what is out gives what they expect of it.

        So what is out changes no mean of the process and makes it surer of its surroundings: slots that ask together
        do not crowd in one place, and the place does not seem any worse for being tried.

        Args:
            points: Features of the points, shape (points, features).
            scores: Theirs, shape (points,).
            out: Features of what is out, shape (out, features).
            sizes: Number of values of each feature without order, 0 for one with an order. Shape (features,).
            trees: Trees of the forest.
            models: Who predicts.
            rng: The only source of randomness.
            process: One that was made already, of other points; None: it is made of these.
        """
        if models == "forest":
            process = None
        elif process is None:
            process = Process.fit(points, scores, sizes > 0)
        if not len(out):
            return cls(None if models == "process" else _forest(points, scores, sizes, trees, rng), process)
        model = process if process is not None else _forest(points, scores, sizes, trees, rng)
        expected, _ = model.predict(out)
        kept = np.argsort(-expected, kind="stable")[:PENDING]
        out, expected = out[kept], expected[kept]
        if process is not None:
            process = process.believing(out)
        if models == "process":
            return cls(None, process)
        points, scores = np.concatenate([points, out]), np.append(scores, expected)
        return cls(_forest(points, scores, sizes, trees, rng), process)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of the score of each point, both of shape (points,).

        Two models are a mixture of equal parts, so its variance holds their disagreement as well.
        """
        predictions = [model.predict(points) for model in (self.forest, self.process) if model is not None]
        means, variances = (np.stack(parts) for parts in zip(*predictions, strict=True))
        return means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))


def _forest(points: np.ndarray, scores: np.ndarray, sizes: np.ndarray, trees: int, rng: np.random.Generator) -> Forest:
    samples = np.argsort(rng.random((trees, len(points))), axis=1)[:, : math.ceil(BAG * len(points))]
    return Forest.fit(points, scores, sizes, samples, rng)


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Return the logarithm of the expected improvement over the best score under normal errors, shape (mean,).

    Jones, Schonlau & Welch (1998). The logarithm, because far below the best the improvement itself is lost
    in rounding; there it is close to density / z² (its asymptotic series).
    """
    z = (mean - best) / deviation
    density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])
    near = np.log(np.maximum(np.exp(density) + z * below, 1e-300))
    return np.asarray(np.log(deviation) + np.where(z > -5.0, near, density - 2.0 * np.log(np.maximum(-z, 5.0))))
