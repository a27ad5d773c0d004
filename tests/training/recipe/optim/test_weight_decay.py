import math
from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer
from evo_tune.training.recipe import WeightDecay, WeightDecayOptions


def test_it_runs_from_start_to_end() -> None:
    decay = WeightDecay(start=0.01, end=0.1)
    values = [decay.at(t, 101) for t in range(101)]
    assert values[0] == 0.01
    assert values[50] == pytest.approx(0.055)
    assert values[-1] == pytest.approx(0.1)
    assert values == sorted(values)
    assert decay.at(1000, 101) == pytest.approx(0.1)


def test_equal_ends_are_bitwise_the_constant(make_trainer: Callable[..., Trainer]) -> None:
    trained = []
    for decay in (WeightDecay(start=0.1), WeightDecay(start=0.1, end=0.1)):
        trainer = make_trainer(steps=5, weight_decay=decay)
        trainer.run(5)
        trained.append(trainer.model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_it_is_written_only_to_groups_that_decay(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(steps=5, weight_decay=WeightDecay(start=0.0, end=0.2))
    seen = []
    trainer.run(5, lambda step: seen.append([group["weight_decay"] for group in trainer.optimizer.param_groups]))
    assert [decayed for decayed, _ in seen] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert [others for _, others in seen] == [0.0] * 5


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, True])
def test_values_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(RecipeError):
        WeightDecay(start=value)
    with pytest.raises(RecipeError):
        WeightDecayOptions(weight_decay_end=value)
