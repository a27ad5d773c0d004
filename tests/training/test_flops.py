import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, GPTConfig, accumulate, flops_per_token


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("depth", "width", "heads", "ffn_mult"), [(1, 16, 2, 4.0), (3, 48, 4, 8 / 3)])
@pytest.mark.parametrize("length", [32, 20])
def test_the_formula_counts_what_torch_counts(
    tied: bool, depth: int, width: int, heads: int, ffn_mult: float, length: int
) -> None:
    config = GPTConfig(vocab_size=50, context=32, depth=depth, width=width, heads=heads, ffn_mult=ffn_mult, tied=tied)
    model = GPT(config)
    tokens = torch.randint(0, 50, (3, length + 1))
    # The plain formula of attention: torch does not count its fused CPU kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate(model, [(tokens[:, :-1], tokens[:, 1:])])
    assert counter.get_total_flops() == flops_per_token(config, length) * 3 * length


def test_lengths_beyond_the_context_are_refused() -> None:
    with pytest.raises(RecipeError, match="length"):
        flops_per_token(GPTConfig(context=32), 33)
