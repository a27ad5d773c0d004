from typing import Any

import pytest

from evo_tune.errors import RecipeError
from evo_tune.training import GPTConfig, Schedule, check_comparable, flops_per_token

STEPS = 100


def record(depth: int, steps: int, of: int = STEPS) -> dict[str, float]:
    """What a training of `steps` out of `of` steps of 1000 tokens would record."""
    config = GPTConfig(depth=depth)
    fraction = Schedule(steps=of)(steps - 1)
    return {
        "tokens": 1000.0 * steps,
        "flops": 1000.0 * steps * flops_per_token(config),
        "final_lr_fraction": fraction,
    }


def test_equal_compute_at_the_end_of_the_schedule_may_be_compared() -> None:
    shallow = record(2, STEPS)
    steps = round(shallow["flops"] / record(4, 1)["flops"])
    check_comparable(shallow, record(4, steps, of=steps))
    check_comparable(shallow, record(4, STEPS), held="tokens")
    check_comparable(shallow, shallow, tolerance=0.0)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (record(4, STEPS), "flops"),  # a deeper model at equal steps
        (record(2, STEPS // 2), "flops"),
        ({**record(2, STEPS // 2, of=STEPS), "flops": record(2, STEPS)["flops"]}, "final_lr_fraction"),  # cut short
        ({"flops": record(2, STEPS)["flops"]}, "final_lr_fraction"),
        ({}, "flops"),
    ],
)
def test_unequal_compute_or_another_point_of_the_schedule_may_not(other: dict[str, float], field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_comparable(record(2, STEPS), other)
    assert caught.value.field == field


@pytest.mark.parametrize("options", [{"held": "steps"}, {"tolerance": 1.0}, {"tolerance": -0.1}])
def test_fields_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        check_comparable(record(2, STEPS), record(2, STEPS), **options)
