import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.training.recipe.optim.schedule import optimizer_steps, stop_step


@pytest.mark.parametrize("accumulation", range(1, 13))
@pytest.mark.parametrize("micro_batches", range(13))
def test_steps_equal_those_counted_one_by_one(micro_batches: int, accumulation: int) -> None:
    waiting = steps = 0
    for _ in range(micro_batches):
        waiting += 1
        if waiting == accumulation:
            waiting, steps = 0, steps + 1
    assert optimizer_steps(micro_batches, accumulation) == steps + (waiting > 0)


@given(steps=st.integers(1, 10_000), part=st.integers(1, 81), parts=st.sampled_from([1, 3, 9, 27, 81]))
def test_a_budget_stops_at_the_ceiling_of_its_share(steps: int, part: int, parts: int) -> None:
    part = min(part, parts)
    assert stop_step(steps, part / parts) == math.ceil(Fraction(part, parts) * steps)
