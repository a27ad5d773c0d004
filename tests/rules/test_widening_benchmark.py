"""benchmarks/widening.py in short: what it plays, and that widening finds an optimum outside the ranges."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from tests.conftest import benchmark


@pytest.fixture(scope="module")
def widening() -> ModuleType:
    return benchmark("widening")


@pytest.mark.parametrize("outside", [False, True])
def test_the_optimum_is_where_it_is_said_to_be(widening: ModuleType, outside: bool) -> None:
    for seed in range(20):
        optimum = widening.Task.of(seed, outside).optimum
        assert ((optimum[:3] < 0.0) | (optimum[:3] > 1.0)).all() == outside
        assert ((optimum[3:] > 0.0) & (optimum[3:] < 1.0)).all()


def test_widening_finds_an_optimum_outside_and_harms_little_inside(widening: ModuleType) -> None:
    gains = []
    for outside in (False, True):
        for seed in range(3):
            instance = widening.Task.of(seed, outside).instance()
            off = widening.play(widening.Ours(instance, seed, "ga"), instance)
            player = widening.Widening(instance, seed, "ga")
            gains.append(off[-1] - widening.play(player, instance)[-1])
            assert player.widened or not outside
    assert np.mean(gains[:3]) > -0.05
    assert np.mean(gains[3:]) > 0.2
