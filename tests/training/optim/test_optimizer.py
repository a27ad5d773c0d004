import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, SGD, AdamW, Muon, Trainer
from evo_tune.training.optim.optimizer import decay_groups, parameter_kinds
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.recipe.models.rules import Parametrisation
from evo_tune.training.recipe.optim.optimisation import GroupFactors


class Tied(nn.Module):
    """Every kind of parameter, and a head that is the embedding itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.bag = nn.EmbeddingBag(10, 8)
        self.token = nn.Parameter(torch.zeros(8))
        self.convolution = nn.Conv1d(8, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight


def names(model: nn.Module, group: list[nn.Parameter]) -> set[str]:
    ids = {id(parameter) for parameter in group}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


@pytest.mark.parametrize(
    "build",
    [
        Tied,
        lambda: GPT(GPTConfig()),
        lambda: nn.Sequential(nn.Linear(2, 2, bias=False)),
    ],
)
def test_groups_partition_the_trainable_parameters(build: Callable[[], nn.Module]) -> None:
    model = build()
    decayed, others = decay_groups(model)
    ids = [id(parameter) for parameter in (*decayed, *others)]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_only_matrices_that_multiply_decay() -> None:
    model = Tied()
    decayed, others = decay_groups(model)
    assert names(model, decayed) == {
        "convolution.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "linear.weight",
    }
    assert {"embedding.weight", "bag.weight", "token", "norm.weight", "linear.bias", "attention.in_proj_bias"} <= names(
        model, others
    )


def test_a_gpt_decays_its_matrices_but_no_embedding() -> None:
    model = GPT(GPTConfig())
    decayed = names(model, decay_groups(model)[0])
    blocks = {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert decayed == blocks


def test_each_parameter_of_a_gpt_has_its_kind() -> None:
    model = GPT(GPTConfig(depth=1))
    kinds = parameter_kinds(model)
    found = {name: kinds[weight] for name, weight in model.named_parameters()}
    assert found.pop("embedding.weight") == found.pop("positions.weight") == "embedding"
    assert found.pop("norm.weight") == "other"
    matrices = {name for name in found if name.endswith((".qkv.weight", ".out.weight", ".up.weight"))}
    assert {name for name, kind in found.items() if kind == "hidden"} == matrices
    assert {found[name] for name in found.keys() - matrices} == {"block"}


def test_a_head_that_shares_the_embedding_has_the_embedding_s_kind() -> None:
    model = Tied()
    kinds = parameter_kinds(model)
    assert kinds[model.head.weight] == kinds[model.bag.weight] == "embedding"
    assert kinds[model.token] == kinds[model.linear.weight] == "other"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_with_zero_gradients_weights_shrink_by_the_product(
    optimizer: str, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(steps=10, lr=0.1, optimizer=optimizer)
    for group in trainer.optimizer.param_groups:
        if optimizer == "sgd":
            group["momentum"] = 0.0  # it would carry the decay along
    schedule, decay = trainer.recipe.schedule, trainer.recipe.weight_decay
    before = [[p.detach().clone() for p in group["params"]] for group in trainer.optimizer.param_groups]
    product = 1.0
    for step in range(10):
        trainer.step = step
        trainer.set_rates()
        for parameter in trainer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()
        product *= 1.0 - 0.1 * schedule(step) * decay.at(step, 10)
    for factor, group, old in zip((product, 1.0), trainer.optimizer.param_groups, before, strict=True):
        for parameter, was in zip(group["params"], old, strict=True):
            assert torch.allclose(parameter, factor * was, rtol=1e-6, atol=0)


@pytest.mark.parametrize("build", [AdamW, SGD, Muon])
def test_groups_of_parameters_have_their_own_rates(build: type[AdamW | SGD | Muon]) -> None:
    model = GPT(GPTConfig(depth=2, value_embeddings=True, ngrams=2))
    optimizer = build(lr=0.01, rates=GroupFactors(embedding=2.0)).build(model)
    names = {weight: name for name, weight in model.named_parameters()}
    found = {names[p]: group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert found.pop("embedding.weight") == found.pop("positions.weight") == 0.02
    assert found.pop("blocks.1.attention.values.weight") == 0.02
    assert set(found.values()) == {0.01}


def test_group_rates_multiply_those_of_the_parametrisation() -> None:
    base = Parametrisation(name="completep", width=16, depth=2, head=16)
    model = GPT(GPTConfig(width=64, heads=4, ngrams=2, scaling=base))
    plain, scaled = (AdamW(lr=0.01, rates=GroupFactors(embedding=v)).build(model) for v in (1.0, 7.0))
    rates = [
        {p: (group["initial_lr"], group["decay"], group["eps"]) for group in made.param_groups for p in group["params"]}
        for made in (plain, scaled)
    ]
    tables = [model.embedding.weight, model.positions.weight]  # type: ignore[union-attr]
    for weight, (lr, decay, eps) in rates[0].items():
        is_embedding = any(weight is table for table in tables)
        assert rates[1][weight] == (lr * (7.0 if is_embedding else 1.0), decay, eps)
    assert {lr for lr, _, _ in rates[0].values()} == {0.01, 0.005, 0.0025}
    assert {rates[0][table][0] for table in model.ngrams.parameters()} == {0.005}, "as the embedding of tokens"


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_takes_the_textbook_step(nesterov: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = SGD(lr=0.5, momentum=0.9, nesterov=nesterov).build(model)
    weight, velocity = model[0].weight.detach().clone(), torch.zeros(2, 3)
    for step in range(3):
        gradient = torch.full((2, 3), float(step + 1))
        model[0].weight.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        weight -= 0.5 * (gradient + 0.9 * velocity if nesterov else velocity)
    assert torch.allclose(model[0].weight, weight)


def test_without_a_gradient_nothing_decays() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = AdamW(lr=0.1).build(model)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("lr", 1.5), ("lr", math.nan), ("lr", True)],
)
def test_fields_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=field):
        AdamW(**{"lr": 1e-3, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("lr", math.inf)],
)
def test_fields_of_sgd_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=field):
        SGD(**{"lr": 1e-3, field: value})
    with pytest.raises(RecipeError, match="nesterov"):
        SGD(lr=1e-3, momentum=0.0, nesterov=True)
