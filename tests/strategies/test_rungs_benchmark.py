"""The benchmarks behind `--fidelity auto` in short: benchmarks/fidelity.py pairs seeds, benchmarks/few.py trains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import conftest


def test_a_method_is_a_name_or_rungs_and_is_compared_by_seed() -> None:
    fidelity = conftest.benchmark("fidelity")
    assert fidelity.rules_of("prune").prune
    assert fidelity.rules_of("1/3,1").rungs == (1 / 3, 1.0)
    costs = np.array([1.0, 2.0])
    first = [fidelity.Played(costs, np.array([0.9, regret])) for regret in (0.5, 0.1)]
    second = [fidelity.Played(costs, np.array([0.9, regret])) for regret in (0.4, 0.2)]
    assert fidelity.against(second, first, 2.0) == "+0.000 ± 0.100"
    assert fidelity.against(second, first, 1.0) == "+0.000 ± 0.000"


@pytest.mark.slow
def test_a_search_of_few_trainings_is_scored_with_fresh_seeds() -> None:
    few = conftest.benchmark("few")
    loss, what = few.found("1/3,1", 1.4, 0, {"tokens": 2000, "schedule": "wsd"}, [])
    assert 0.0 < loss < math.log(256) + 1.0
    assert what.endswith("in full")
