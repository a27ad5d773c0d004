from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Trainer, carry_state, grow
from evo_tune.training.recipe import GPTConfig

TOKENS = torch.randint(0, 16, (4, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True, "tied": False},
        {"position": "rope", "ffn": "swiglu"},
        {"norm": "rmsnorm", "ffn": "relu2", "value_embeddings": True, "residual_scaling": True, "softcap": 5.0},
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


@pytest.mark.parametrize("options", [{"bias": True}, {"ffn": "swiglu", "bias": True}])
def test_wider_layers_are_the_same_function(options: dict[str, object], make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(init="fan_in", ffn_mult=3.0, **options)
    trainer.run(5)
    grown = grow(trainer.model, ffn_mult=16.0, depth=3)  # type: ignore[arg-type]
    assert grown.config.ffn_width > 2 * trainer.model.config.ffn_width  # type: ignore[union-attr, operator]
    assert torch.allclose(grown(TOKENS), trainer.model(TOKENS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_the_optimizer_goes_along(optimizer: str, make_trainer: Callable[..., Trainer]) -> None:
    options = {"optimizer": optimizer, "bias": True}
    small, large = make_trainer(**options), make_trainer(**options, depth=3, ffn_mult=6.0)
    small.run(6)
    grown = grow(small.model, depth=3, ffn_mult=6.0)  # type: ignore[arg-type]
    larger = Trainer(grown, small.source, small.recipe, seed=small.seed)
    carry_state(small.optimizer, small.model, larger.optimizer, grown)  # type: ignore[arg-type]
    moments = {}
    for part in getattr(larger.optimizer, "optimizers", [larger.optimizer]):
        moments.update(part.state)
    old = {}
    for part in getattr(small.optimizer, "optimizers", [small.optimizer]):
        old.update(part.state)
    # Block 1 of two is block 2 of three; the second between them is new.
    mine, theirs = grown.blocks[2].ffn.out.weight, small.model.blocks[1].ffn.out.weight
    for key, value in old[theirs].items():
        carried = moments[mine][key]
        if value.ndim:
            assert torch.equal(carried[:, : value.shape[1]], value)
            assert not carried[:, value.shape[1] :].any()
            assert carried.shape == mine.shape
        else:
            assert torch.equal(carried, value)
    assert grown.blocks[1].ffn.out.weight not in moments
    larger.step = small.step
    before = grown.blocks[1].ffn.out.weight.detach().clone()
    assert not before.any()
    larger.run(10)
    assert grown.blocks[1].ffn.out.weight.any()  # what began at zero learns
    assert grown.blocks[0].ffn.out.weight[:, -1].any()
    assert large.model.config == grown.config


def test_the_first_step_after_is_that_of_the_small_model_where_both_have_weights(
    make_trainer: Callable[..., Trainer],
) -> None:
    small = make_trainer(clip=None)
    small.run(6)
    grown = grow(small.model, depth=4)  # type: ignore[arg-type]
    larger = Trainer(grown, small.source, small.recipe, seed=small.seed)
    carry_state(small.optimizer, small.model, larger.optimizer, grown)  # type: ignore[arg-type]
    larger.step = small.step
    assert small.train_step().loss == larger.train_step().loss
    # Zeroed blocks pass on the gradient untouched.
    assert torch.equal(small.model.blocks[1].attention.qkv.weight, grown.blocks[3].attention.qkv.weight)


def test_what_would_change_the_function_is_refused() -> None:
    model = GPT(GPTConfig(context=8, depth=2, width=16, heads=2, window=4, window_pattern="SL"))
    with pytest.raises(RecipeError, match="window_pattern"):
        grow(model, depth=4)
    values = GPT(GPTConfig(context=8, depth=3, width=16, heads=2, value_embeddings=True))
    with pytest.raises(RecipeError, match="value_embeddings"):
        grow(values, depth=4)  # block 0 would remain block 0, which has none
    assert grow(values, depth=6).config.depth == 6
    plain = GPT(GPTConfig(context=8, depth=2, width=16, heads=2))
    with pytest.raises(RecipeError, match="depth"):
        grow(plain, depth=1)
    with pytest.raises(RecipeError, match="ffn_mult"):
        grow(plain, ffn_mult=2.0)
