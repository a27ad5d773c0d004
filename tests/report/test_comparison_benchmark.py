"""benchmarks/comparison.py in short: without a difference 'beats' is said in at most 5%, and with one more often."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from tests import conftest

TRIES = pytest.mark.parametrize("tries", [1000, pytest.param(3000, marks=pytest.mark.proof)])


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return conftest.benchmark("comparison")


@TRIES
@pytest.mark.parametrize("finalists", [1, 2, 5])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_false_alarms_are_at_most_5_percent(
    benchmark: ModuleType, finalists: int, correlation: float, tries: int
) -> None:
    found = benchmark.race(finalists, correlation, 0.0, False, 3, tries, np.random.default_rng(0))
    assert found.beats <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


@TRIES
@pytest.mark.parametrize("finalists", [2, 5])
def test_a_difference_is_seen_more_often_than_before(benchmark: ModuleType, finalists: int, tries: int) -> None:
    setting = finalists, 0.5, 1.0, False, 3, tries
    new = benchmark.race(*setting, np.random.default_rng(0))
    old = benchmark.before(*setting, np.random.default_rng(0))
    assert new.beats > 1.5 * old.beats
    assert new.trainings < 1.3 * old.trainings
