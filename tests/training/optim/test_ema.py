import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer, evaluate, evaluation_windows
from evo_tune.training.recipe.optim.optimisation import ema_decay
from evo_tune.training.trainer import Average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_towards_a_constant_it_comes_as_far_as_the_decays_say(decay: float) -> None:
    model = nn.Linear(3, 2).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    averaged = Average(model, decay)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    for n in range(1, 30):
        averaged.update_parameters(model)
        kept = math.prod(min(decay, (1 + t) / (10 + t)) for t in range(1, n + 1))
        for parameter in averaged.parameters():
            assert torch.allclose(parameter, torch.full_like(parameter, 1.0 - kept), rtol=0, atol=1e-12)


def test_nothing_is_left_of_the_first_weights_after_a_short_training() -> None:
    """0.999 to the 372nd power would be 69 %. What is averaged is about the last ninth of the steps."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    averaged = Average(model, 0.999)
    nn.init.zeros_(model.weight)
    for _ in range(372):
        averaged.update_parameters(model)
    assert float(averaged.module.weight.detach()) < 1e-6
    assert ema_decay(0.999, 372) == pytest.approx(1 - 9 / 382)
    assert ema_decay(0.999, 100_000) == 0.999


def test_a_training_that_goes_on_has_the_average_of_one_that_was_never_stopped(
    make_trainer: Callable[..., Trainer],
) -> None:
    whole, first, second = (make_trainer(recipe={"ema": 0.99}) for _ in range(3))
    whole.run(12)
    first.run(5)
    second.restore(first.state())
    second.run(12)
    mine, theirs = (trainer.averaged.state_dict() for trainer in (second, whole))  # type: ignore[union-attr]
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_raw_and_averaged_weights_are_judged_apart(make_trainer: Callable[..., Trainer], text: torch.Tensor) -> None:
    plain, trainer = make_trainer(), make_trainer(recipe={"ema": 0.9})
    windows = evaluation_windows(text, context=8, count=200)
    plain.run(20)
    for until in (5, 20):
        trainer.run(until)
        raw = evaluate(trainer.model, windows)
        averaged = evaluate(trainer.averaged, windows)  # type: ignore[arg-type]
        assert raw != averaged
        assert raw.count == averaged.count
    assert raw == evaluate(plain.model, windows)  # it is kept beside the training, and does not touch it


def test_buffers_are_those_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averaged = Average(model, 0.9)
    model(torch.ones(4, 3))
    averaged.update_parameters(model)
    buffers = dict(averaged.module.named_buffers())
    assert int(buffers["1.num_batches_tracked"]) == 1
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("decay", [1.0, -0.1, True])
def test_decays_out_of_range_are_refused(decay: float, make_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(RecipeError, match="ema"):
        make_trainer(recipe={"ema": decay})
