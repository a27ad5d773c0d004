from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import Recipe, Trainer
from evo_tune.training.recipe import Schedule, WeightDecay


def same(first: Trainer, second: Trainer) -> bool:
    expected = first.model.state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in second.model.state_dict().items())


def test_it_learns(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(steps=200, batch=16, lr=1e-2)
    losses: list[float] = []
    trainer.run(200, lambda step: losses.append(step.loss))
    assert losses[0] == pytest.approx(torch.log(torch.tensor(16.0)).item(), abs=0.1)
    assert sum(losses[-10:]) / 10 < 0.85 * losses[0]
    assert trainer.targets == 200 * 16 * 8


def test_steps_are_logged_with_their_norm_before_clipping(make_trainer: Callable[..., Trainer]) -> None:
    free, bound = make_trainer(clip=None), make_trainer(clip=1e-3)
    logs: list[list[tuple[float, bool]]] = [[], []]
    for trainer, log in zip((free, bound), logs, strict=True):
        trainer.run(3, lambda step, log=log: log.append((step.norm, step.clipped)))  # type: ignore[misc]
    assert logs[0][0][0] == logs[1][0][0] > 1e-3
    assert [clipped for _, clipped in logs[0]] == [False] * 3
    assert [clipped for _, clipped in logs[1]] == [True] * 3
    assert (free.clipped, bound.clipped) == (0, 3)


def test_an_update_is_made_of_the_clipped_gradient(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(optimizer="sgd", lr=0.5, clip=1e-2, weight_decay=WeightDecay(start=0.0))
    before = [p.detach().clone() for p in trainer.parameters]
    done = trainer.train_step()
    update = torch.cat([(was - p.detach()).flatten() for was, p in zip(before, trainer.parameters, strict=True)])
    assert done.norm > 0.1
    assert float(update.norm()) == pytest.approx(done.lr * 1e-2, rel=1e-3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 20 bytes"),
    ],
    ids=["gpu", "cpu"],
)
@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(
    fits: int, error: RuntimeError, make_trainer: Callable[..., Trainer]
) -> None:
    roomy, tight = make_trainer(batch=8), make_trainer(batch=8)
    attempts = []

    def limited(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        attempts.append(len(inputs[0]))
        if len(inputs[0]) > fits:
            raise error

    tight.model.register_forward_pre_hook(limited)
    for trainer in (roomy, tight):
        trainer.model.double()
        trainer.run(5)
    assert tight.parts == {1: 8, 2: 4, 3: 4}[fits]
    assert attempts.count(8) == 1  # what was learnt is not tried again
    for given, expected in zip(tight.model.parameters(), roomy.model.parameters(), strict=True):
        assert torch.allclose(given, expected, rtol=0, atol=1e-12)


def test_out_of_memory_with_one_sample_is_an_error(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()

    def never(module: torch.nn.Module, inputs: object) -> None:
        raise torch.OutOfMemoryError("no room")

    trainer.model.register_forward_pre_hook(never)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.run(1)


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()

    def broken(module: torch.nn.Module, inputs: object) -> None:
        raise RuntimeError("shapes do not match")

    trainer.model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.run(1)
    assert trainer.parts == 1


def test_it_does_not_run_beyond_the_full_training(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(steps=3)
    with pytest.raises(RecipeError, match="until"):
        trainer.run(4)
    trainer.run(3)
    trainer.run(2)  # done already
    assert trainer.step == 3


def test_recipes_are_told_apart(make_trainer: Callable[..., Trainer]) -> None:
    recipe = make_trainer().recipe
    same_again = Recipe(optimizer=recipe.optimizer, schedule=recipe.schedule, weight_decay=recipe.weight_decay)
    assert recipe.identity == same_again.identity
    for other in (
        Recipe(optimizer=recipe.optimizer, schedule=Schedule(steps=21), weight_decay=recipe.weight_decay),
        Recipe(optimizer=recipe.optimizer, schedule=recipe.schedule, weight_decay=recipe.weight_decay, clip=2.0),
    ):
        assert other.identity != recipe.identity
