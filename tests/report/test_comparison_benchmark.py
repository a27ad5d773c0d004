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


@pytest.mark.parametrize("tries", [1000, pytest.param(20_000, marks=pytest.mark.proof)])
@pytest.mark.parametrize("cap", [1, 2, 3])
@pytest.mark.parametrize("metric", ["two-valued", "rounded", "binomial"])
def test_a_metric_of_few_values_raises_no_more_false_alarms(
    benchmark: ModuleType, metric: str, cap: int, tries: int
) -> None:
    found = benchmark.race(1, 0.0, 0.0, False, cap, tries, np.random.default_rng(0), metric)
    assert found.beats <= 0.05 + (3 * math.sqrt(0.05 * 0.95 / tries) if tries < 20_000 else 0.0)


@TRIES
@pytest.mark.parametrize("finalists", [2, 5])
def test_a_difference_is_seen_more_often_than_before(benchmark: ModuleType, finalists: int, tries: int) -> None:
    setting = finalists, 0.5, 1.0, False, 3, tries
    new = benchmark.race(*setting, np.random.default_rng(0))
    old = benchmark.before(*setting, np.random.default_rng(0))
    assert new.beats > 1.5 * old.beats
    assert new.trainings < 1.3 * old.trainings
