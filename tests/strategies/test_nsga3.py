"""NSGA-III: its survivors come nearer to a front of three objectives, and lie all over it."""

from __future__ import annotations

import numpy as np

from evo_tune.genome.genes import Float
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Minimize, Outcome
from evo_tune.strategies._deap import Individual, select_by_reference
from evo_tune.strategies.nsga3 import NSGA3
from evo_tune.strategies.random import Random
from tests.strategies.simulate import Simulation

SPACE = SearchSpace(**{f"x{i}": Float(0.0, 1.0) for i in range(6)})
THREE = [Minimize(name) for name in "abc"]


def sphere(candidate: Candidate) -> Outcome:
    """DTLZ2 (Deb et al., 2002): the front is an eighth of the unit sphere."""
    units = SPACE.encode(candidate.genome)
    one, other = units[:2] * np.pi / 2
    radius = 1.0 + ((units[2:] - 0.5) ** 2).sum()
    point = radius * np.array([np.cos(one) * np.cos(other), np.cos(one) * np.sin(other), np.sin(one)])
    return Outcome("ok", dict(zip("abc", point.tolist(), strict=True)))


def kept(strategy: NSGA3 | Random, seed: int) -> np.ndarray:
    """Return the losses of the twelve that NSGA-III would go on from, shape (12, 3)."""
    run = Simulation(strategy, SPACE, THREE, sphere, births=300, seed=seed, slots=2).run()
    pool = [Individual.of(trial, run.history) for trial in run.history.ranked()]
    if isinstance(strategy, NSGA3):
        survivors = set(strategy.survivors(run.history))
        return np.array([one.losses for one in pool if one.id in survivors])
    return np.array([one.losses for one in select_by_reference(pool, 12)])


def test_it_comes_nearer_to_the_front_than_random_search() -> None:
    bred, drawn = ([np.linalg.norm(kept(make(), seed), axis=1).mean() for seed in range(3)] for make in (NSGA3, Random))
    assert max(bred) < min(drawn)


def test_its_survivors_cover_the_front() -> None:
    for seed in range(3):
        directions = kept(NSGA3(), seed)
        assert len(directions) == 12
        assert np.all(directions.max(axis=0) > 0.9)  # near each end
        assert np.any(directions.min(axis=1) > 0.2)  # and in the middle
