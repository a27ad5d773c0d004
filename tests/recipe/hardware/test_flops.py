import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo_tune.errors import RecipeError
from evo_tune.recipe import GPTConfig, flops_per_token
from evo_tune.training import GPT, accumulate


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("depth", "width", "heads", "ffn_mult"), [(1, 16, 2, 4.0), (3, 48, 4, 8 / 3)])
@pytest.mark.parametrize("length", [32, 20])
def test_the_formula_counts_what_torch_counts(
    tied: bool, depth: int, width: int, heads: int, ffn_mult: float, length: int
) -> None:
    config = GPTConfig(vocab_size=50, context=32, depth=depth, width=width, heads=heads, ffn_mult=ffn_mult, tied=tied)
    model = GPT(config)
    tokens = torch.randint(0, 50, (3, length + 1))
    assert counted(model, tokens) == flops_per_token(config, length) * 3 * length


def counted(model: GPT, tokens: torch.Tensor) -> int:
    # The plain formula of attention: torch does not count its fused CPU kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate(model, [(tokens[:, :-1], tokens[:, 1:])])
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "options",
    [
        {"position": "rope", "qk_norm": True},
        {"position": "sinusoidal", "ffn": "swiglu"},
        {"kv_heads": 2, "bias": True},
        {"kv_heads": 1, "ffn": "swiglu", "position": "rope"},
    ],
)
def test_options_keep_the_formula_exact(options: dict[str, object]) -> None:
    config = GPTConfig(vocab_size=50, context=32, depth=2, width=48, heads=4, **options)  # type: ignore[arg-type]
    tokens = torch.randint(0, 50, (3, 33))
    assert counted(GPT(config), tokens) == flops_per_token(config) * 3 * 32


@pytest.mark.parametrize("window", [1, 8, 16, 32])
@pytest.mark.parametrize("options", [{}, {"window_pattern": "SL"}, {"kv_heads": 1, "position": "rope"}])
def test_a_window_is_credited_with_what_it_saves(window: int, options: dict[str, object]) -> None:
    """Within 3%, and never with more; a mask over the whole square would compute a fifth more."""
    config = GPTConfig(vocab_size=50, context=256, depth=2, width=48, heads=4, window=window, **options)  # type: ignore[arg-type]
    tokens = torch.randint(0, 50, (1, 257))
    needed = flops_per_token(config) * 256
    assert 0.97 * needed < counted(GPT(config), tokens) <= needed
    assert needed < 0.9 * flops_per_token(GPTConfig(vocab_size=50, context=256, depth=2, width=48, heads=4)) * 256


def test_a_window_costs_the_keys_that_its_chunks_see() -> None:
    whole = GPTConfig(context=128, depth=4, width=48)
    some = GPTConfig(context=128, depth=4, width=48, window=8, window_pattern="SSSL")
    assert some.chunk == 32
    assert flops_per_token(whole) - flops_per_token(some) == 12 * 48 * 3 * (128 - 39)
    assert flops_per_token(whole, 8) == flops_per_token(some, 8)
    # As the window grows the difference goes to nothing: none is cheaper by being one token shorter than the context.
    costs = [flops_per_token(GPTConfig(context=128, width=48, window=window)) for window in range(1, 129)]
    assert costs == sorted(costs)
    assert costs[-1] == costs[-2] == flops_per_token(GPTConfig(context=128, width=48))
    # Chunks are few, and about half of a window.
    assert GPTConfig(context=4096, window=8).chunk == 256
    assert GPTConfig(context=4096, window=1024).chunk == 512


def test_recomputing_every_block_costs_less_than_a_third() -> None:
    config = GPTConfig(context=128, depth=2, width=64, vocab_size=2)
    tokens = torch.randint(0, 2, (2, 129))
    assert 1.2 < counted(GPT(config, recompute=1), tokens) / counted(GPT(config), tokens) < 4 / 3


def test_lengths_beyond_the_context_are_refused() -> None:
    with pytest.raises(RecipeError, match="length"):
        flops_per_token(GPTConfig(context=32), 33)
