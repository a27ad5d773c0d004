"""What others found of how learning rate and batch move with model, text and arithmetic: their laws, side by side.

Each law is one function with its source and the range in which it was fitted; outside of it a law is a guess, and says
so. They differ by a factor of two within their ranges, and by more outside: a spread to search in, and not an answer.
Plain arithmetic, without torch; what is done with it is for the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evo_tune.options.bounds import check_number

__all__ = ["LAWS", "Law", "Scale", "Suggestion", "compute_optimal_tokens", "suggestions"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a training is.

    Args:
        width: Of the model.
        depth: Blocks.
        context: Tokens in a window.
        parameters: Weights, without embeddings.
        tokens: Of text.
        flops: Arithmetic of the whole training.
        batch: Tokens in a step.

    Raises:
        RecipeError: A number is not above zero.
    """

    width: int
    depth: int
    context: int
    parameters: float
    tokens: float
    flops: float
    batch: float = 2.0**19

    def __post_init__(self) -> None:
        for name in ("width", "depth", "context", "parameters", "tokens", "flops", "batch"):
            check_number(name, getattr(self, name), "(0, inf)")


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What a law says of a training.

    Args:
        law: Its name.
        source: Where it stands.
        lr: Peak learning rate; None: it says by what factor it moves, and no number.
        batch: Tokens in a step; None: it says nothing of it.
        moved: The rate that was found, moved as the law moves from there; None: nothing was found.
        outside: What of the training lies outside of what the law was fitted on; empty: nothing.
    """

    law: str
    source: str
    lr: float | None
    batch: float | None
    outside: str
    moved: float | None = None


@dataclass(frozen=True)
class Law:
    """A published law of learning rate and batch.

    Args:
        name: For people.
        source: Paper or program.
        ranges: What it was fitted on: for names of `Scale`'s fields the least and the largest.
        lr: The peak learning rate at a scale.
        batch: Tokens in a step; None: it says nothing of it.
        relative: Whether the rate is only a factor, of rates of another kind.
    """

    name: str
    source: str
    ranges: dict[str, tuple[float, float]]
    lr: Callable[[Scale], float]
    batch: Callable[[Scale], float] | None = None
    relative: bool = False

    def outside(self, scale: Scale) -> str:
        """Return what of a scale lies outside of the law's ranges, in words; empty if nothing does."""
        said = []
        for name, (low, high) in self.ranges.items():
            value = getattr(scale, name)
            if not low <= value <= high:
                said.append(f"{name} {value:.2g} is {'below' if value < low else 'above'} {low:.2g} to {high:.2g}")
        return "; ".join(said)

    def at(self, scale: Scale, found: tuple[Scale, float] | None = None) -> Suggestion:
        """Return what the law says of a scale.

        Args:
            scale: Of the training.
            found: Another scale and the rate that suits it there, from which the law's ratio is taken.
        """
        lr = self.lr(scale)
        return Suggestion(
            law=self.name,
            source=self.source,
            lr=None if self.relative else lr,
            batch=None if self.batch is None else self.batch(scale),
            outside=self.outside(scale),
            moved=None if found is None else found[1] * lr / self.lr(found[0]),
        )


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
        "arXiv:2005.14165, table 2.1, as Kaplan et al. (arXiv:2001.08361) put it",
        {"parameters": (1e6, 1e10)},
        lambda scale: max(1e-5, 0.003239 - 0.0001395 * math.log(scale.parameters)),
    ),
    # Its embeddings and its head have rates of their own, all of which move so; its matrices' only with the batch.
    Law(
        "nanochat",
        "karpathy/nanochat: rates of AdamW by 1/√width and √batch",
        {"width": (640.0, 1664.0), "batch": (2.0**17, 2.0**21)},
        lambda scale: (scale.width / 768.0) ** -0.5 * (scale.batch / 2.0**19) ** 0.5,
        relative=True,
    ),
)
"""Every law that is known, in the order in which it is printed."""


def suggestions(scale: Scale, found: tuple[Scale, float] | None = None) -> list[Suggestion]:
    """Return what every law says of a scale (see `Law.at`)."""
    return [law.at(scale, found) for law in LAWS]


def compute_optimal_tokens(parameters: float) -> float:
    """Return 20 tokens a weight (Hoffmann et al., arXiv:2203.15556).

    Args:
        parameters: Weights.

    Raises:
        RecipeError: It is not above zero.
    """
    check_number("parameters", parameters, "(0, inf)")
    return 20.0 * parameters
