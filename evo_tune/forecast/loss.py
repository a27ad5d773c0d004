"""The loss that a larger training will reach, from those of smaller ones: L(N, D) = E + A / N^α + B / D^β.

The law of Hoffmann et al. (arXiv:2203.15556). A run has few sizes and few lengths of text, which do not tell five
numbers: to four such cells nearly any exponents fit. So what is known of exponents elsewhere counts where the trainings
are silent, and every law is heard by how well it fits, in relative errors, a bad training weighing little. The interval
is theirs together, with the scatter of one more training, and with a doubt that grows with the text. (That of a
bootstrap, in which exponents are free, is wide because they are free.) What a sample cannot tell is said and not
guessed: with one size or one length of text there is no law to be seen. Knows nothing of runs or genomes.
"""

from __future__ import annotations

import math
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

EXPONENTS = np.geomspace(0.06, 1.4, 17)
"""Where both exponents are looked for."""

USUAL, ASIDE = 0.33, 0.5
"""What an exponent is expected to be, and the deviation of its logarithm.

Published ones lie between 0.28 and 0.37: 0.34 and 0.28 (Hoffmann et al.), 0.35 and 0.37 of the same trainings
(Besiroglu et al., arXiv:2404.10102). Models of a laptop's size are another matter: half and twice as much are believed.
"""

FLOORS = np.linspace(0.0, 0.96, 25)
"""Where the floor is looked for, by the lowest loss that was seen."""

SCATTER, WORTH = 0.01, 2.0
"""By how much trainings are expected to lie beside a law, relative, and how many trainings this counts for."""

DOUBT = 0.03
"""By how much a law is expected to be wrong for each doubling of the text beyond the longest that was seen, relative.

Measured (benchmarks/transfer.py): with as much text as was seen, models of 8 times the weights lay 1.7% beside what was
told, in the mean. But a loss does not go on with the text as it began, since what a model learns, it learns in phases:
between 12,500 and 400,000 tokens a doubling took 7, 13, 10, 8 and 15% of it.
"""

DRAWS = 4_000
"""Of laws, for the interval."""


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
        scatter: Root of the mean square of what trainings lie beside it, relative; bad ones weigh little.
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
        loss: Median over laws, nats.
        low: Lower end of the interval.
        high: Its upper end.
        share: Of the cases in which the loss is meant to lie within, 0 to 1.
        law: The one that fits best.
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
    # Halfway between the ends, and not the median: a few probes beside a search are seen too.
    size, text = (math.sqrt(min(values) * max(values)) for values in (sizes, texts))
    corners = {(one.parameters > size, one.tokens > text) for one in observations}
    if len(corners) < 3:
        return "larger models that all saw more text, or all less: expected one size at two budgets at least"
    return ""


def fit(observations: Sequence[Observation]) -> ScalingLaw:
    """Return the law that fits best, what is known of exponents counted in.

    Raises:
        UsageError: There is no law to be seen (see `missing`).
    """
    return _laws(observations).best


def predict(
    observations: Sequence[Observation], parameters: float, tokens: float, *, share: float = 0.8, seed: int = 0
) -> Prediction:
    """Return the loss to expect of a training, with an interval.

    It is the narrower the nearer the target's text is to the longest that was seen, if only by small models.

    Args:
        observations: Trainings that were made, each with a recipe that suits its size.
        parameters: Weights of the model.
        tokens: Of text.
        share: Of cases that are to lie within the interval.
        seed: Of the laws that are drawn.

    Raises:
        UsageError: See `fit`.
    """
    laws = _laws(observations)
    losses = laws.drawn(parameters, tokens, np.random.default_rng(seed))
    low, middle, high = np.quantile(losses, [(1 - share) / 2, 0.5, (1 + share) / 2])
    return Prediction(float(middle), float(low), float(high), share, laws.best)


def _laws(observations: Sequence[Observation]) -> _Laws:
    if reason := missing(observations):
        raise UsageError(f"the loss at another size is not identifiable: {reason}")
    return _Laws.of(np.array([(one.parameters, one.tokens, one.loss) for one in observations]))


