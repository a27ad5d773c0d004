"""NSGA-II: the front survives, and DEAP's traps are shut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evo_tune.genome.genes import Float
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.strategies.nsga2 import NSGA2
from evo_tune.strategies.random import Random
from tests.strategies.cases import OBJECTIVES, SPACES, failing, losses
from tests.strategies.simulate import Simulation


def front(trials: list[Trial]) -> set[int]:
    """Return the ids of the trials that no other dominates, by the definition."""

    def dominates(one: Trial, other: Trial) -> bool:
        assert one.losses is not None
        assert other.losses is not None
        return one.losses != other.losses and all(a <= b for a, b in zip(one.losses, other.losses, strict=True))

    return {trial.id for trial in trials if not any(dominates(other, trial) for other in trials)}


@pytest.mark.parametrize("generational", [False, True])
@pytest.mark.parametrize("space", ["mixed", "one-float", "choices"])
def test_a_front_that_fits_survives_whole(space: str, generational: bool) -> None:
    strategy = NSGA2(population=30, generational=generational)
    run = Simulation(strategy, SPACES[space], OBJECTIVES, failing(0.2, SPACES[space]), births=60, slots=3).run()
    best = front([trial for trial in run.history.trials if trial.ok])
    survivors = set(strategy.survivors(run.history))
    assert len(survivors) == 30
    assert best <= survivors or len(best) > 30


def test_a_front_too_large_keeps_its_ends() -> None:
    strategy = NSGA2(population=4)
    space = SPACES["one-float"]
    run = Simulation(strategy, space, OBJECTIVES, losses(space), births=50).run()
    trials = {trial.id: trial for trial in run.history.trials}
    kept = [trials[id].losses or () for id in strategy.survivors(run.history)]
    for objective in range(2):
        assert min(loss[objective] for loss in kept) == min((t.losses or ())[objective] for t in trials.values())


def test_it_finds_a_better_front_than_random_search() -> None:
    space = SearchSpace(**{f"x{i}": Float(0.0, 1.0) for i in range(6)})

    def evaluate(candidate: Candidate) -> Outcome:  # ZDT1 (Zitzler et al., 2000)
        units = space.encode(candidate.genome)
        g = 1 + 9 * units[1:].mean()
        return Outcome("ok", {"loss": float(units[0]), "cost": float(g * (1 - np.sqrt(units[0] / g)))})

    def area(strategy: NSGA2 | Random, seed: int) -> float:
        run = Simulation(strategy, space, OBJECTIVES, evaluate, births=120, seed=seed, slots=3).run()
        points = sorted(t.losses for t in run.history.trials if t.losses is not None and t.losses[1] < 5)
        corners = [(0.0, 5.0), *points, (1.0, 0.0)]
        lowest = np.minimum.accumulate([cost for _, cost in corners[:-1]])
        return float(sum(low * (b[0] - a[0]) for low, (a, b) in zip(lowest, itertools.pairwise(corners), strict=True)))

    bred, drawn = ([area(make(), seed) for seed in range(5)] for make in (NSGA2, Random))
    assert max(bred) < min(drawn)


def test_equal_losses_are_selected() -> None:
    def evaluate(candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": 1.0, "cost": float(candidate.id % 2)})

    for generational in (False, True):
        strategy = NSGA2(population=4, generational=generational)
        run = Simulation(strategy, SPACES["mixed"], OBJECTIVES, evaluate, births=40).run()
        assert len(run.candidates) == 40
        assert len(strategy.survivors(run.history)) == 4
