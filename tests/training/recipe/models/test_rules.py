"""Parametrisations: the standard model at the base size, to the bit; what moves with the size; and what keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT, SGD, AdamW, FTTransformer, Muon, TextClassifier, ViT, grow
from evo_tune.training.recipe import FTConfig, GPTConfig, TextConfig, ViTConfig
from evo_tune.training.recipe.models.rules import Parametrisation

BASE = {"depth": 2, "width": 32, "heads": 2}
COMPLETE = Parametrisation(name="completep", width=32, depth=2, head=16)
TOKENS = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(3))

INPUTS: dict[str, Any] = {
    "vit": (ViT, ViTConfig(outputs=3, image_height=8, image_width=8, **BASE), torch.rand(4, 3, 8, 8)),
    "table": (FTTransformer, FTConfig(outputs=3, numeric=3, **BASE), torch.rand(4, 3)),
    "text": (TextClassifier, TextConfig(outputs=3, buckets=50, **BASE), torch.randint(1, 50, (4, 9))),
}
KINDS: dict[str, Any] = {"adamw": AdamW, "muon": Muon, "sgd": SGD}


def gpt(scaling: Parametrisation | None, init: str = "fan_in", **shape: Any) -> GPT:
    return GPT(GPTConfig(vocab_size=64, context=16, init=init, scaling=scaling, **{**BASE, **shape}), seed=1)


def stepped(model: torch.nn.Module, optimizer: str, inputs: Any, targets: Any, steps: int = 2) -> list[torch.Tensor]:
    """Return the weights after a few steps, with decay as the trainer writes it."""
    built = KINDS[optimizer](lr=1e-2).build(model)
    for _ in range(steps):
        for group in built.param_groups:
            group.update(lr=group["initial_lr"], weight_decay=0.1 * group["decay"])
        F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
        built.step()
        built.zero_grad()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("init", ["fan_in", "normal"])
def test_at_the_base_size_a_gpt_is_the_standard_one_to_the_bit(init: str, optimizer: str) -> None:
    one, other = (stepped(gpt(s, init), optimizer, TOKENS[:, :-1], TOKENS[:, 1:]) for s in (None, COMPLETE))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", INPUTS)
def test_at_the_base_size_an_encoder_is_the_standard_one_and_elsewhere_not(kind: str) -> None:
    made, config, inputs = INPUTS[kind]
    classes = torch.tensor([0, 1, 2, 0])
    smaller = replace(COMPLETE, width=16, depth=1, head=8)
    plain, same, other = (
        stepped(made(replace(config, scaling=scaling), seed=1), "adamw", inputs, classes)
        for scaling in (None, COMPLETE, smaller)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def rates(optimizer: str, **shape: Any) -> dict[str, dict[str, Any]]:
    groups = KINDS[optimizer](lr=1e-2).build(model := gpt(COMPLETE, **shape)).param_groups
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: group for group in groups for p in group["params"]}


WIDE = {"width": 128, "depth": 8, "heads": 8}
"""m_N = m_L = 4."""


@pytest.mark.parametrize(
    ("optimizer", "hidden", "norm", "embedding"),
    [("adamw", 1 / 4, 1, 1 / 2), ("muon", 1 / 2, 1, 2**-0.5), ("sgd", 1, 4, 1 / 2)],
)
def test_rates_move_with_the_size_and_a_step_of_decay_does_not(
    optimizer: str, hidden: float, norm: float, embedding: float
) -> None:
    wanted = {
        "blocks.0.ffn.out.weight": hidden,
        "blocks.7.ffn_norm.weight": norm,
        "norm.weight": 1.0,
        "embedding.weight": embedding,
        "positions.weight": embedding,
    }
    found = rates(optimizer, **WIDE)
    for name, factor in wanted.items():
        group = found[name]
        assert group["initial_lr"] == pytest.approx(1e-2 * factor)
        decayed = name == "blocks.0.ffn.out.weight"
        assert group["initial_lr"] * group["decay"] == pytest.approx(1e-2 if decayed else 0)


def test_eps_moves_with_the_gradients() -> None:
    found = rates("adamw", **WIDE)
    assert found["blocks.0.ffn.out.weight"]["eps"] == pytest.approx(1e-8 / 4)
    assert found["embedding.weight"]["eps"] == 1e-8


@pytest.mark.parametrize("kind", INPUTS)
def test_rates_of_an_encoder_follow_its_head_that_begins_at_zero(kind: str) -> None:
    made, config, _ = INPUTS[kind]
    model = made(replace(config, width=128, depth=8, heads=8, scaling=COMPLETE), seed=1)
    names = {p: name for name, p in model.named_parameters()}
    for optimizer, weight, bias, hidden in (("adamw", 1 / 4, 1, 1 / 4), ("sgd", 1 / 4, 4, 4)):
        groups = KINDS[optimizer](lr=1e-2).build(model).param_groups
        found = {names[p]: group["initial_lr"] for group in groups for p in group["params"]}
        factors = [weight, bias, hidden]
        wanted = ["head.weight", "head.bias", "blocks.0.ffn.out.weight"]
        assert [found[name] for name in wanted] == pytest.approx([1e-2 * factor for factor in factors])


def test_logits_are_the_head_s_products_at_every_width() -> None:
    model = gpt(COMPLETE, **WIDE)
    normed: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _, __, output: normed.append(output))
    logits = model(TOKENS[:, :-1])
    assert torch.allclose(logits, normed[0] @ model.embedding.weight.T)
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_multipliers_and_initial_weights_move_with_the_size() -> None:
    config = gpt(COMPLETE, width=128, depth=8, heads=4).config
    assert config.branch == 0.25
    assert config.attention_scale == pytest.approx(16**0.5 / 32)
    wide = gpt(COMPLETE, "normal", width=128, heads=8)
    assert float(wide.blocks[0].ffn.up.weight.detach().std()) == pytest.approx(0.02 / 2, rel=0.05)
    assert float(wide.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def trained() -> GPT:
    model = gpt(COMPLETE)
    stepped(model, "adamw", TOKENS[:, :-1], TOKENS[:, 1:], steps=5)
    return model


def test_a_deeper_model_begins_as_the_same_function() -> None:
    model = trained()
    deeper = grow(model, depth=4)
    assert torch.allclose(model(TOKENS[:, :-1]), deeper(TOKENS[:, :-1]), atol=1e-5)


def test_a_saved_model_keeps_it(tmp_path: Path) -> None:
    model = gpt(COMPLETE, width=64, heads=4)
    model.save(tmp_path)
    loaded = GPT.load(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(TOKENS[:, :-1]), model(TOKENS[:, :-1]))


@pytest.mark.parametrize("name", ["language_model", "image_classification"])
def test_the_base_stands_in_the_manifest(name: str) -> None:
    evaluator = find_evaluator(f"bundled:{name}")
    settled = evaluator.bind({"param": "completep", "size": "small", "base_depth": 3}).for_run(rungs=False).options
    base = {"language_model": (96, 32), "image_classification": (48, 12)}[name]
    assert (settled["base_width"], settled["base_depth"], settled["base_head"]) == (base[0], 3, base[1])
    plain = evaluator.bind({"size": "small"}).for_run(rungs=False).options
    assert plain["base_width"] is None
