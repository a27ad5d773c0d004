import pytest
import torch
import torch.nn.functional as F

from evo_tune.training import GPT, Dropout, GPTConfig
from evo_tune.training.models.attention import attend
from evo_tune.training.models.gpt_config import LONGEST_PLAIN
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_future_changes_nothing(dtype: torch.dtype) -> None:
    q, k, v = (part.to(dtype) for part in heads(16, 2))
    before = attend(q, k, v)
    k[:, :, 9:], v[:, :, 9:] = 7.0, -7.0
    assert torch.equal(attend(q, k, v)[:, :, :9], before[:, :, :9])


@pytest.mark.parametrize("length", [LONGEST_PLAIN, LONGEST_PLAIN + 1])
def test_dropout_keeps_the_mean(length: int) -> None:
    q, k = (torch.zeros(1, 2, length, 4, dtype=torch.bfloat16) for _ in range(2))
    v = torch.ones(1, 2, length, 4, dtype=torch.bfloat16)
    torch.manual_seed(0)
    dropped = attend(q, k, v, dropout=Dropout(0.25)).float()
    assert float(dropped[:, :, length // 2 :].mean()) == pytest.approx(1.0, abs=0.02)
    assert float(dropped[:, :, length // 2 :].std()) > 0.01
    assert torch.allclose(attend(q, k, v).float(), torch.ones(1), atol=0.01)  # weights are rounded one by one


def test_in_float32_a_model_is_computed_by_the_fused_kernel_to_the_bit() -> None:
    q, k, v = heads(16, 4)
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


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
