"""Sizes of the small GPTs with which a recipe for a larger one is searched, and the usual steps of a training.

A proxy is within a factor of 8 in width and 4 in depth of its target, because the optimum moves less over a short way
(benchmarks/transfer.py). It has the target's context and, as far as the budget allows, its tokens per weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from evo_tune.training.recipe.models.gpt_config import GPTConfig, flops_per_token

NARROWEST, SHALLOWEST = 8, 4
"""Largest factor between the target and a proxy, in width and in depth."""

WIDER = 1.5
"""Ratio of the two widths of a search: large enough that the size matters, and not much more expensive."""

CONTEXTS = ((3e5, 32), (1.5e6, 64), (3e7, 128), (3e8, 256), (3e9, 512), (math.inf, 1024))
"""Usual context of a training of fewer tokens than the first number."""


def default_batch(tokens: float) -> float:
    """Return the batch of a training in tokens by Step Law, 0.58 · D^0.571 (arXiv:2503.04715); 64 at least."""
    return max(64.0, 0.58 * math.pow(tokens, 0.571))


def default_context_and_batch(tokens: float) -> tuple[int, int]:
    """Return the usual context and batch of a training, both in tokens; the batch is a power of two."""
    batch = int(2 ** round(math.log2(default_batch(tokens))))
    return min(batch, next(context for most, context in CONTEXTS if tokens < most)), batch


def default_head_dim(width: int) -> int:
    """Return the channels of a head: up to 64, fewer in narrow models so that there are three heads or more."""
    return next(one for one in (64, 32, 16, 8) if (width % one == 0 and width >= 3 * one) or one == 8)


@dataclass(frozen=True, kw_only=True)
class LargeTraining:
    """The training for which a recipe is searched.

    Args:
        width: Width of the model; a multiple of the head width.
        depth: Number of blocks.
        tokens: Training tokens.
        context: Tokens in a window.
        head: Channels of a head.
    """

    width: int
    depth: int
    tokens: int
    context: int
    head: int

    @property
    def flops(self) -> float:
        """FLOPs of the training."""
        return self.tokens * _per_token(self.width, self.depth, self)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """The small training of a search for a larger one.

    Args:
        width: Width of the default model.
        wider: The second width of the search.
        depth: Number of blocks.
        tokens: Training tokens.
        context: Tokens in a window.
        batch: Usual tokens of a step for so many training tokens.
        share: Tokens per weight as a share of the target's.
    """

    width: int
    wider: int
    depth: int
    tokens: int
    context: int
    batch: int
    share: float

    @property
    def size(self) -> str:
        """The value of `-o size`."""
        return f"{self.depth}x{self.width}x{self.context}x{self.batch}"

    @property
    def batches(self) -> tuple[int, ...]:
        """Values of the gene batch: from half the usual one, because smaller steps use a device badly."""
        return tuple(one for one in (self.batch * 2**power // 2 for power in range(4)) if one >= self.context)


def proxy_for(target: LargeTraining, flops: float, tokens: int | None = None) -> Proxy | None:
    """Return the nearest proxy whose training is within a budget; None if the target is too small for any proxy.

    If none is within the budget, the smallest one is trained on as many tokens as the budget allows.

    Args:
        target: The training for which a recipe is searched.
        flops: Budget of a training, as a mean over both widths. Unit: FLOPs.
        tokens: Training tokens of the proxy; None: the target's tokens per weight.
    """
    every = [_proxy(target, width, depth, tokens) for width, depth in _shapes(target)]
    if not every:
        return None
    costs = {one: _cost(one, target) for one in every}
    within = [one for one in every if costs[one] <= flops]
    if within:
        return min(within, key=lambda one: _distance(one, target))
    least = min(every, key=costs.__getitem__)
    shorter = max(target.context, int(least.tokens * flops / costs[least]))
    return least if tokens else _proxy(target, least.width, least.depth, shorter)


def _shapes(target: LargeTraining) -> Iterator[tuple[int, int]]:
    """Yield the width and depth of every proxy within the factors, whose second width is not above the target's."""
    for width in range(target.head, target.width, target.head):
        if NARROWEST * width < target.width or second_width(width, target.head) > target.width:
            continue
        for depth in range(-(-target.depth // SHALLOWEST), target.depth + 1):
            yield width, depth


def shape_with_more_weights(width: int, depth: int, head: int, times: float) -> tuple[int, int] | None:
    """Return width and depth of a larger model with about so many times the weights, in the same proportions.

    It is within the factors between a proxy and its target, and its width is a multiple of the channels of a head.

    Args:
        width: Width of the model.
        depth: Number of its blocks.
        head: Channels of a head.
        times: Largest ratio of the weights.

    Returns:
        None if no such model has more weights.
    """
    weights = depth * width**2
    shapes = [
        (wide, deep)
        for wide in range(width, NARROWEST * width + 1, head)
        for deep in range(depth, SHALLOWEST * depth + 1)
        if weights < deep * wide**2 <= times * weights
    ]

    def distance(shape: tuple[int, int]) -> float:
        wide, deep = shape
        return math.log(times * weights / (deep * wide**2)) + abs(math.log(wide * depth / (width * deep)))

    return min(shapes, key=distance, default=None)


def second_width(width: int, head: int) -> int:
    """Return the second width of a search: `WIDER` times the first, up to whole heads."""
    return -(-int(WIDER * width) // head) * head


def _proxy(target: LargeTraining, width: int, depth: int, tokens: int | None) -> Proxy:
    wider = second_width(width, target.head)
    weights = depth * (width**2 + wider**2) / 2 / (target.depth * target.width**2)
    read = tokens or max(target.context, int(float(f"{target.tokens * weights:.3g}")))
    return Proxy(
        width=width,
        wider=wider,
        depth=depth,
        tokens=read,
        context=target.context,
        batch=max(target.context, default_context_and_batch(read)[1]),
        share=read / (target.tokens * weights),
    )


def _cost(one: Proxy, target: LargeTraining) -> float:
    return one.tokens * sum(_per_token(width, one.depth, target) for width in (one.width, one.wider)) / 2


def _per_token(width: int, depth: int, target: LargeTraining) -> float:
    heads = max(1, width // target.head)
    return flops_per_token(GPTConfig(width=width, depth=depth, heads=heads, context=target.context))


def _distance(one: Proxy, target: LargeTraining) -> float:
    """Return the distance to the target in log width and log depth, each in units of its largest factor."""
    narrower = math.log(target.width / one.width) / math.log(NARROWEST)
    shallower = math.log(target.depth / one.depth) / math.log(SHALLOWEST)
    return math.hypot(narrower, shallower)
