"""Rounds of mutation: they find what was not bred, snap only the best, and return what is new, and not too near."""

from __future__ import annotations

import numpy as np
import pytest

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.strategies.surrogate.rounds import RECENT, Bred, News, _rounded, _varied, searched
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
    found = searched(News.of(begun(PLANE), 0.0), bred, near, rounds, birth_rng(0, 0))
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
        found = searched(News.of(history, 0.0), bred, lambda units: units.sum(axis=1), 3, birth_rng(0, id))
        assert found is not None
        assert not history.seen(found.genome)
        history.born(Candidate(id, 0, 0, 0, found.genome, found.operator))
    assert searched(News.of(history, 0.0), bred, lambda units: units.sum(axis=1), 3, birth_rng(0, 9)) is None


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


def grown(space: SearchSpace, *genomes: dict[str, object], told: int = 0) -> History:
    """Return a history of births, of which the first so many are told, the first one being the best."""
    history = History(space, OBJECTIVES[:1])
    for id, genome in enumerate(genomes):
        history.born(Candidate(id, 0, 0, 0, space.check(genome), "given"))
    for id in range(told):
        history.tell(id, Outcome("ok", {"loss": float(id)}))
    return history


NARROW = SearchSpace(x=Float(0, 1), width=Int(8, 1024), depth=Int(1, 8), kind=Choice(("a", "b")))
HERE = {"x": 0.5, "width": 500, "depth": 4, "kind": "a"}


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({}, False),
        ({"x": 0.51}, False),
        ({"x": 0.49, "width": 515}, False),  # each gene is near, however many are changed
        ({"x": 0.531}, True),
        ({"width": 540}, True),
        ({"x": 0.51, "depth": 5}, True),  # of few values none are near
        ({"kind": "b"}, True),
    ],
)
def test_what_is_near_in_every_gene_is_not_new(change: dict[str, object], new: bool) -> None:
    history = grown(NARROW, HERE)
    genome = NARROW.check({**HERE, **change})
    assert News.of(history, 0.03)(genome) is new
    assert News.of(history, 0.0)(genome) is bool(change)


def test_births_are_kept_apart_from_the_latest_and_from_the_best_however_old() -> None:
    others = [{"x": place / 2000, "width": 100, "depth": 2, "kind": "b"} for place in range(RECENT + 20)]
    near = NARROW.check({**HERE, "x": 0.51})
    assert not News.of(grown(NARROW, HERE, *others, told=1), 0.03)(near)
    assert News.of(grown(NARROW, HERE, *others), 0.03)(near)  # neither told nor recent: forgotten
    assert not News.of(grown(NARROW, *others, HERE), 0.03)(near)


def test_only_what_is_new_is_found_by_rounds_and_among_what_was_bred() -> None:
    history = grown(PLANE, {"x": float(TARGET[0]), "y": float(TARGET[1])})
    bred = [Bred(row, "random") for row in birth_rng(1, 0).random((20, 2))]
    bred.append(Bred(TARGET + 0.01, "random"))
    found = searched(News.of(history, 0.05), bred, near, 6, birth_rng(0, 0))
    assert found is not None
    assert 0.05 <= np.abs(PLANE.encode(found.genome) - TARGET).max() < 0.1
    assert len(list(News.of(history, 0.05).of_bred(bred))) == 20
    assert len(list(News.of(history, 0.0).of_bred(bred))) == 21
