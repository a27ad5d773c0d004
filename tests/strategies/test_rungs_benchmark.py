"""benchmarks/fidelity.py in short, the measurement behind `--fidelity auto`: seeds are paired, and costs counted."""

from __future__ import annotations

import numpy as np

from evo_tune import Choice, SearchSpace
from evo_tune.genome.trial import Candidate
from tests.conftest import benchmark


def test_a_method_is_a_name_or_rungs_and_is_compared_by_seed() -> None:
    fidelity = benchmark("fidelity")
    assert fidelity.rules_of("prune").prune
    assert fidelity.rules_of("1/3,1").rungs == (1 / 3, 1.0)
    costs = np.array([1.0, 2.0])
    first = [fidelity.Played(costs, np.array([0.9, regret])) for regret in (0.5, 0.1)]
    second = [fidelity.Played(costs, np.array([0.9, regret])) for regret in (0.4, 0.2)]
    assert fidelity.against(second, first, 2.0) == "+0.000 ± 0.100"
    assert fidelity.against(second, first, 1.0) == "+0.000 ± 0.000"


def test_a_curve_that_becomes_missing_has_diverged() -> None:
    fidelity = benchmark("fidelity")
    space = SearchSpace(x=Choice((1, 2, 3)))
    curves = {(1,): np.array([1.0, 0.5]), (2,): np.array([1.0, np.nan]), (3,): np.array([1.0, 0.9])}
    table = fidelity.Table("table", space, curves)
    assert (table.best, table.median) == (0.5, 0.7)
    for start, budget, status, end in [(0.0, 0.5, "ok", 0.5), (0.5, 1.0, "diverged", 1.0)]:
        candidate = Candidate(0, 0, 0, 0, {"x": 2}, "given", budget=budget)
        outcome, ended = table.train(candidate, start)
        assert (outcome.status, ended) == (status, end)
