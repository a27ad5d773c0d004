"""Scaling laws: published ones of the learning rate and the batch, and one of the loss that is fitted to trainings.

A published law is one row of `LAWS`, with its source and the range of its fit. The laws differ by a factor of two
within their ranges and by more outside, so they give a range to search, not an answer.

The loss of a larger training is predicted from smaller ones by the law L(N, D) = E + A / N^α + B / D^β of Hoffmann et
al. (arXiv:2203.15556). A run has few sizes and few lengths of text, which do not determine five numbers: nearly any
exponents fit four such cells. So published exponents are the prior. Every law on a grid is weighted by its fit in
relative errors, and bad trainings get less weight. The interval combines all laws, the scatter of one more training,
and a model error that grows with the text. (A bootstrap with free exponents gives a wide interval.) Observations of a
single size or a single length of text cannot determine a law and are refused.

This module does not know runs or genomes, and does not use torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evo_tune.errors import UsageError
from evo_tune.training.recipe.transferring import TrainingSize

# Tokens per step for which nanochat's learning rates are given.
NANOCHAT_BATCH = 2.0**19


@dataclass(frozen=True)
class LearningRateLaw:
    """A published law of learning rate and batch.

    Args:
        name: Display name.
        source: Paper or program.
        ranges: Smallest and largest value of the fit, by name of a field of `TrainingSize`.
        lr_or_factor: Function from a size to the peak learning rate, or to a factor (see `gives_factor_only`).
        batch: Function from a size to the tokens per step; None if the law has none.
        gives_factor_only: Whether `lr_or_factor` is a factor only, because the law's rates are of another kind.
    """

    name: str
    source: str
    ranges: dict[str, tuple[float, float]]
    lr_or_factor: Callable[[TrainingSize], float]
    batch: Callable[[TrainingSize], float] | None = None
    gives_factor_only: bool = False

    def describe_out_of_range(self, size: TrainingSize) -> str:
        """Return which fields of a size are outside the law's ranges, in words; '' if none is."""
        texts = []
        for name, (low, high) in self.ranges.items():
            value = getattr(size, name)
            if not low <= value <= high:
                texts.append(f"{name} {value:.2g} is {'below' if value < low else 'above'} {low:.2g} to {high:.2g}")
        return "; ".join(texts)


def _deepseek_compute(size: TrainingSize) -> float:
    """Return M · D: training tokens D times DeepSeek's FLOPs per token, M = 72 L d² + 12 L d T.

    L is the depth, d the width and T the context. M counts attention, but not embeddings.
    """
    per_token = 72.0 * size.depth * size.width**2 + 12.0 * size.depth * size.width * size.context
    return per_token * size.tokens


# Every known law, in the order of the table that `evo-tune scale` prints.
LAWS = (
    LearningRateLaw(
        "Step Law",
        "arXiv:2503.04715",
        {"without_embeddings": (5.9e7, 1.07e9), "tokens": (2e9, 1e11)},
        lr_or_factor=lambda size: 1.79 * size.without_embeddings**-0.713 * size.tokens**0.307,
        batch=lambda size: 0.58 * size.tokens**0.571,
    ),
    LearningRateLaw(
        "DeepSeek LLM",
        "arXiv:2401.02954",
        {"flops": (1e17, 2e19)},  # not quite `_deepseek_compute`: with the head, and half the attention
        lr_or_factor=lambda size: 0.3118 * _deepseek_compute(size) ** -0.125,
        batch=lambda size: 0.2920 * _deepseek_compute(size) ** 0.3271,
    ),
    LearningRateLaw(
        "GPT-3",
        "arXiv:2005.14165, table 2.1; as a formula in arXiv:2001.08361",
        {"without_embeddings": (1e6, 1e10)},
        lr_or_factor=lambda size: max(1e-5, 0.003239 - 0.0001395 * math.log(size.without_embeddings)),
    ),
    # The factor of embeddings and of the head; the rates of nanochat's matrices change with the batch only.
    LearningRateLaw(
        "nanochat",
        "karpathy/nanochat: rates of AdamW by 1/√width and √batch",
        {"width": (640.0, 1664.0), "batch": (2.0**17, 2.0**21)},
        lr_or_factor=lambda size: (size.width / 768.0) ** -0.5 * (size.batch / NANOCHAT_BATCH) ** 0.5,
        gives_factor_only=True,
    ),
)


