import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.training.recipe.optim.optimisation import scale_betas, scale_lr

sizes = st.floats(1, 1e6)


@given(batch=sizes, rule=st.sampled_from(["none", "sqrt", "linear"]))
def test_the_reference_batch_changes_nothing(batch: float, rule: str) -> None:
    assert scale_lr(1e-3, batch, batch, rule) == 1e-3


@given(first=sizes, second=sizes, third=sizes, rule=st.sampled_from(["none", "sqrt", "linear"]))
def test_two_scalings_are_one(first: float, second: float, third: float, rule: str) -> None:
    twice = scale_lr(scale_lr(1e-3, second, first, rule), third, second, rule)
    assert twice == pytest.approx(scale_lr(1e-3, third, first, rule))


def test_rules_are_what_they_are_called() -> None:
    assert scale_lr(1e-3, 4, 1, "sqrt") == 2e-3
    assert scale_lr(1e-3, 4, 1, "linear") == 4e-3
    assert scale_lr(1e-3, 4, 1, "none") == 1e-3
    assert scale_betas((0.9, 0.99), 4, 1, "sqrt") == pytest.approx((0.6, 0.96))


def test_a_moment_remembers_nothing_rather_than_less() -> None:
    assert scale_betas((0.9, 0.99), 10.5, 1, "sqrt") == (0.0, pytest.approx(0.895))
