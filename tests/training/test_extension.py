"""A training that goes on with a longer context or a larger model: the same recipe and step, and the same function."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Trainer, TrainingWindows, extend_trainer, grow_trainer
from evo_tune.training.extension import next_trainer
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.recipe.models.starting import eps_after_growth


def longer_source(text: torch.Tensor, first_step: int) -> TrainingWindows:
    return TrainingWindows(text, context=16, batch=2, total=20, seed=3, first_step=first_step)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope"])
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


def grown_shape(trainer: Trainer) -> GPTConfig:
    small: GPTConfig = trainer.model.config  # type: ignore[assignment]
    return replace(small, depth=3, width=40, heads=5, norm_eps=eps_after_growth(16, 40))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_training_goes_on_with_a_larger_model(make_trainer: Callable[..., Trainer], optimizer: str) -> None:
    small = make_trainer(optimizer=optimizer, bias=True, recipe={"ema": 0.9})
    small.run(10)
    tokens = torch.randint(0, 16, (4, 8), generator=torch.Generator().manual_seed(0))
    before, averaged = small.model(tokens), small.averaged.module(tokens)  # type: ignore[union-attr]
    large = grow_trainer(small, small.source, grown_shape(small))
    assert (large.step, large.targets, large.recipe) == (10, small.targets, small.recipe)
    assert large.averaged.n_averaged == small.averaged.n_averaged  # type: ignore[union-attr]
    assert torch.allclose(large.model(tokens), before, rtol=0, atol=1e-5)
    assert torch.allclose(large.averaged.module(tokens), averaged, rtol=0, atol=1e-5)  # type: ignore[union-attr]
    # Moments go along: without them the first step of AdamW would be as long as its learning rate everywhere.
    norms = large.model.norm.weight  # type: ignore[union-attr]
    parts = getattr(large.optimizer, "optimizers", [large.optimizer])
    state = next(part.state[norms] for part in parts if norms in part.state)
    assert any(value.any() for value in state.values() if value.ndim)
    large.run(20)
    assert large.targets == 2 * small.targets


def test_a_training_with_a_larger_model_is_resumed_to_the_bit(make_trainer: Callable[..., Trainer]) -> None:
    def grown() -> Trainer:
        small = make_trainer(recipe={"ema": 0.9}, dropout=0.1)
        small.run(10)
        return grow_trainer(small, small.source, grown_shape(small))

    whole, part = grown(), grown()
    whole.run(20)
    part.run(14)
    again = Trainer(GPT(part.model.config, seed=9), part.source, part.recipe, seed=part.seed)  # type: ignore[arg-type]
    again.restore(part.state())
    again.run(20)
    for mine, theirs in ((again.model, whole.model), (again.averaged, whole.averaged)):
        left, right = mine.state_dict(), theirs.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(left[name], right[name]) for name in right)


def test_the_next_phase_is_a_longer_context_or_a_larger_model(
    make_trainer: Callable[..., Trainer], text: torch.Tensor
) -> None:
    trainers = [make_trainer(), make_trainer()]
    for trainer in trainers:
        trainer.run(7)
    shape: GPTConfig = trainers[0].model.config  # type: ignore[assignment]
    longer = next_trainer(trainers[0], longer_source(text, 7), replace(shape, context=16), recompute=1)
    larger = next_trainer(trainers[1], trainers[1].source, grown_shape(trainers[1]), recompute=2)
    for trainer, size, every in ((longer, (16, 2, 16), 1), (larger, (8, 3, 40), 2)):
        model: GPT = trainer.model  # type: ignore[assignment]
        assert (model.config.context, model.config.depth, model.config.width) == size
        assert (trainer.step, model.recompute) == (7, every)
