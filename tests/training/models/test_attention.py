from typing import Any

import pytest
import torch
import torch.nn.functional as F

from evo_tune.training import GPT
from evo_tune.training.models.block import attend
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.recipe.models.gpt_config import PLAIN_IN_FP32
from tests.training.models.test_window import window_mask


def heads(length: int, kv_heads: int, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values as slices of one tensor, (2, heads, length, 8) each, as a layer makes them."""
    rng = torch.Generator().manual_seed(seed)
    packed = torch.randn(2, length, 4 + 2 * kv_heads, 8, generator=rng)
    return [part.transpose(1, 2) for part in packed.split((4, kv_heads, kv_heads), 2)]


def attended(parts: list[torch.Tensor], dtype: torch.dtype, mask: torch.Tensor | None) -> list[torch.Tensor]:
    """The output and the gradients of queries, keys and values, in float32."""
    leaves = [part.detach().to(dtype).requires_grad_() for part in parts]
    y = attend(*leaves, mask)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype))
    return [tensor.float() for tensor in (y.detach(), *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_in_bf16_it_is_what_the_fused_kernel_gives_in_float32(kv_heads: int, window: int | None) -> None:
    mask = None if window is None else window_mask(33, window)
    parts = heads(33, kv_heads)
    exact, low = (attended(parts, dtype, mask) for dtype in (torch.float32, torch.bfloat16))
    for expected, given in zip(exact, low, strict=True):
        assert given.shape == expected.shape
        assert float((given - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("length", [8, 33])
@pytest.mark.parametrize("masked", [False, True])
def test_a_scale_takes_the_place_of_one_over_the_root_of_the_channels(masked: bool, length: int) -> None:
    q, k, v = heads(length, 2)
    mask = window_mask(length, 5) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, mask, is_causal=not masked, scale=0.7, enable_gqa=True)
    assert torch.allclose(attend(q, k, v, mask, scale=0.7), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_future_changes_nothing(dtype: torch.dtype) -> None:
    q, k, v = (part.to(dtype) for part in heads(16, 2))
    before = attend(q, k, v)
    k[:, :, 9:], v[:, :, 9:] = 7.0, -7.0
    assert torch.equal(attend(q, k, v)[:, :, :9], before[:, :, :9])


FEW, MANY = PLAIN_IN_FP32.start, PLAIN_IN_FP32.stop


@pytest.mark.parametrize("length", [FEW - 1, MANY])
def test_in_float32_few_and_many_tokens_are_left_to_the_fused_kernel_to_the_bit(length: int) -> None:
    q, k, v = heads(length, 4)
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    assert torch.equal(attend(q, k, v, causal=False), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [FEW, 31, MANY - 1])
@pytest.mark.parametrize("kind", ["causal", "shared", "all", "padded"])
def test_what_is_computed_by_products_is_what_the_fused_kernel_gives(
    kind: str, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal, kv_heads = kind in ("causal", "shared"), 2 if kind == "shared" else 4
    mask = (
        None
        if kind != "padded"
        else (torch.arange(length) < torch.tensor([length, length // 2])[:, None])[:, None, None]
    )
    fused = F.scaled_dot_product_attention

    def found(attending: Any, given: torch.dtype) -> list[torch.Tensor]:
        leaves = [part.detach().to(given).requires_grad_() for part in heads(length, kv_heads)]
        y = attending(*leaves)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(given))
        return [tensor.double() for tensor in (y.detach(), *(leaf.grad for leaf in leaves))]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the fused kernel was called")

    exact = found(
        lambda q, k, v: fused(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=kv_heads < 4), torch.float64
    )
    monkeypatch.setattr(F, "scaled_dot_product_attention", never)
    for mine, expected in zip(found(lambda q, k, v: attend(q, k, v, mask, causal=causal), dtype), exact, strict=True):
        assert float((mine - expected).norm() / expected.norm()) < (1e-6 if dtype is torch.float32 else 0.02)


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1, "qk_norm": True, "position": "rope"}, {"window": 5}])
def test_a_models_gradient_in_bf16_is_that_of_float32_but_for_rounding(options: dict[str, object]) -> None:
    config = GPTConfig(vocab_size=16, context=32, depth=2, width=32, heads=4, init="fan_in", **options)  # type: ignore[arg-type]
    tokens = torch.randint(0, 16, (8, 33), generator=torch.Generator().manual_seed(1))
    gradients = []
    for low in (False, True):
        model = GPT(config, seed=2)
        with torch.no_grad():  # what begins at zero has a gradient of zero below it
            for block in model.blocks:
                block.ffn.out.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(3))
                block.attention.out.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(4))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            logits = model(tokens[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, exact in gradients[0].items():
        assert exact is not None
        assert gradients[1][name].dtype == torch.float32
        most = 0.05 if exact.ndim == 1 else 0.03  # a norm's few numbers are sums that nearly cancel
        assert 0 < float((gradients[1][name] - exact).norm() / exact.norm()) < most, name
