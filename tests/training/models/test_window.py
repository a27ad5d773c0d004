import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from evo_tune.training import GPT, GPTConfig
from evo_tune.training.models.block import window_mask


@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize(("depth", "window"), [(1, 3), (2, 4), (3, 2), (3, 1)])
def test_the_receptive_field_is_exactly_what_the_windows_add_up_to(depth: int, window: int, position: str) -> None:
    config = GPTConfig(context=16, depth=depth, width=16, heads=2, window=window, position=position)
    model = GPT(config, seed=1).double()
    for block in model.blocks:
        for parameter in block.parameters():
            parameter.data.mul_(10.0)
    inputs = model.embedding(torch.arange(16)[None]).detach().requires_grad_()
    model.embedding.register_forward_hook(lambda module, args, out: inputs)
    model(torch.arange(16)[None])[0, -1].sum().backward()
    seen = inputs.grad.abs().sum(-1)[0] > 0
    assert seen.tolist() == [distance < depth * (window - 1) + 1 for distance in reversed(range(16))]


def test_a_window_of_the_whole_context_is_plain_causal_attention() -> None:
    tokens = torch.arange(16)[None]
    plain = GPT(GPTConfig(context=16, depth=2, width=16, heads=2), seed=1)
    whole = GPT(GPTConfig(context=16, depth=2, width=16, heads=2, window=16), seed=1)
    assert whole.mask is None
    assert torch.equal(plain(tokens), whole(tokens))
    some = GPT(GPTConfig(context=16, depth=2, width=16, heads=2, window=8), seed=1)
    assert torch.equal(plain(tokens[:, :8]), some(tokens[:, :8]))
    assert not torch.allclose(plain(tokens), some(tokens), atol=1e-6)


def test_blocks_have_windows_by_the_pattern() -> None:
    config = GPTConfig(context=16, depth=6, window=4, window_pattern="SSSL")
    assert config.windows == (4, 4, 4, 16, 4, 4)
    assert GPTConfig(context=16, depth=2, window_pattern="SL").windows == (16, 16)


def test_flex_attention_sees_the_same() -> None:
    q, k, v = torch.randn(3, 2, 2, 128, 16, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(128, 20))

    def seen(batch: object, head: object, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (i >= j) & (i - j < 20)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled, which would take long
        given = flex_attention(q, k, v, block_mask=create_block_mask(seen, None, None, 128, 128, device="cpu"))
    assert float((given - expected).abs().max()) < 1e-6
