"""Torch's compiler is not imported to train, and nothing else is different for it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from evo_tune.training.hardware.eager import spare_compiler, step, unfilled
from torch import nn

from evo_tune.recipe import FTConfig, GPTConfig, ViTConfig
from evo_tune.training import GPT, FTTransformer, ViT
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon

OPTIMIZERS = [AdamW(lr=0.1), SGD(lr=0.1, momentum=0.9), Muon(lr=0.1)]

TRAINING = """
import sys
from evo_tune import Context
from evo_tune.plugins.find import find_evaluator

evaluator = find_evaluator("language_model")
for optimizer in ("adamw", "sgd", "muon"):
    options = evaluator.bind({"tokens": 512, "eval_tokens": 256, "optimizer": optimizer})
    space = options.space
    genome = space.check({**space.default(), "depth": 1})
    assert options.evaluate(genome, Context())["steps"] > 0
print([module for module in sys.modules if module in ("torch._dynamo", "torch._inductor", "sympy")])
"""


def test_a_training_does_not_import_the_compiler() -> None:
    trained = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True)
    assert trained.stdout == "[]\n"


def trained(optimizer: AdamW | SGD | Muon, bare: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    made = optimizer.build(model)
    inputs = torch.randn(5, 4)
    for _ in range(3):
        model(inputs).square().mean().backward()
        step(made) if bare else made.step()
        made.zero_grad()
        made.load_state_dict(copy.deepcopy(made.state_dict()))
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_an_optimizer_does_without_the_compiler_what_it_does_with_it(
    optimizer: AdamW | SGD | Muon, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._dynamo

    with_compiler = trained(optimizer, bare=False)
    spare_compiler.cache_clear()
    spare_compiler()
    assert all(map(torch.equal, trained(optimizer, bare=True), with_compiler))
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    assert all(map(torch.equal, trained(optimizer, bare=True), with_compiler))


def test_unfilled_modules_have_their_shapes_and_use_up_no_randomness() -> None:
    before = torch.get_rng_state()
    with unfilled():
        layers = nn.ModuleList([nn.Linear(3, 2), nn.Embedding(5, 4), nn.LayerNorm(2), nn.Conv2d(1, 2, 3)])
    assert torch.equal(torch.get_rng_state(), before)
    assert [tuple(layer.weight.shape) for layer in layers] == [(2, 3), (5, 4), (2,), (2, 1, 3, 3)]


SHAPE = {"width": 16, "depth": 1, "heads": 2}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "learned": lambda: GPT(GPTConfig(context=8, position="learned", tied=False, **SHAPE)),
    "rope": lambda: GPT(GPTConfig(context=8, position="rope", **SHAPE)),
    "images": lambda: ViT(ViTConfig(image_height=4, image_width=4, patch=4, stem="conv", classes=3, **SHAPE)),
    "table": lambda: FTTransformer(FTConfig(numeric=3, categories=(4, 2), classes=3, **SHAPE)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_weight_of_a_model_is_filled(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lay in the memory that it was given."""
    first, empty = make().state_dict(), torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: empty(*size, **more).fill_(7))
    again = make().state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
