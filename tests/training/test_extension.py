"""A training that goes on with a longer context or a larger model: the same recipe and step, and the same function."""

from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer, TrainingWindows
from evo_tune.training.extension import extend_trainer


def longer_source(text: torch.Tensor, first_step: int) -> TrainingWindows:
    return TrainingWindows(text, context=16, batch=2, total=20, seed=3, first_step=first_step)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_training_goes_on_where_it_was(
    make_trainer: Callable[..., Trainer], text: torch.Tensor, optimizer: str, position: str
) -> None:
    short = make_trainer(optimizer=optimizer, position=position, recipe={"ema": 0.5})
    short.run(10)
    before = {name: tensor.clone() for name, tensor in short.model.state_dict().items()}
    longer = extend_trainer(short, longer_source(text, 10), 16)
    assert (longer.step, longer.targets, longer.recipe) == (10, short.targets, short.recipe)
    tensors = longer.model.state_dict()
    for name, tensor in before.items():
        if name == "positions.weight":
            assert torch.equal(tensors[name][[0, -1]], tensor[[0, -1]])  # the ends stay, the rest is between
        else:
            assert torch.equal(tensors[name], tensor)
    longer.run(20)
    assert longer.targets == short.targets + 10 * 2 * 16
    for model in (longer.model, longer.averaged.module):  # type: ignore[union-attr]
        assert model(torch.zeros(1, 16, dtype=torch.long)).isfinite().all()


def test_moments_of_learned_positions_are_stretched_with_them(
    make_trainer: Callable[..., Trainer], text: torch.Tensor
) -> None:
    short = make_trainer()
    short.run(5)
    old = short.optimizer.state[short.model.positions.weight]["exp_avg_sq"].clone()  # type: ignore[index,union-attr]
    longer = extend_trainer(short, longer_source(text, 5), 16)
    new = longer.optimizer.state[longer.model.positions.weight]["exp_avg_sq"]  # type: ignore[index,union-attr]
    assert new.shape == (16, 16)
    assert torch.equal(new[[0, -1]], old[[0, -1]])
    assert (new >= 0).all()


def test_the_same_context_changes_nothing(make_trainer: Callable[..., Trainer]) -> None:
    trainers = [make_trainer(), make_trainer()]
    for trainer in trainers:
        trainer.run(6)
    trainers[1] = extend_trainer(trainers[1], trainers[1].source, 8)
    for trainer in trainers:
        trainer.run(20)
    left, right = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_source_begins_at_its_first_step(text: torch.Tensor) -> None:
    plain = TrainingWindows(text, context=16, batch=2, total=20, seed=3)
    later = longer_source(text, 7)
    assert torch.equal(plain.window(4)[0][0], later.window(11)[0][0])
    for step in (6, 17):
        with pytest.raises(RecipeError, match="step"):
            later.window(step)
