from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Trainer, grow
from evo_tune.training.recipe import GPTConfig

TOKENS = torch.randint(0, 16, (4, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position": "rope"},
        {"value_embeddings": True, "ngrams": 3},
    ],
)
@pytest.mark.parametrize("depth", [2, 3, 4, 7])
def test_more_blocks_are_the_same_function_to_the_bit(
    depth: int, options: dict[str, object], make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(**options)
    trainer.run(5)
    grown = grow(trainer.model, depth=depth)  # type: ignore[arg-type]
    assert len(grown.blocks) == depth
    assert torch.equal(grown(TOKENS), trainer.model(TOKENS))


def test_wider_layers_are_the_same_function(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(init="fan_in", ffn_mult=3.0)
    trainer.run(5)
    grown = grow(trainer.model, ffn_mult=16.0, depth=3)  # type: ignore[arg-type]
    assert grown.config.ffn_width > 2 * trainer.model.config.ffn_width  # type: ignore[union-attr, operator]
    assert torch.allclose(grown(TOKENS), trainer.model(TOKENS), rtol=0, atol=1e-6)


def test_what_begins_at_zero_learns(make_trainer: Callable[..., Trainer]) -> None:
    small = make_trainer()
    small.run(6)
    grown = grow(small.model, depth=3, ffn_mult=6.0)  # type: ignore[arg-type]
    assert not grown.blocks[1].ffn.out.weight.any()
    Trainer(grown, small.source, small.recipe, seed=small.seed).run(10)
    assert grown.blocks[1].ffn.out.weight.any()
    assert grown.blocks[0].ffn.out.weight[:, -1].any()


def test_what_would_change_the_function_is_refused() -> None:
    values = GPT(GPTConfig(context=8, depth=3, width=16, heads=2, value_embeddings=True))
    with pytest.raises(RecipeError, match="value_embeddings"):
        grow(values, depth=4)  # block 0 would remain block 0, which has none
    assert grow(values, depth=6).config.depth == 6
    plain = GPT(GPTConfig(context=8, depth=2, width=16, heads=2))
    with pytest.raises(RecipeError, match="depth"):
        grow(plain, depth=1)
    with pytest.raises(RecipeError, match="ffn_mult"):
        grow(plain, ffn_mult=2.0)
