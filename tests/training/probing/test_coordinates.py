"""The coordinate check: what transfers passes it, and the standard parametrisation, its control, does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import GPT
from evo_tune.training.recipe.models.rules import Factors, Parametrisation
from tests.training.probing.coordinates import check_coordinates

SHORT = {"widths": (32, 64, 128), "depths": (2, 4, 8), "steps": 3}
WIDTHS = {**SHORT, "depths": ()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_completep_keeps_the_size_of_stream_and_logits(optimizer: str) -> None:
    found = check_coordinates("completep", optimizer=optimizer, **SHORT)
    assert [(one.quantity, one.against) for one in found] == [
        ("stream", "width"),
        ("logits", "width"),
        ("stream", "depth"),
    ]
    bounds = [(-0.6, 0.15), (-0.8, 0.8), (-0.1, 0.1)]
    assert all(low <= one.least <= one.most <= high for one, (low, high) in zip(found, bounds, strict=True))
    assert all(one.passed for one in found)


@pytest.mark.parametrize("power", [-2, 1])
def test_logits_that_move_with_the_width_fail(monkeypatch: pytest.MonkeyPatch, power: int) -> None:
    forward = GPT.forward

    def scaled(self: GPT, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = forward(self, tokens) * (self.config.width / 32) ** power
        return logits

    monkeypatch.setattr(GPT, "forward", scaled)
    logits = check_coordinates("completep", **WIDTHS)[1]
    assert not logits.passed
    assert logits.least < -1.0 if power < 0 else logits.most > 1.0


@pytest.mark.parametrize("kind", ["hidden", "embedding"])
def test_a_rate_that_grows_with_the_width_fails(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    factors = Parametrisation.factors

    def faster(self: Parametrisation, optimizer: str, of: str, shape: Any) -> Factors:
        own = factors(self, optimizer, of, shape)
        return own._replace(lr=own.lr * self.wider(shape.width)) if of == kind else own

    monkeypatch.setattr(Parametrisation, "factors", faster)
    assert not all(one.passed for one in check_coordinates("completep", **WIDTHS))


def test_it_keeps_the_size_from_outputs_of_zero_too() -> None:
    assert all(one.passed for one in check_coordinates("completep", init="fan_in", **WIDTHS))


def test_with_muon_from_outputs_of_zero_a_width_of_fewer_channels_than_tokens_is_far_from_the_limit() -> None:
    given = {"optimizer": "muon", "init": "fan_in", "widths": (32, 64, 128), "depths": ()}
    few, many = (check_coordinates("completep", vocabulary=number, **given)[0] for number in (8, 64))
    assert few.activations[-1, -1] < many.activations[-1, -1] - 0.1


def test_the_control_fails() -> None:
    width, _, depth = check_coordinates("standard", **SHORT)
    assert width.most > 0.5
    assert depth.most > 0.5
    assert not width.passed
    assert not depth.passed


def test_a_wrong_size_is_said() -> None:
    with pytest.raises(RecipeError, match="widths"):
        check_coordinates("completep", widths=(30, 60))