def compute_optimal_tokens(parameters: float) -> float:
    """Return the compute-optimal tokens of a model, 20 per weight (Hoffmann et al., arXiv:2203.15556).

    Args:
        parameters: Number of weights, with embeddings.
    """
    return 20.0 * parameters


# Minimum number of observations for a law.
MIN_OBSERVATIONS = 6

# Minimum factor between two sizes, or two lengths of text, that counts as a difference.
MIN_FACTOR = 1.3

# Grid of both exponents.
EXPONENTS = np.geomspace(0.06, 1.4, 17)

# Prior of an exponent: median, and standard deviation of its logarithm. Published exponents are between 0.28 and 0.37:
# 0.34 and 0.28 (Hoffmann et al.), 0.35 and 0.37 for the same trainings (Besiroglu et al., arXiv:2404.10102). Much
# smaller models may differ, so half and twice the median are plausible.
EXPONENT, EXPONENT_SPREAD = 0.33, 0.5

# Grid of the floor, as a share of the lowest observed loss.
FLOORS = np.linspace(0.0, 0.96, 25)

# Prior of the relative scatter of trainings around a law, and the number of trainings that it counts as.
SCATTER, SCATTER_COUNT = 0.01, 2.0

# Relative error of a law per doubling of the text beyond the longest observed one. Measured (benchmarks/LOG.md):
# at an observed length of text, models with 8 times the weights were 1.7 % off on average. Beyond it, the loss falls
# unevenly, because a model learns in phases: between 12,500 and 400,000 tokens the doublings reduced it by 7, 13, 10, 8
# and 15 %.
MODEL_ERROR = 0.03

# Half of an interval, as a share of the loss, above which it is said what would narrow it.
WIDE = 0.05

# Number of laws drawn for an interval, and its coverage.
DRAWS, COVERAGE = 4_000, 0.8


class Observation(NamedTuple):
    """Result of a training.

    Args:
        parameters: Number of weights (> 0).
        tokens: Training text in tokens (> 0).
        loss: Loss at the end in nats (> 0).
    """

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = floor + A / N^alpha + B / D^beta.

    Args:
        floor: E, the loss of an unlimited model with unlimited text. Unit: nats.
        size: A.
        alpha: Exponent of the weights.
        text: B.
        beta: Exponent of the tokens.
        scatter: Root mean square of the relative residuals, with bad trainings weighted down.
    """

    floor: float
    size: float
    alpha: float
    text: float
    beta: float
    scatter: float

    def __call__(self, parameters: float, tokens: float) -> float:
        """Return the loss in nats of a model of a given size after a given number of tokens."""
        return float(self.floor + self.size * parameters**-self.alpha + self.text * tokens**-self.beta)


@dataclass(frozen=True)
class Prediction:
    """A predicted loss.

    Args:
        loss: Median over laws, in nats.
        low: Lower end of the interval, in nats.
        high: Upper end of the interval, in nats.
        share: Coverage of the interval, 0 to 1.
        law: The law that fits best.
    """

    loss: float
    low: float
    high: float
    share: float
    law: ScalingLaw

    @property
    def half(self) -> float:
        """Half of the interval, as a share of the loss."""
        return (self.high - self.low) / 2 / self.loss


def interval_advice(prediction: Prediction) -> str:
    """Return one line about what would narrow a prediction's interval; '' if it is within `WIDE`."""
    if prediction.half <= WIDE:
        return ""
    remedies = "a larger proxy or one on more tokens (more --hours), or probes between the sizes (--probe 3)"
    return f"the interval is ±{prediction.half:.0%}, wider than ±{WIDE:.0%}: {remedies} would narrow it"


