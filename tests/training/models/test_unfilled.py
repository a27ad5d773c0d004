"""Weights of new models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo_tune.training import GPT, FTTransformer, ViT
from evo_tune.training.recipe import FTConfig, GPTConfig, ViTConfig

SHAPE = {"width": 16, "depth": 1, "heads": 2}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "learned": lambda: GPT(GPTConfig(context=8, position="learned", **SHAPE)),
    "rope": lambda: GPT(GPTConfig(context=8, position="rope", **SHAPE)),
    "images": lambda: ViT(ViTConfig(image_height=4, image_width=4, patch=4, stem="conv", outputs=3, **SHAPE)),
    "table": lambda: FTTransformer(FTConfig(numeric=3, categories=(4, 2), outputs=3, **SHAPE)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_weight_of_a_model_is_filled_without_torchs_generator(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that a weight is given may hold anything."""
    first, empty = make().state_dict(), torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: empty(*size, **more).fill_(7))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again = make().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