@dataclass(frozen=True)
class _Laws:
    """Laws of many exponents and floors, each with what it says of the rest.

    Args:
        centre: Weights and tokens at which A and B are told, so that they are alike in size.
        longest: Text that was seen, tokens.
        shapes: (laws, 3): α, β and E.
        parts: (laws, 2): A and B at the centre, nats.
        unsure: (laws, 2, 2): their covariance, for a scatter of one.
        seen: (laws,): root of the mean square of what trainings lie beside them, relative.
        scatters: (laws,): that of one more training, what is expected counted in.
        merit: (laws,): log of how much each counts.
        freedom: Of the scatter: trainings that are not used up.
    """

    centre: tuple[float, float]
    longest: float
    shapes: NDArray[np.float64]
    parts: NDArray[np.float64]
    unsure: NDArray[np.float64]
    seen: NDArray[np.float64]
    scatters: NDArray[np.float64]
    merit: NDArray[np.float64]
    freedom: float

    @classmethod
    def of(cls, columns: NDArray[np.float64]) -> _Laws:
        """Fit them to (weights, tokens, loss) of trainings, (trainings, 3)."""
        parameters, tokens, losses = columns.T
        centre = float(np.exp(np.log(parameters).mean())), float(np.exp(np.log(tokens).mean()))
        grids = np.meshgrid(EXPONENTS, EXPONENTS, FLOORS * losses.min(), indexing="ij")
        shapes = np.stack([grid.ravel() for grid in grids], axis=1)
        design = _powers(shapes, parameters / centre[0], tokens / centre[1]) / losses[:, None]
        wanted = 1.0 - shapes[:, 2:] / losses
        beliefs = -(np.square(np.log(shapes[:, :2] / USUAL)).sum(axis=1)) / (2 * ASIDE**2)
        weights = np.ones(len(losses))
        for _ in range(4):
            parts, unsure, residuals = _solved(design, wanted, weights)
            freedom = WORTH + max(0.0, float(weights.sum()) - 2.0)
            squares = (weights * residuals**2).sum(axis=1) + WORTH * SCATTER**2
            merit = beliefs - (freedom + 2.0) / 2 * np.log(squares)
            away = np.abs(residuals[int(np.argmax(merit))])
            knee = 2.0 * max(SCATTER / 2, 1.5 * float(np.median(away)))
            weights = np.minimum(1.0, knee / np.maximum(away, 1e-12)) ** 2
        seen = np.sqrt((weights * residuals**2).sum(axis=1) / weights.sum())
        return cls(centre, float(tokens.max()), shapes, parts, unsure, seen, np.sqrt(squares / freedom), merit, freedom)

    @property
    def best(self) -> ScalingLaw:
        """The law of the highest merit."""
        number = int(np.argmax(self.merit))
        alpha, beta, floor = (float(value) for value in self.shapes[number])
        size, text = (float(value) for value in self.parts[number])
        (n, d), scatter = self.centre, float(self.seen[number])
        return ScalingLaw(floor, size * n**alpha, alpha, text * d**beta, beta, scatter)

    def drawn(self, parameters: float, tokens: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return losses of a training under laws drawn by their merit, (DRAWS,), each with a scatter of its own."""
        shares = np.exp(self.merit - self.merit.max())
        chosen = rng.choice(len(shares), DRAWS, p=shares / shares.sum())
        # As often larger as its estimate is unsure: Student's t.
        scatters = self.scatters[chosen] * np.sqrt(self.freedom / rng.chisquare(self.freedom, DRAWS))
        roots = np.linalg.cholesky(self.unsure[chosen])
        away = (roots @ rng.normal(size=(DRAWS, 2, 1)))[..., 0] * scatters[:, None]
        parts = np.maximum(0.0, self.parts[chosen] + away)
        far = np.array([parameters / self.centre[0]]), np.array([tokens / self.centre[1]])
        powers = _powers(self.shapes[chosen], *far)[:, 0]
        losses: NDArray[np.float64] = self.shapes[chosen, 2] + (parts * powers).sum(axis=1)
        doubt = DOUBT * max(0.0, math.log2(tokens / self.longest))
        return losses * np.exp(np.hypot(scatters, doubt) * rng.normal(size=DRAWS))


def _powers(
    shapes: NDArray[np.float64], parameters: NDArray[np.float64], tokens: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return N^-α and D^-β of each law at each size, (laws, sizes, 2)."""
    return np.stack([parameters ** -shapes[:, :1], tokens ** -shapes[:, 1:2]], axis=-1)


def _solved(
    design: NDArray[np.float64], wanted: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return least-squares solutions of two coefficients without a negative one, their covariance, and the residuals.

    Args:
        design: (problems, rows, 2).
        wanted: (problems, rows).
        weights: (rows,), of squares.
    """
    weighed = design * weights[:, None]
    square = design.transpose(0, 2, 1) @ weighed + 1e-9 * np.eye(2)
    aims = (weighed * wanted[..., None]).sum(axis=1)
    both = np.linalg.solve(square, aims[..., None])[..., 0]
    alone = np.maximum(0.0, aims / np.diagonal(square, axis1=1, axis2=2))
    candidates = np.stack([both, alone * [1, 0], alone * [0, 1]], axis=1)
    residuals = wanted[:, None] - np.einsum("prk,pck->pcr", design, candidates)
    squares = (weights * residuals**2).sum(axis=2) + np.where((candidates < 0).any(axis=2), np.inf, 0.0)
    rows, chosen = np.arange(len(squares)), squares.argmin(axis=1)
    return candidates[rows, chosen], np.linalg.inv(square), residuals[rows, chosen]
