from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer, average_of, evaluate, fixed_windows


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_towards_a_constant_it_comes_as_far_as_the_power_says(decay: float) -> None:
    model = nn.Linear(3, 2).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    averaged = average_of(model, decay)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    for n in range(1, 30):
        averaged.update_parameters(model)
        for parameter in averaged.parameters():
            assert torch.allclose(parameter, torch.full_like(parameter, 1.0 - decay**n), rtol=0, atol=1e-12)


def test_raw_and_averaged_weights_are_judged_apart(make_trainer: Callable[..., Trainer], text: torch.Tensor) -> None:
    plain, trainer = make_trainer(), make_trainer(recipe={"ema": 0.9})
    windows = fixed_windows(text, context=8, count=200)
    plain.run(20)
    for until in (5, 20):
        trainer.run(until)
        raw = evaluate(trainer.model, windows)
        averaged = evaluate(trainer.averaged, windows)  # type: ignore[arg-type]
        assert raw != averaged
        assert raw.count == averaged.count
    assert raw == evaluate(plain.model, windows)  # it is kept beside the training, and does not touch it


def test_a_step_without_targets_is_no_update(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(recipe={"ema": 0.9})
    trainer.run(2)
    before = {name: tensor.clone() for name, tensor in trainer.averaged.state_dict().items()}  # type: ignore[union-attr]
    trainer.source = type("Nothing", (), {"window": lambda self, step: []})()
    trainer.run(3)
    after = trainer.averaged.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("decay", [1.0, -0.1, True])
def test_decays_out_of_range_are_refused(decay: float, make_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(RecipeError, match="ema"):
        make_trainer(recipe={"ema": decay})
