import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, GPTConfig, Muon, Trainer
from evo_tune.training.optim.muon import hidden_matrices

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")


@pytest.mark.parametrize("tied", [True, False])
def test_it_takes_the_matrices_inside_the_blocks_and_no_other(tied: bool) -> None:
    model = GPT(GPTConfig(tied=tied, bias=True, depth=2))
    expected = {id(p) for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert {id(p) for p in hidden_matrices(model)} == expected
    optimizer = Muon(lr=1e-3).build(model)
    muon, adamw = optimizer.optimizers  # type: ignore[attr-defined]
    assert isinstance(muon, torch.optim.Muon)
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


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 2.0), ("momentum", 1.0), ("nesterov", "yes"), ("beta1", -0.1), ("beta2", math.nan), ("eps", 0.0)],
)
def test_fields_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=field):
        Muon(**{"lr": 1e-3, field: value})  # type: ignore[arg-type]


def test_a_torch_without_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RecipeError, match=r"2\.9"):
        Muon(lr=1e-3)
