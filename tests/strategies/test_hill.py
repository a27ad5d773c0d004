"""Hill climbing: each move is to a better neighbour, and a climb at its top is followed by another."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evo_tune.errors import RecipeError
from evo_tune.genome.genes import Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.strategies.hill import Hill
from evo_tune.strategies.random import Random
from tests.strategies.bowl import BOWL, best_of, bowl
from tests.strategies.cases import OBJECTIVES, SPACES, failing
from tests.strategies.simulate import Simulation


@pytest.mark.parametrize("slots", [1, 4])
def test_it_beats_random_search_clearly(slots: int) -> None:
    climbed = [best_of(Hill(), seed, slots) for seed in range(6)]
    drawn = [best_of(Random(), seed, slots) for seed in range(6)]
    assert np.median(climbed) < 0.3 * np.median(drawn)


def test_neighbours_differ_in_one_gene_and_the_best_of_a_climb_is_their_parent() -> None:
    run = Simulation(Hill(), BOWL, OBJECTIVES[:1], bowl, births=60).run()
    climb: dict[int, int] = {}
    best: dict[int, tuple[float, int]] = {}
    for candidate in run.candidates:
        start = climb[candidate.id] = climb[candidate.parents[0]] if candidate.parents else candidate.id
        if candidate.parents:
            parent = run.candidates[candidate.parents[0]]
            assert sum(parent.genome[name] != value for name, value in candidate.genome.items()) == 1
            assert candidate.parents == (best[start][1],)
        loss = bowl(candidate).metrics["loss"]
        best[start] = min(best.get(start, (math.inf, -1)), (loss, candidate.id))


def test_a_climb_at_its_top_is_followed_by_another() -> None:
    space = SearchSpace(n=Int(0, 40))

    def evaluate(candidate: Candidate) -> Outcome:  # every third n is a local minimum, 33 the lowest
        n = int(candidate.genome["n"])
        return Outcome("ok", {"loss": abs(n - 33) / 10 + n % 3})

    run = Simulation(Hill(step=0.05), space, OBJECTIVES[:1], evaluate, births=41).run()
    assert sum(candidate.operator == "start" for candidate in run.candidates) > 3
    assert run.history.best is not None
    assert run.history.best.genome == {"n": 33}


def test_steps_become_small() -> None:
    space = SearchSpace(x=Float(0, 1), y=Float(1, 100, log=True))

    def evaluate(candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - [0.318, 0.641]) ** 2).sum())})

    run = Simulation(Hill(min_step=0.005), space, OBJECTIVES[:1], evaluate, births=80).run()
    assert run.history.best is not None
    assert run.history.best.losses is not None
    assert run.history.best.losses[0] < 2 * 0.005**2


def test_if_neighbours_fail_it_continues_from_the_best() -> None:
    run = Simulation(Hill(), SPACES["mixed"], OBJECTIVES[:1], failing(0.5, SPACES["mixed"]), births=40, slots=3).run()
    good = {trial.id for trial in run.history.trials if trial.ok}
    assert {parent for candidate in run.candidates for parent in candidate.parents} <= good
    assert any(candidate.parents for candidate in run.candidates)


def test_a_smallest_step_above_the_largest_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"min_step=0\.3 is not allowed: expected at most step=0\.2"):
        Hill(min_step=0.3)
