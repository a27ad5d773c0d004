"""What is compiled, and that windows by flex_attention see what windows see (a CPU has no backward pass of it)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Precision, Trainer
from evo_tune.training.models.block import attend_by_flex, attend_in_window, chunk_mask, flex_mask
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.stepping.averaging import blocks_of, compile_blocks


def test_each_block_is_compiled_by_itself_and_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(GPTConfig(context=16, depth=3, width=16, heads=2, window=4))
    names, compiled = list(model.state_dict()), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(block))
    compile_blocks(model)
    assert compiled == list(model.blocks) == blocks_of(model)
    assert list(model.state_dict()) == names
    assert {block.attention.flex for block in model.blocks} == {None}  # on a CPU


def test_a_trainer_compiles_the_model_and_not_its_average(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_trainer(recipe={"ema": 0.9})
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(block))
    trainer = Trainer(plain.model, plain.source, plain.recipe, compiled=True)
    assert compiled == list(trainer.model.blocks)  # type: ignore[arg-type]
    assert trainer.compiled


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_flex_sees_what_a_window_sees(kv_heads: int) -> None:
    rng = torch.Generator().manual_seed(1)
    shapes = [(2, heads, 40, 16) for heads in (4, kv_heads, kv_heads)]
    q, k, v = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    expected = attend_in_window(q, k, v, chunk_mask(16, 7))
    found = attend_by_flex(q, k, v, flex_mask(40, 7, torch.device("cpu")))
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_tf32_is_a_gpus_and_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with Precision(name="tf32").products():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with Precision(name="fp32").products():
        assert torch.get_float32_matmul_precision() == before
    with pytest.raises(RecipeError, match="tf32"):
        Precision(name="tf32").check_device(torch.device("cpu"))
