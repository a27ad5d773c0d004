"""What the options of a training become: an optimizer and a recipe."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from evo_tune.training import SGD, AdamW, Muon
from evo_tune.training.recipe.optim.optimisation import GroupFactors
from evo_tune.training.recipe.plan import TrainingOptions
from evo_tune.training.stepping.recipe import optimizer_of, recipe_of

OPTIONS: dict[str, Any] = {
    "lr_rule": "sqrt",
    "momentum": 0.9,
    "beta1": 0.8,
    "beta2": 0.99,
    "eps": 1e-6,
}
# At four times the reference batch.
MOMENTS = {"beta1": 0.2, "beta2": 0.96, "eps": 1e-6}


@pytest.mark.parametrize(
    "expected",
    [
        AdamW(lr=2e-3, **MOMENTS),
        Muon(lr=2e-3, momentum=0.9, **MOMENTS),
        SGD(lr=2e-3, momentum=0.9),
    ],
    ids=lambda optimizer: type(optimizer).__name__.lower(),
)
def test_options_reach_the_optimizer_scaled_by_the_batch(expected: AdamW | Muon | SGD) -> None:
    options = TrainingOptions(optimizer=type(expected).__name__.lower(), **OPTIONS)  # type: ignore[arg-type]
    optimizer = optimizer_of(options, 1e-3, batch=4, reference=1)
    assert type(optimizer) is type(expected)
    assert optimizer.rates == GroupFactors()
    fields, expected_fields = ({**asdict(each), "rates": None} for each in (optimizer, expected))
    assert fields == pytest.approx(expected_fields)


def test_options_reach_the_recipe() -> None:
    options = TrainingOptions(clip=0.3, ema=0.7, precision="bf16", weight_decay_end=0.2)
    recipe = recipe_of(options, 50, lr=1e-3, batch=1, reference=1, weight_decay=0.1, warmup=0.1, ceiling=9.0)
    assert (recipe.clip, recipe.ema, recipe.ceiling) == (0.3, 0.7, 9.0)
    assert (recipe.precision.name, recipe.schedule.steps, recipe.schedule.warmup) == ("bf16", 50, 5)
    assert recipe.weight_decay == options.decay(0.1)
