"""A budget shared out between phases of rising context."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training.recipe import GPTConfig, flops_per_token, tokens_and_flops
from evo_tune.training.recipe.plan import plan_phases

SHORT = GPTConfig(context=16, depth=2, width=32, heads=2)
LONG = replace(SHORT, context=64, extended_from=16)


def by_tokens(config: GPTConfig) -> float:
    return config.context


def by_flops_of(config: GPTConfig) -> float:
    return config.context * flops_per_token(config)


@given(
    share=st.floats(0.05, 0.95),
    batch=st.integers(1, 4096),
    tokens=st.integers(1, 10**6),
    by_flops=st.booleans(),
)
def test_the_whole_is_the_budget_to_a_window_each(share: float, batch: int, tokens: int, by_flops: bool) -> None:
    each = flops_per_token(SHORT) if by_flops else 1.0
    phases = plan_phases(
        [(1.0 - share, SHORT), (share, LONG)], batch, tokens * each, by_flops_of if by_flops else by_tokens
    )
    total = tokens_and_flops(phases, phases[-1].end)
    window = 64 * (flops_per_token(LONG) if by_flops else 1.0) + 16 * each
    assert abs(total["flops" if by_flops else "tokens"] - tokens * each) <= max(window, 1.0)
    assert phases[0].first_step == 0
    assert phases[1].first_step == phases[0].end
    steps = range(0, phases[-1].end + 1, max(1, phases[-1].end // 7))
    counts = [tokens_and_flops(phases, step)["tokens"] for step in steps]
    assert counts == sorted(counts)
    assert counts[0] == 0


def test_a_step_is_a_batch_in_either_phase() -> None:
    phases = plan_phases([(0.5, SHORT), (0.5, LONG)], 128, 12_800, by_tokens)
    assert [phase.per_step * phase.config.context for phase in phases] == [128, 128]
    assert [phase.end - phase.first_step for phase in phases] == [50, 50]
    assert tokens_and_flops(phases, 60)["tokens"] == 60 * 128


def test_two_equal_phases_are_refused() -> None:
    with pytest.raises(RecipeError, match="context=16"):
        plan_phases([(0.5, SHORT), (0.5, SHORT)], 128, 1000, by_tokens)


def test_no_phase_has_a_shorter_context_than_the_one_before() -> None:
    with pytest.raises(RecipeError, match="context"):
        plan_phases([(0.5, SHORT), (0.5, replace(SHORT, context=8))], 128, 1000, by_tokens)
