"""The coordinate check: what transfers passes it, and the standard parametrisation, its control, does not."""

from __future__ import annotations

import pytest

from evo_tune.errors import RecipeError
from evo_tune.training.probing.coordinates import check_coordinates

SHORT = {"widths": (32, 64, 128), "depths": (2, 4, 8), "steps": 3}


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_completep_keeps_activations_of_one_size(optimizer: str) -> None:
    width, depth = check_coordinates("completep", optimizer=optimizer, **SHORT)
    assert -0.3 <= width.least <= width.most <= 0.1
    assert -0.1 <= depth.least <= depth.most <= 0.1
    assert width.holds
    assert depth.holds


def test_from_outputs_of_zero_width_holds_too() -> None:
    assert check_coordinates("mup", init="fan_in", **{**SHORT, "depths": ()})[0].holds


def test_with_muon_from_outputs_of_zero_a_width_of_fewer_channels_than_tokens_is_far_from_the_limit() -> None:
    given = {"optimizer": "muon", "init": "fan_in", "widths": (32, 64, 128), "depths": ()}
    few, many = (check_coordinates("completep", vocabulary=number, **given)[0] for number in (8, 64))
    assert few.activations[-1, -1] < 0.1 < many.activations[-1, -1]


def test_the_control_fails_and_mup_against_depth_does() -> None:
    width, depth = check_coordinates("standard", **SHORT)
    assert width.most > 0.5
    assert depth.most > 0.5
    assert not width.holds
    assert not depth.holds
    width, depth = check_coordinates("mup", **SHORT)
    assert width.holds
    assert depth.most > 0.5


def test_a_wrong_size_is_said() -> None:
    with pytest.raises(RecipeError, match="widths"):
        check_coordinates("mup", widths=(30, 60))
