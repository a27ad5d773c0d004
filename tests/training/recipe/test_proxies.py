"""Proxies of a larger training: factors, context, heads, tokens per weight, and budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evo_tune.training.recipe import (
    MAX_DEPTH_FACTOR,
    MAX_WIDTH_FACTOR,
    LargeTraining,
    default_batch,
    default_context_and_batch,
    proxy_for,
)
from evo_tune.training.recipe.models.gpt_config import GPTConfig, flops_per_token

SMALL = LargeTraining(width=128, depth=4, tokens=1_536_000, context=64, head=32)
LARGE = LargeTraining(width=1024, depth=24, tokens=10**9, context=512, head=64)


@pytest.mark.parametrize("target", [SMALL, LARGE])
@pytest.mark.parametrize("flops", [1e8, 1e11, 1e13, 1e16])
def test_a_proxy_is_within_the_factors_and_has_the_targets_context_and_heads(
    target: LargeTraining, flops: float
) -> None:
    found = proxy_for(target, flops)
    assert found is not None
    assert target.width / MAX_WIDTH_FACTOR <= found.width < found.wider <= target.width
    assert target.depth / MAX_DEPTH_FACTOR <= found.depth <= target.depth
    assert found.context == target.context
    assert found.width % target.head == found.wider % target.head == 0


@pytest.mark.parametrize("target", [SMALL, LARGE])
def test_a_proxy_has_the_targets_tokens_per_weight_where_that_is_within_the_budget(target: LargeTraining) -> None:
    found = proxy_for(target, target.flops / 30)
    assert found is not None
    assert found.share == pytest.approx(1.0, rel=0.01)
    short = proxy_for(target, target.flops / 1e7)
    assert short is not None
    assert short.share < 0.9


@pytest.mark.parametrize("flops", [1e9, 1e11, 1e12])
def test_a_training_of_a_proxy_is_within_the_budget(flops: float) -> None:
    found = proxy_for(SMALL, flops)
    assert found is not None
    costs = [
        flops_per_token(GPTConfig(width=width, depth=found.depth, heads=width // SMALL.head, context=SMALL.context))
        for width in (found.width, found.wider)
    ]
    assert found.tokens * sum(costs) / 2 <= 1.01 * flops


def test_a_larger_budget_gives_a_nearer_proxy() -> None:
    sizes = [proxy_for(LARGE, LARGE.flops / part) for part in (10_000, 300, 10)]
    weights = [one.depth * one.width**2 for one in sizes if one is not None]
    assert weights == sorted(set(weights))
    assert len(weights) == 3


def test_given_tokens_stay_and_a_tiny_target_has_no_proxy() -> None:
    found = proxy_for(SMALL, 1e6, 5000)
    assert found is not None
    assert found.tokens == 5000
    assert proxy_for(replace(SMALL, width=8, head=8), 1e12) is None


def test_batches_begin_at_half_the_usual_one_and_hold_a_window() -> None:
    found = proxy_for(LARGE, 1e13)
    assert found is not None
    assert found.batch == max(LARGE.context, default_context_and_batch(found.tokens)[1])
    assert min(found.batches) >= max(found.batch / 2, LARGE.context)
    assert default_batch(10**9) == pytest.approx(0.58 * 1e9**0.571)
