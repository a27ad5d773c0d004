"""Rounds of mutation: they find what was not bred, snap only the best, and never return what was born."""

from __future__ import annotations

import numpy as np

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate
from evo_tune.strategies.surrogate.rounds import Bred, _rounded, _varied, searched
from tests.strategies.cases import OBJECTIVES, SPACES
from tests.strategies.simulate import birth_rng

PLANE = SearchSpace(x=Float(0, 1), y=Float(0, 1))
TARGET = np.array([0.613, 0.287])


def near(units: np.ndarray) -> np.ndarray:
    return -np.asarray(((units - TARGET) ** 2).sum(axis=1))


def begun(space: SearchSpace) -> History:
    history = History(space, OBJECTIVES[:1])
    history.born(Candidate(0, 0, 0, 0, space.default(), "default"))
    return history


def distance(rounds: int) -> float:
    bred = [Bred(row, "random", (0,)) for row in birth_rng(1, 0).random((20, 2))]
    found = searched(begun(PLANE), bred, near, rounds, birth_rng(0, 0))
    assert found is not None
    assert found.parents == (0,)
    return float(np.abs(PLANE.encode(found.genome) - TARGET).max())


def test_rounds_come_nearer_to_what_the_models_like() -> None:
    assert distance(6) < 0.2 * distance(0)
    assert distance(6) < 0.02


def test_what_was_born_is_passed_over_until_nothing_is_left() -> None:
    space = SearchSpace(depth=Int(1, 3), kind=Choice(("a", "b")))
    history = begun(space)
    for id in range(1, 6):
        bred = [Bred(space.encode(genome), "grid") for genome in space.grid()]
        found = searched(history, bred, lambda units: units.sum(axis=1), 3, birth_rng(0, id))
        assert found is not None
        assert not history.seen(found.genome)
        history.born(Candidate(id, 0, 0, 0, found.genome, found.operator))
    assert searched(history, bred, lambda units: units.sum(axis=1), 3, birth_rng(0, 9)) is None


def test_variants_stay_inside_and_each_differs() -> None:
    space = SPACES["mixed"]
    units = np.repeat(space.encode(space.default())[None], 200, axis=0)
    varied = _varied(units, space, birth_rng(0, 0), 0.1)
    assert np.all((varied >= 0.0) & (varied <= 1.0))
    assert np.all((varied != units).any(axis=1))
    assert (varied != units).mean() < 0.4


def test_coordinates_are_rounded_as_snapping_does_where_values_are_few() -> None:
    space = SearchSpace(x=Float(0, 1), depth=Int(1, 5), kind=Choice(("a", "b", "c")), batch=Choice((8, 16)))
    units = birth_rng(0, 0).random((50, 4))
    snapped = np.stack([space.encode(space.snap(row)) for row in units])
    assert np.allclose(_rounded(space, units), snapped, atol=1e-5)
