import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Muon, Precision, Trainer, ViT
from evo_tune.training.optim.optimizer import HiddenMatrices, fused_map_sizes, hidden_matrices, orthogonalise
from evo_tune.training.recipe import GPTConfig, ViTConfig


def test_it_takes_the_matrices_inside_the_blocks_and_no_other() -> None:
    model = GPT(GPTConfig(depth=2))
    expected = {id(p) for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert {id(p) for p in hidden_matrices(model)} == expected
    optimizer = Muon(lr=1e-3).build(model)
    muon, adamw = optimizer.optimizers  # type: ignore[attr-defined]
    assert isinstance(muon, HiddenMatrices)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {id(p) for group in muon.param_groups for p in group["params"]} == expected
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}
    assert all((p.ndim == 2) >= group["decay"] for group in optimizer.param_groups for p in group["params"])


def test_an_update_is_orthogonal_and_of_the_size_of_adamws() -> None:
    model = nn.Sequential(nn.Linear(256, 32, bias=False))
    optimizer = Muon(lr=0.1).build(model)
    before = model[0].weight.detach().clone()
    model[0].weight.grad = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    update = (before - model[0].weight.detach()) / 0.1
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.25)
    values = torch.linalg.svdvals(update) / (0.2 * math.sqrt(256))
    assert 0.5 < float(values.min()) < float(values.max()) < 1.5  # five Newton-Schulz iterations come this near


def iterated(matrices: torch.Tensor) -> torch.Tensor:
    """Five Newton-Schulz iterations by singular values, in float64."""
    u, values, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ torch.diag_embed(values) @ v


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 64, 256), (1, 80, 96)])
@pytest.mark.parametrize(
    ("precision", "dtype", "least", "most"),
    [
        ("fp32", torch.float32, 0.0, 1e-5),
        ("fp16", torch.float32, 0.0, 1e-5),
        ("bf16", torch.bfloat16, 1e-3, 0.05),
        ("tf32", torch.bfloat16, 1e-3, 0.05),
    ],
)
def test_products_are_in_the_precision_of_the_training(
    precision: str, dtype: torch.dtype, least: float, most: float, shape: tuple[int, ...]
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected, found = iterated(matrices), orthogonalise(matrices, precision)
    assert found.dtype == dtype
    assert least <= float((found - expected).norm() / expected.norm()) < most


def test_a_cpu_takes_small_matrices_in_float32() -> None:
    assert orthogonalise(torch.ones(1, 63, 64), "bf16").dtype == torch.float32


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("bf16", None)])
def test_a_trainer_orthogonalises_in_its_own_precision(
    make_trainer: Callable[..., Trainer], precision: str, most: float | None
) -> None:
    recipe = {"precision": Precision(name=precision)}
    trainer = make_trainer(optimizer="muon", width=64, depth=1, recipe=recipe, clip=None)
    weight = trainer.model.blocks[0].attention.out.weight  # type: ignore[union-attr, index]
    before, gradient = weight.detach().clone(), torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    trainer.set_rates()
    group = trainer.optimizer.param_groups[0]
    weight.grad = gradient
    trainer.optimizer.step()
    # The momentum's first average is a multiple of the gradient, which the normalisation cancels.
    expected = (
        before * (1.0 - group["lr"] * group["weight_decay"]) - group["lr"] * 0.2 * 8 * iterated(gradient[None])[0]
    )
    error = float((weight.detach() - expected).norm() / (expected - before).norm())
    assert error < most if most is not None else 1e-3 < error < 0.05


def test_a_model_of_vectors_is_left_to_adamw() -> None:
    model = nn.LayerNorm(4)
    optimizer = Muon(lr=0.1).build(model)
    model.weight.grad, model.bias.grad = torch.ones(4), torch.ones(4)
    optimizer.step()
    assert torch.allclose(model.bias, torch.full((4,), -0.1))


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_it_learns(optimizer: str, make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(steps=120, batch=16, lr={"sgd": 1.0, "muon": 2e-2}[optimizer], optimizer=optimizer)
    losses: list[float] = []
    trainer.run(120, lambda step: losses.append(step.loss))
    assert sum(losses[-10:]) / 10 < 0.9 * losses[0]


def test_group_rates_keep_their_ratio(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(optimizer="muon")
    trainer.optimizer.param_groups[1]["initial_lr"] *= 0.25
    ratios: list[float] = []

    def note(step: object) -> None:
        first, second = (group["lr"] for group in trainer.optimizer.param_groups[:2])
        ratios.append(second / first)

    trainer.run(20, note)
    assert ratios == pytest.approx([0.25] * 20)


def test_a_learning_rate_out_of_range_is_refused() -> None:
    with pytest.raises(RecipeError, match="lr"):
        Muon(lr=2.0)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(72, 64), (64, 72)])
def test_on_one_map_it_is_torchs_own(shape: tuple[int, int], nesterov: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(shape, generator=rng)
    ours, theirs = (torch.nn.Parameter(first.clone()) for _ in range(2))
    group = {"params": [ours], "weight_decay": 0.1}
    shared: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov}
    mine = HiddenMatrices([group], maps={}, precision="bf16", **shared)
    plain = torch.optim.Muon([theirs], weight_decay=0.1, adjust_lr_fn="match_rms_adamw", **shared)
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=rng)
        theirs.grad = ours.grad.clone()
        mine.step()
        plain.step()
    change = float((theirs.detach() - first).norm())
    assert float((ours.detach() - theirs.detach()).norm()) < 0.01 * change  # a batch's norm is rounded otherwise


def singular_values(optimizer: torch.optim.Optimizer, weight: torch.Tensor, sizes: tuple[int, ...]) -> list[float]:
    """The least and the greatest singular value of a step's update, of each of its maps."""
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    weight.grad[: sizes[0]] *= 100.0  # as one matrix the others' update would nearly vanish
    optimizer.step()
    parts = ((before - weight.detach()) / 0.1).split(sizes)
    values = [torch.linalg.svdvals(part) / (0.2 * math.sqrt(max(part.shape))) for part in parts]
    return [float(value) for each in values for value in (each.min(), each.max())]


@pytest.mark.parametrize(("kv_heads", "sizes"), [(None, (32, 32, 32)), (1, (32, 8, 8))])
def test_queries_keys_and_values_are_made_orthogonal_each(kv_heads: int | None, sizes: tuple[int, ...]) -> None:
    model = GPT(GPTConfig(width=32, heads=4, kv_heads=kv_heads, depth=1, ffn_mult=2.0))
    block: Any = model.blocks[0]
    values = singular_values(Muon(lr=0.1).build(model), block.attention.qkv.weight, sizes)
    assert 0.3 < min(values) < max(values) < 1.5
    assert tuple(block.attention.qkv.weight.shape) == (sum(sizes), 32)


def test_encoders_have_their_maps_taken_apart_too() -> None:
    model = ViT(ViTConfig(outputs=3, depth=1, width=32, heads=4))
    block: Any = model.blocks[0]
    assert fused_map_sizes(model) == {block.attention.qkv.weight: (32, 32, 32)}
