import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, accumulate
from evo_tune.training.recipe import GPTConfig, flops_per_token
from evo_tune.training.recipe.hardware.computing import gpt_work
from evo_tune.training.recipe.models.gpt_config import window_chunks


@pytest.mark.parametrize(("depth", "width", "heads", "ffn_mult"), [(1, 16, 2, 4.0), (3, 48, 4, 8 / 3)])
@pytest.mark.parametrize("length", [32, 20, 1])
def test_torch_counts_the_formula_with_twice_the_causal_half(
    depth: int, width: int, heads: int, ffn_mult: float, length: int
) -> None:
    config = GPTConfig(vocab_size=50, context=32, depth=depth, width=width, heads=heads, ffn_mult=ffn_mult)
    model = GPT(config)
    tokens = torch.randint(0, 50, (3, length + 1))
    weights = 6 * config.matmul_parameters
    attention = flops_per_token(config, length) - weights
    assert attention == 12 * width * depth * (length + 1) / 2
    whole = attention * 2 * length / (length + 1)  # torch counts the whole square of queries and keys
    assert counted(model, tokens) == pytest.approx((weights + whole) * 3 * length, rel=1e-12)


def counted(model: GPT, tokens: torch.Tensor) -> int:
    # The plain formula of attention: torch does not count its fused CPU kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate(model, [(tokens[:, :-1], tokens[:, 1:])])
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "options",
    [
        {"position": "rope", "qk_norm": True},
        {"kv_heads": 2},
        {"kv_heads": 1, "position": "rope"},
        {"value_embeddings": True, "ngrams": 3},
    ],
)
def test_options_keep_the_formula_exact(options: dict[str, object]) -> None:
    config = GPTConfig(vocab_size=50, context=32, depth=2, width=48, heads=4, **options)  # type: ignore[arg-type]
    tokens = torch.randint(0, 50, (3, 33))
    skipped = 12 * 48 * 2 * (32 - 1) / 2
    assert counted(GPT(config), tokens) == (flops_per_token(config) + skipped) * 3 * 32


@pytest.mark.parametrize("window", [1, 8, 31, 32, 100, 128, 200])
@pytest.mark.parametrize("options", [{}, {"kv_heads": 1, "position": "rope"}])
def test_a_window_is_charged_with_the_keys_that_are_computed(window: int, options: dict[str, object]) -> None:
    config = GPTConfig(vocab_size=50, context=512, depth=2, width=64, heads=4, window=window, **options)  # type: ignore[arg-type]
    tokens = torch.randint(0, 50, (1, 513))
    # Chunks without a mask are causal: torch counts their whole square. Only the first chunk can be one of them.
    first = min(config.chunk, 512)
    half = first * (first - 1) / 2 if first <= window else 0
    skipped = 2 * half
    assert counted(GPT(config), tokens) == flops_per_token(config) * 512 + 12 * 64 * skipped


def test_a_window_is_credited_with_no_more_than_it_saves() -> None:
    whole = GPTConfig(context=512, depth=4, width=48)
    some = GPTConfig(context=512, depth=4, width=48, window=8)
    assert some.chunk == 32
    computed = sum((end - start) * (end - first) for first, start, end in window_chunks(8, 512, 32)) / 512
    assert computed == (32 + 15 * 39) / 16
    assert flops_per_token(whole) - flops_per_token(some) == 12 * 48 * 4 * (513 / 2 - computed)
    assert flops_per_token(whole, 8) == flops_per_token(some, 8)


def test_a_window_of_half_the_sequence_saves_nothing() -> None:
    """Chunks with a mask compute all of their keys, and full attention only its causal half."""
    half, whole = (GPTConfig(context=1024, depth=2, width=64, window=window) for window in (512, None))
    assert 1.0 < flops_per_token(half) / flops_per_token(whole) < 1.05
    assert flops_per_token(GPTConfig(context=1024, depth=2, width=64, window=128)) < 0.7 * flops_per_token(whole)


@pytest.mark.parametrize("shape", [{"context": 256}, {"context": 128}, {"context": 1024, "boundary": 0}])
@pytest.mark.parametrize("window", [1, 32, 96, 127])
def test_a_mask_over_all_counts_as_full_attention(shape: dict[str, int], window: int) -> None:
    """In a short context chunks take more time; documents have a mask over all whatever the window."""
    whole, some = (GPTConfig(depth=2, width=64, window=n, **shape) for n in (None, window))  # type: ignore[arg-type]
    assert flops_per_token(some) == flops_per_token(whole)
    assert gpt_work(some, 2, "adamw") == gpt_work(whole, 2, "adamw")
    assert some.chunk == (some.context if some.context <= 256 else 64)


def test_chunks_are_few_and_about_half_of_a_window() -> None:
    assert GPTConfig(context=4096, window=8).chunk == 256
    assert GPTConfig(context=4096, window=1024).chunk == 512


def test_recomputing_every_block_costs_less_than_a_third() -> None:
    config = GPTConfig(context=128, depth=2, width=64, vocab_size=2)
    tokens = torch.randint(0, 2, (2, 129))
    assert 1.2 < counted(GPT(config, recompute=1), tokens) / counted(GPT(config), tokens) < 4 / 3


def test_lengths_beyond_the_context_are_refused() -> None:
    with pytest.raises(RecipeError, match="length"):
        flops_per_token(GPTConfig(context=32), 33)
