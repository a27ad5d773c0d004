import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from evo_tune.training import GPT, extend_context
from evo_tune.training.models.block import attend, attend_in_window, chunk_mask
from evo_tune.training.recipe import GPTConfig


def window_mask(length: int, window: int) -> torch.Tensor:
    """Which keys j each query i may look at, (length, length): 0 ≤ i − j < window."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance < window)


def pieces(length: int, kv_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(length)
    packed = torch.randn(2, length, 4 + 2 * kv_heads, 8, generator=rng, dtype=torch.float64)
    return [part.transpose(1, 2).to(dtype).requires_grad_() for part in packed.split((4, kv_heads, kv_heads), 2)]


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("chunk", [4, 7, 32])
@pytest.mark.parametrize("window", [1, 3, 8, 31, 32, 33, 60])
def test_chunks_give_what_a_mask_over_all_gives(window: int, chunk: int, kv_heads: int) -> None:
    """In float64, the gradients of queries, keys and values too; the last chunk is a shorter one."""
    masked, chunked = (pieces(65, kv_heads, torch.float64) for _ in range(2))
    whole = attend(*masked, window_mask(65, window))
    given = attend_in_window(*chunked, chunk_mask(chunk, window))
    assert torch.allclose(given, whole, rtol=0, atol=1e-13)
    direction = torch.linspace(-1, 1, whole.numel(), dtype=torch.float64).view(whole.shape)
    whole.backward(direction)
    given.backward(direction)
    for one, other in zip(chunked, masked, strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("length", [90, 400])
def test_in_bf16_chunks_are_as_near_as_a_mask_is(length: int) -> None:
    window, exact = 40, pieces(length, 2, torch.float64)
    expected = attend(*exact, window_mask(length, window))
    low = [part.detach().bfloat16() for part in exact]
    whole, given = attend(*low, window_mask(length, window)), attend_in_window(*low, chunk_mask(32, window))
    off, on = (float((y - expected).detach().norm() / expected.detach().norm()) for y in (whole, given))
    assert given.dtype is torch.bfloat16
    assert on < 1.5 * off < 0.01


OPTIONS = [{}, {"position": "rope", "qk_norm": True, "kv_heads": 2}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("recompute", [None, 1])
def test_a_model_with_a_window_is_one_with_a_mask(
    options: dict[str, object], recompute: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo_tune.training.recipe.models.gpt_config.LONGEST_WHOLE", 0)
    config = GPTConfig(context=80, depth=2, width=16, heads=4, window=20, init="fan_in", **options)  # type: ignore[arg-type]
    assert config.chunk == 32
    tokens = torch.randint(0, 256, (2, 80), generator=torch.Generator().manual_seed(0))
    everywhere, results = window_mask(80, 20), []
    for masked in (False, True):
        if masked:
            monkeypatch.setattr(
                "evo_tune.training.models.block.attend_in_window",
                lambda q, k, v, mask, scale: attend(q, k, v, everywhere, scale=scale),
            )
        model = GPT(config, seed=1, recompute=recompute).double()
        for block in model.blocks:  # whose branches begin at zero
            for part in (block.attention, block.ffn):
                part.out.weight.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(2))
        logits = model(tokens)
        logits.square().sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for chunked, whole in zip(*results, strict=True):
        assert float((chunked - whole).norm() / whole.norm()) < 1e-12


def test_a_model_that_was_extended_keeps_its_window() -> None:
    short = GPT(GPTConfig(context=64, depth=1, width=16, heads=2, window=20, position="rope"), seed=1).double()
    longer = extend_context(short, 128)
    tokens = torch.randint(0, 256, (1, 128), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, :100] = 0
    assert torch.equal(longer(tokens)[0, 119:], longer(changed)[0, 119:])
    assert not torch.allclose(longer(tokens)[0, 118], longer(changed)[0, 118])


@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize(("depth", "window"), [(1, 3), (2, 4), (3, 2), (3, 1), (2, 35)])
@pytest.mark.parametrize("whole", [0, 256])
def test_the_receptive_field_is_exactly_what_the_windows_add_up_to(
    whole: int, depth: int, window: int, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo_tune.training.recipe.models.gpt_config.LONGEST_WHOLE", whole)
    context = 80  # two chunks and a half, or one
    config = GPTConfig(context=context, depth=depth, width=16, heads=2, window=window, position=position)
    model = GPT(config, seed=1).double()
    for block in model.blocks:
        for parameter in block.parameters():
            parameter.data.mul_(10.0)
    inputs = model.embedding(torch.arange(context)[None]).detach().requires_grad_()
    model.embedding.register_forward_hook(lambda module, args, out: inputs)
    model(torch.arange(context)[None])[0, -1].sum().backward()
    seen = inputs.grad.abs().sum(-1)[0] > 0
    assert seen.tolist() == [distance < depth * (window - 1) + 1 for distance in reversed(range(context))]


def test_a_window_of_the_whole_context_is_plain_causal_attention() -> None:
    tokens = torch.arange(16)[None]
    plain = GPT(GPTConfig(context=16, depth=2, width=16, heads=2), seed=1)
    whole = GPT(GPTConfig(context=16, depth=2, width=16, heads=2, window=16), seed=1)
    assert whole.mask is None
    assert torch.equal(plain(tokens), whole(tokens))
    some = GPT(GPTConfig(context=16, depth=2, width=16, heads=2, window=8), seed=1)
    assert torch.equal(plain(tokens[:, :8]), some(tokens[:, :8]))
    assert not torch.allclose(plain(tokens), some(tokens), atol=1e-6)


def test_flex_attention_sees_the_same() -> None:
    q, k, v = torch.randn(3, 2, 2, 128, 16, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(128, 20))

    def seen(batch: object, head: object, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (i >= j) & (i - j < 20)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled, which would take long
        given = flex_attention(q, k, v, block_mask=create_block_mask(seen, None, None, 128, 128, device="cpu"))
    assert float((given - expected).abs().max()) < 1e-6