def reason_not_fittable(observations: Sequence[Observation]) -> str:
    """Return the reason why no law can be fitted, and the missing observations; '' if a law can be fitted."""
    sizes = [observation.parameters for observation in observations]
    texts = [observation.tokens for observation in observations]
    if len(observations) < MIN_OBSERVATIONS:
        return f"{len(observations)} trainings: expected at least {MIN_OBSERVATIONS}, of two sizes and two budgets"
    if max(sizes) < MIN_FACTOR * min(sizes):
        return "models of one size: expected two at least, to see the effect of size"
    if max(texts) < MIN_FACTOR * min(texts):
        return "one length of text: expected two at least, to see the effect of text"
    # The middle of the range, not the median, so that a few probes next to a search count.
    middle_size, middle_text = (math.sqrt(min(values) * max(values)) for values in (sizes, texts))
    corners = {(size > middle_size, text > middle_text) for size, text in zip(sizes, texts, strict=True)}
    if len(corners) < 3:
        return "larger models that all saw more text, or all less: expected one size at two budgets at least"
    return ""


def predict_loss(observations: Sequence[Observation], parameters: float, tokens: float, *, seed: int = 0) -> Prediction:
    """Return the predicted loss of a training, with an interval.

    The interval is narrow if some training had as much text as the target, even with a small model.

    Args:
        observations: Trainings, each with a good recipe for its size.
        parameters: Number of weights of the target.
        tokens: Training text of the target in tokens.
        seed: Seed of the drawn laws.

    Raises:
        UsageError: The observations do not determine a law (see `reason_not_fittable`).
    """
    if reason := reason_not_fittable(observations):
        raise UsageError(f"the loss at another size is not identifiable: {reason}")
    laws = _Laws(np.array(observations))
    losses = laws.draw_losses(parameters, tokens, np.random.default_rng(seed))
    low, middle, high = np.quantile(losses, [(1 - COVERAGE) / 2, 0.5, (1 + COVERAGE) / 2])
    return Prediction(float(middle), float(low), float(high), COVERAGE, laws.best)


