import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training.recipe import optimizer_steps, stop_step


@pytest.mark.parametrize("accumulation", range(1, 13))
@pytest.mark.parametrize("micro_batches", range(13))
def test_steps_equal_those_counted_one_by_one(micro_batches: int, accumulation: int) -> None:
    waiting = steps = 0
    for _ in range(micro_batches):
        waiting += 1
        if waiting == accumulation:
            waiting, steps = 0, steps + 1
    assert optimizer_steps(micro_batches, accumulation) == steps + (waiting > 0)


@pytest.mark.parametrize("accumulation", [0, -1, 1.5, 2.0, True, math.nan, "2"])
def test_accumulation_must_be_a_whole_number_from_1(accumulation: object) -> None:
    with pytest.raises(RecipeError, match="accumulation"):
        optimizer_steps(6, accumulation)  # type: ignore[arg-type]


@given(steps=st.integers(1, 10_000), part=st.integers(1, 81), parts=st.sampled_from([1, 3, 9, 27, 81]))
def test_a_budget_stops_at_the_ceiling_of_its_share(steps: int, part: int, parts: int) -> None:
    part = min(part, parts)
    assert stop_step(steps, part / parts) == math.ceil(Fraction(part, parts) * steps)


@pytest.mark.parametrize("budget", [0.0, 1.01, -0.5, math.nan, True])
def test_a_budget_lies_above_0_and_at_most_at_1(budget: float) -> None:
    with pytest.raises(RecipeError, match="budget"):
        stop_step(10, budget)
