from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Trainer, accumulate
from evo_tune.training.recipe import GPTConfig


@pytest.mark.parametrize("every", [1, 2, 3])
def test_loss_and_gradient_are_the_same_to_the_bit_with_dropout(every: int) -> None:
    config = GPTConfig(depth=3, width=32, heads=2, context=16, dropout=0.1, position="rope")
    tokens = torch.randint(0, 256, (4, 17), generator=torch.Generator().manual_seed(0))
    results = []
    for recompute in (None, every):
        model = GPT(config, seed=1, recompute=recompute)
        passes: list[int] = []
        model.blocks[0].register_forward_hook(lambda *_, passes=passes: passes.append(1))
        torch.manual_seed(5)
        loss, _ = accumulate(model, [(tokens[:, :-1], tokens[:, 1:])])
        results.append((loss, [p.grad for p in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(plain, again) for plain, again in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("every", [1, 2])
def test_only_every_so_manieth_block_is_computed_again(every: int) -> None:
    model = GPT(GPTConfig(depth=4, width=16, heads=2, context=8), recompute=every)
    passes = [0] * 4
    for number, block in enumerate(model.blocks):
        # Early stopping skips the end of the second pass, so its beginning is what is counted.
        def note(module: object, args: object, number: int = number) -> None:
            passes[number] += 1

        block.register_forward_pre_hook(note)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    accumulate(model, [(tokens, tokens)])
    assert passes == [2 if number % every == 0 else 1 for number in range(4)]
    with torch.no_grad():
        model(tokens)
    assert sum(passes) == 4 + (4 + every - 1) // every + 4


def test_frozen_inputs_do_not_lose_the_gradient() -> None:
    """Reentrant checkpoints would leave the blocks' gradients at None."""
    model = GPT(GPTConfig(depth=2, width=16, heads=2, context=8), recompute=1)
    model.embedding.requires_grad_(False)
    assert model.positions is not None
    model.positions.requires_grad_(False)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    accumulate(model, [(tokens, tokens)])
    assert all(p.grad is not None for p in model.blocks.parameters())


def test_a_training_is_the_same_to_the_bit(make_trainer: Callable[..., Trainer]) -> None:
    plain, again = make_trainer(dropout=0.2), make_trainer(dropout=0.2)
    again.model.recompute = 1
    for trainer in (plain, again):
        trainer.run(10)
    expected = plain.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())


@pytest.mark.parametrize("every", [0, 1.0, True])
def test_numbers_out_of_range_are_refused(every: int) -> None:
    with pytest.raises(RecipeError, match="recompute"):
        GPT(GPTConfig(), recompute=every)
