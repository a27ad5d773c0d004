"""Modules whose weights are left to the caller."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo_tune.training import GPT, FTTransformer, ViT
from evo_tune.training.models.model_files import skip_initialisation
from evo_tune.training.recipe import FTConfig, GPTConfig, ViTConfig


def test_unfilled_modules_have_their_shapes_and_use_up_no_randomness() -> None:
    before = torch.get_rng_state()
    with skip_initialisation():
        layers = nn.ModuleList([nn.Linear(3, 2), nn.Embedding(5, 4), nn.LayerNorm(2), nn.Conv2d(1, 2, 3)])
    assert torch.equal(torch.get_rng_state(), before)
    assert [tuple(layer.weight.shape) for layer in layers] == [(2, 3), (5, 4), (2,), (2, 1, 3, 3)]


SHAPE = {"width": 16, "depth": 1, "heads": 2}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "learned": lambda: GPT(GPTConfig(context=8, position="learned", tied=False, **SHAPE)),
    "rope": lambda: GPT(GPTConfig(context=8, position="rope", **SHAPE)),
    "images": lambda: ViT(ViTConfig(image_height=4, image_width=4, patch=4, stem="conv", outputs=3, **SHAPE)),
    "table": lambda: FTTransformer(FTConfig(numeric=3, categories=(4, 2), outputs=3, **SHAPE)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_weight_of_a_model_is_filled(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that a weight is given may hold anything."""
    first, empty = make().state_dict(), torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: empty(*size, **more).fill_(7))
    again = make().state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
