"""Published scaling laws of the learning rate and the batch, side by side.

Each law is one row of `LAWS`, with its source and the range of its fit. The laws differ by a factor of two within their
ranges and by more outside, so they give a range to search, not an answer. The module does not use torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evo_tune.options.bounds import check_number


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size of a training; every field is above 0.

    Args:
        width: Width of the model.
        depth: Number of blocks.
        context: Window length in tokens.
        parameters: Number of weights without embeddings.
        tokens: Training text in tokens.
        flops: FLOPs of the whole training.
        batch: Tokens per step.

    Raises:
        RecipeError: A field is not above 0.
    """

    width: int
    depth: int
    context: int
    parameters: float
    tokens: float
    flops: float
    batch: float = 2.0**19

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(name, value, "(0, inf)")


@dataclass(frozen=True)
class Law:
    """A published law of learning rate and batch.

    Args:
        name: Display name.
        source: Paper or program.
        ranges: Smallest and largest value of the fit, by name of a field of `Scale`.
        lr: Function from a scale to the peak learning rate.
        batch: Function from a scale to the tokens per step; None if the law has none.
        relative: Whether `lr` is a factor only, because the law's rates are of another kind.
    """

    name: str
    source: str
    ranges: dict[str, tuple[float, float]]
    lr: Callable[[Scale], float]
    batch: Callable[[Scale], float] | None = None
    relative: bool = False

    def outside(self, scale: Scale) -> str:
        """Return which fields of a scale are outside the law's ranges, in words; '' if none is."""
        said = []
        for name, (low, high) in self.ranges.items():
            value = getattr(scale, name)
            if not low <= value <= high:
                said.append(f"{name} {value:.2g} is {'below' if value < low else 'above'} {low:.2g} to {high:.2g}")
        return "; ".join(said)


def _deepseek_compute(scale: Scale) -> float:
    """Return M · D with M = 72 L d² + 12 L d T: DeepSeek's non-embedding FLOPs per token, attention included."""
    per_token = 72.0 * scale.depth * scale.width**2 + 12.0 * scale.depth * scale.width * scale.context
    return per_token * scale.tokens


LAWS = (
    Law(
        "Step Law",
        "arXiv:2503.04715",
        {"parameters": (5.9e7, 1.07e9), "tokens": (2e9, 1e11)},
        lambda scale: 1.79 * scale.parameters**-0.713 * scale.tokens**0.307,
        lambda scale: 0.58 * scale.tokens**0.571,
    ),
    Law(
        "DeepSeek LLM",
        "arXiv:2401.02954",
        {"flops": (1e17, 2e19)},
        lambda scale: 0.3118 * _deepseek_compute(scale) ** -0.125,
        lambda scale: 0.2920 * _deepseek_compute(scale) ** 0.3271,
    ),
    Law(
        "GPT-3",
        "arXiv:2005.14165, table 2.1; as a formula in arXiv:2001.08361",
        {"parameters": (1e6, 1e10)},
        lambda scale: max(1e-5, 0.003239 - 0.0001395 * math.log(scale.parameters)),
    ),
    # Rates of embeddings and of the head move with both factors; those of matrices move with the batch only.
    Law(
        "nanochat",
        "karpathy/nanochat: rates of AdamW by 1/√width and √batch",
        {"width": (640.0, 1664.0), "batch": (2.0**17, 2.0**21)},
        lambda scale: (scale.width / 768.0) ** -0.5 * (scale.batch / 2.0**19) ** 0.5,
        relative=True,
    ),
)
"""Every known law, in the order of the table that `evo-tune scale` prints."""


def compute_optimal_tokens(parameters: float) -> float:
    """Return the compute-optimal tokens of a model, 20 per weight (Hoffmann et al., arXiv:2203.15556).

    Args:
        parameters: Number of weights.

    Raises:
        RecipeError: The number is not above 0.
    """
    check_number("parameters", parameters, "(0, inf)")
    return 20.0 * parameters
