import math

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, extend_context
from evo_tune.training.models.block import (
    interpolate_positions,
    rotary_frequencies,
    rotary_table,
    rotate,
)
from evo_tune.training.recipe import GPTConfig


def products(table: torch.Tensor) -> torch.Tensor:
    """Return ⟨q at m, k at n⟩ for all positions m, n, of one query and one key."""
    rng = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 16, generator=rng, dtype=torch.float64)
    length = table.shape[1]
    return rotate(q.expand(length, 16), table) @ rotate(k.expand(length, 16), table).T


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn"])
@pytest.mark.parametrize("stretch", [1.0, 4.0])
def test_rotary_products_depend_on_the_distance_alone(method: str, stretch: float) -> None:
    table = rotary_table(64, rotary_frequencies(16, context=16, stretch=stretch, method=method))
    scores = products(table)
    for distance in (-40, -3, 0, 1, 17):
        diagonal = scores.diagonal(distance)
        assert float((diagonal - diagonal[0]).abs().max()) < 1e-13 * 64
    assert abs(float(scores[0, 1] - scores[0, 2])) > 1e-3


def test_a_rotation_multiplies_complex_numbers_by_a_positive_angle() -> None:
    """As in RoFormer (arXiv:2104.09864). In the other direction, saved models would give other outputs."""
    frequencies = rotary_frequencies(8)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angles = torch.arange(5)[:, None] * frequencies
    expected = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    assert torch.allclose(rotate(x, rotary_table(5, frequencies)), torch.cat((expected.real, expected.imag), -1))


def test_frequencies_end_where_the_papers_say() -> None:
    plain = rotary_frequencies(64)
    assert plain[0] == 1.0
    assert float(plain[-1]) == pytest.approx(10000 ** (-62 / 64))
    linear, ntk, yarn = (
        rotary_frequencies(64, context=1024, stretch=4.0, method=method) for method in ("linear", "ntk", "yarn")
    )
    assert torch.allclose(linear, plain / 4, rtol=1e-12)
    assert ntk[0] == 1.0
    assert float(ntk[-1]) == pytest.approx(float(plain[-1]) / 4, rel=1e-12)
    turns = 1024 * plain / (2 * math.pi)
    assert torch.allclose(yarn[turns > 32], plain[turns > 32], rtol=1e-12)
    assert torch.allclose(yarn[turns < 1], plain[turns < 1] / 4, rtol=1e-12)
    between = (turns > 1) & (turns < 32)
    assert between.any()
    assert torch.all((yarn[between] < plain[between]) & (yarn[between] > plain[between] / 4))
    assert torch.equal(yarn.sort(descending=True).values, yarn)


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn"])
def test_a_stretch_of_one_is_the_identity(method: str) -> None:
    plain = rotary_frequencies(16)
    assert torch.allclose(rotary_frequencies(16, context=64, stretch=1.0, method=method), plain, rtol=1e-15, atol=0)


def test_learned_positions_keep_their_ends() -> None:
    table = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    longer = interpolate_positions(table, 15)
    assert torch.equal(longer[[0, -1]], table[[0, -1]])
    assert torch.allclose(longer[::2], table, atol=1e-6)
    assert torch.allclose(longer[1], (table[0] + table[1]) / 2, atol=1e-6)
    assert torch.equal(interpolate_positions(table, 8), table)


@pytest.mark.parametrize(
    ("position", "method"),
    [("learned", "linear"), ("rope", "linear"), ("rope", "ntk"), ("rope", "yarn")],
)
def test_a_model_is_extended(position: str, method: str) -> None:
    model = GPT(GPTConfig(context=16, depth=1, width=32, heads=2, position=position, window=12), seed=1)
    tokens = torch.arange(16)[None]
    same = extend_context(model, 16, method)
    assert torch.allclose(same(tokens), model(tokens), rtol=0, atol=1e-6)
    longer = extend_context(model, 40, method)
    assert (longer.config.stretch, longer.config.extended_from) == (2.5, 16)
    assert longer(torch.arange(40)[None]).shape == (1, 40, 256)
    weights = model.state_dict()
    for name, tensor in longer.state_dict().items():
        assert name == "positions.weight" or torch.equal(tensor, weights[name])
    again = extend_context(longer, 64, method)
    assert (again.config.stretch, again.config.extended_from) == (4.0, 16)
    with pytest.raises(RecipeError, match="context"):
        extend_context(model, 15, method)


def test_yarn_sharpens_attention_as_its_paper_says() -> None:
    model = extend_context(GPT(GPTConfig(context=16, width=32, heads=2, position="rope")), 64, "yarn")
    assert model.rotation is not None
    norms = model.rotation.square().sum(0).sqrt()
    assert torch.allclose(norms, torch.full_like(norms, 0.1 * math.log(4.0) + 1.0))


def test_methods_that_the_positions_lack_are_refused() -> None:
    with pytest.raises(RecipeError, match="extension"):
        extend_context(GPT(GPTConfig(context=16)), 32, "yarn")
    for heads, method in ((2, "dynamic"), (16, "ntk")):
        with pytest.raises(RecipeError, match="extension"):
            extend_context(GPT(GPTConfig(context=16, width=32, heads=heads, position="rope")), 32, method)


def test_a_rotation_in_bf16_is_the_exact_one_rounded_once() -> None:
    """With cosines in bfloat16 most channels would be another number."""
    table = rotary_table(512, rotary_frequencies(32)).float()
    x = torch.randn(4, 512, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = rotate(x.double(), table).bfloat16()
    turned = rotate(x, table)
    assert turned.dtype == torch.bfloat16
    assert float((turned != exact).float().mean()) < 0.001