class _Laws:
    """Laws on a grid of exponents and floors, each with its least-squares coefficients.

    Args:
        columns: Weights, tokens and loss of trainings. Shape (trainings, 3).

    Attributes:
        centre: Reference weights and tokens of A and B, chosen so that both are of a similar size.
        longest: Longest observed text, in tokens.
        shapes: α, β and E of each law. Shape (laws, 3).
        parts: A and B at the centre, in nats. Shape (laws, 2).
        covariance: Covariance of `parts` for a scatter of 1. Shape (laws, 2, 2).
        residual: Root mean square of the relative residuals. Shape (laws,).
        scatters: Relative scatter of one more training, with its prior. Shape (laws,).
        merit: Log weight of each law. Shape (laws,).
        freedom: Degrees of freedom of the scatter.
    """

    def __init__(self, columns: NDArray[np.float64]) -> None:
        parameters, tokens, losses = columns.T
        self.longest = float(tokens.max())
        self.centre = float(np.exp(np.log(parameters).mean())), float(np.exp(np.log(tokens).mean()))
        grids = np.meshgrid(EXPONENTS, EXPONENTS, FLOORS * losses.min(), indexing="ij")
        self.shapes = np.stack([grid.ravel() for grid in grids], axis=1)
        design = _powers(self.shapes, parameters / self.centre[0], tokens / self.centre[1]) / losses[:, None]
        targets = 1.0 - self.shapes[:, 2:] / losses
        log_prior = -(np.square(np.log(self.shapes[:, :2] / EXPONENT)).sum(axis=1)) / (2 * EXPONENT_SPREAD**2)
        weights = np.ones(len(losses))
        for _ in range(4):  # bad trainings get less weight
            self.parts, self.covariance, residuals = _solve_least_squares(design, targets, weights)
            self.freedom = SCATTER_COUNT + max(0.0, float(weights.sum()) - 2.0)
            squares = (weights * residuals**2).sum(axis=1) + SCATTER_COUNT * SCATTER**2
            self.merit = log_prior - (self.freedom + 2.0) / 2 * np.log(squares)
            distance = np.abs(residuals[int(np.argmax(self.merit))])
            knee = 2.0 * max(SCATTER / 2, 1.5 * float(np.median(distance)))
            weights = np.minimum(1.0, knee / np.maximum(distance, 1e-12)) ** 2
        self.residual = np.sqrt((weights * residuals**2).sum(axis=1) / weights.sum())
        self.scatters = np.sqrt(squares / self.freedom)

    @property
    def best(self) -> ScalingLaw:
        """The law with the highest weight."""
        number = int(np.argmax(self.merit))
        alpha, beta, floor = (float(value) for value in self.shapes[number])
        size, text = (float(value) for value in self.parts[number])
        (n, d), scatter = self.centre, float(self.residual[number])
        return ScalingLaw(floor, size * n**alpha, alpha, text * d**beta, beta, scatter)

    def draw_losses(self, parameters: float, tokens: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return losses of a training under laws drawn by weight, each with a drawn scatter. Shape (DRAWS,)."""
        shares = np.exp(self.merit - self.merit.max())
        chosen = rng.choice(len(shares), DRAWS, p=shares / shares.sum())
        # Student's t, because the scatter itself is estimated.
        scatters = self.scatters[chosen] * np.sqrt(self.freedom / rng.chisquare(self.freedom, DRAWS))
        roots = np.linalg.cholesky(self.covariance[chosen])
        offsets = (roots @ rng.normal(size=(DRAWS, 2, 1)))[..., 0] * scatters[:, None]
        parts = np.maximum(0.0, self.parts[chosen] + offsets)
        relative_size, relative_text = np.array([parameters / self.centre[0]]), np.array([tokens / self.centre[1]])
        powers = _powers(self.shapes[chosen], relative_size, relative_text)[:, 0]
        losses: NDArray[np.float64] = self.shapes[chosen, 2] + (parts * powers).sum(axis=1)
        error = MODEL_ERROR * max(0.0, math.log2(tokens / self.longest))
        factors: NDArray[np.float64] = np.exp(np.hypot(scatters, error) * rng.normal(size=DRAWS))
        return losses * factors


def _powers(
    shapes: NDArray[np.float64], parameters: NDArray[np.float64], tokens: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return N^-α and D^-β of each law at each size. Shape (laws, sizes, 2)."""
    return np.stack([parameters ** -shapes[:, :1], tokens ** -shapes[:, 1:2]], axis=-1)


def _solve_least_squares(
    design: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Solve weighted least squares for two coefficients ≥ 0; return them, their covariance, and the residuals.

    Args:
        design: Regressors. Shape (problems, rows, 2).
        targets: Targets. Shape (problems, rows).
        weights: Weights of the squares. Shape (rows,).
    """
    weighed = design * weights[:, None]
    square = design.transpose(0, 2, 1) @ weighed + 1e-9 * np.eye(2)
    aims = (weighed * targets[..., None]).sum(axis=1)
    free = np.linalg.solve(square, aims[..., None])[..., 0]
    alone = np.maximum(0.0, aims / np.diagonal(square, axis1=1, axis2=2))
    candidates = np.stack([free, alone * [1, 0], alone * [0, 1]], axis=1)
    residuals = targets[:, None] - np.einsum("prk,pck->pcr", design, candidates)
    squares = (weights * residuals**2).sum(axis=2) + np.where((candidates < 0).any(axis=2), np.inf, 0.0)
    rows, chosen = np.arange(len(squares)), squares.argmin(axis=1)
    return candidates[rows, chosen], np.linalg.inv(square), residuals[rows, chosen]
