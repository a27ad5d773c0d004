"""The file that imports DEAP: its operators in unit coordinates, and the traps of users.md."""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from deap import creator, tools

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Minimize, Outcome
from evo_tune.strategies._deap import (
    Individual,
    best_by_crowding,
    crossover,
    deap_generator,
    mutate,
    select_by_crowding,
    select_by_reference,
    tournament,
    tournament_by_crowding,
)
from tests.strategies.cases import SPACES, same_state

RNG = np.random.default_rng


def pool_of(*losses: tuple[float, ...]) -> list[Individual]:
    return [Individual(id, loss, [0.5]) for id, loss in enumerate(losses)]


def test_the_global_generators_are_neither_used_nor_changed() -> None:
    pool = pool_of(*((float(i), float(-i)) for i in range(9)))

    def drawn() -> tuple[list[int], list[int]]:
        with deap_generator(RNG(3)):
            random.seed(next(noise))  # as another thread of the program may, at any moment
            np.random.seed(next(noise))
            won = [tournament(pool, 2).id for _ in range(20)]
        return won, [one.id for one in select_by_reference(pool, 4)]

    noise = iter(range(9))
    assert drawn() == drawn()
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()
    with contextlib.suppress(ZeroDivisionError), deap_generator(RNG(3)):
        tournament(pool, 2)
        raise ZeroDivisionError
    select_by_reference(pool, 4)
    assert random.getstate() == before[0]
    assert same_state(np.random.get_state(), before[1])  # type: ignore[arg-type]


def users_program(seed: int) -> list[float]:
    """Return what a DEAP program of a user draws: selections, children and niches."""
    random.seed(seed)
    np.random.seed(seed)
    pool = [Individual(id, (float(id % 3), float(-id), float(id % 5)), [0.1 * id, 0.5]) for id in range(12)]
    points = tools.uniform_reference_points(3, 4)
    drawn: list[float] = []
    for _ in range(20):
        drawn += [one.id for one in tools.selTournament(pool, 3, 2)]
        drawn += [one.id for one in tools.selTournamentDCD(tools.selNSGA2(pool, 8), 4)]
        drawn += [one.id for one in tools.selNSGA3(pool, 5, points)]
        for child in tools.cxSimulatedBinaryBounded([0.2, 0.8], [0.6, 0.4], 10.0, 0.0, 1.0):
            drawn += child
    return drawn


PROGRAM = """
import random, sys
import numpy as np
from deap import base, tools
{imports}
random.seed(5)
np.random.seed(5)
pool = [[0.1 * id, 0.5] for id in range(12)]
for id, one in enumerate(pool):
    fitness = base.Fitness.__new__(base.Fitness)
    fitness.weights, fitness.wvalues = (-1.0, -1.0, -1.0), (-float(id % 3), float(id), -float(id % 5))
    class Single(list): pass
    pool[id] = Single(one); pool[id].fitness = fitness; pool[id].id = id
{use}
points = tools.uniform_reference_points(3, 4)
print([one.id for one in tools.selTournament(pool, 30, 2)], [one.id for one in tools.selNSGA3(pool, 5, points)],
      tools.cxSimulatedBinaryBounded([0.2, 0.8], [0.6, 0.4], 10.0, 0.0, 1.0), random.random(), np.random.random())
"""

USE = """
pool_of = [Individual(id, (float(id), -float(id)), [0.5]) for id in range(9)]
with deap_generator(np.random.default_rng(3)):
    tournament(pool_of, 2)
select_by_reference(pool_of, 4)
"""


def test_a_users_own_program_draws_the_same_with_and_without_evo_tune() -> None:
    """In fresh interpreters: imported and used, or neither; and inside the block that has our generator."""
    imports = "from evo_tune.strategies._deap import Individual, deap_generator, select_by_reference, tournament"
    programs = [PROGRAM.format(imports="", use=""), PROGRAM.format(imports=imports, use=USE)]
    first, second = (subprocess.check_output([sys.executable, "-c", program]) for program in programs)
    assert first == second
    alone = users_program(7)
    with deap_generator(RNG(3)):
        assert users_program(7) == alone


def test_a_users_own_program_in_another_thread_draws_the_same() -> None:
    alone, pool, stop = users_program(7), pool_of(*((float(i), float(-i)) for i in range(9))), threading.Event()

    def search() -> None:
        while not stop.is_set():
            with deap_generator(RNG(3)):
                tournament(pool, 2)
            select_by_reference(pool, 4)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        assert all(users_program(7) == alone for _ in range(20))
    finally:
        stop.set()
        thread.join()


def test_two_threads_do_not_share_a_generator() -> None:
    pool = pool_of(*((float(i),) for i in range(9)))

    def drawn(seed: int) -> list[int]:
        with deap_generator(RNG(seed)):
            return [tournament(pool, 2).id for _ in range(200)]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(drawn, [1, 2] * 20)) == [drawn(1), drawn(2)] * 20


def test_the_better_wins_a_tournament() -> None:
    pool = pool_of((3.0,), (1.0,), (2.0,))
    with deap_generator(RNG(0)):
        assert {tournament(pool, 50).id for _ in range(10)} == {1}
        assert {tournament(pool, 1).id for _ in range(50)} == {0, 1, 2}


@pytest.mark.parametrize("size", range(1, 10))
def test_a_crowded_tournament_takes_a_pool_of_any_size(size: int) -> None:
    pool = select_by_crowding(pool_of(*((float(i), float(-i)) for i in range(size))), size)
    with deap_generator(RNG(0)):
        pairs = [tournament_by_crowding(pool) for _ in range(200)]
    assert {one.id for pair in pairs for one in pair} == set(range(size))
    assert all(a.id != b.id for a, b in pairs) or size < 4


def test_dominance_wins_a_crowded_tournament() -> None:
    pool = select_by_crowding(pool_of((0.0, 0.0), *((1.0 + i, 9.0 - i) for i in range(3))), 4)
    with deap_generator(RNG(0)):
        wins = [one.id for _ in range(300) for one in tournament_by_crowding(pool)]
    assert wins.count(0) > 100


def test_a_selection_does_not_change_its_arguments() -> None:
    pool = pool_of((1.0, 2.0), (2.0, 1.0), (3.0, 3.0))
    kept = select_by_crowding(pool, 2)
    assert [one.id for one in kept] == [0, 1]
    assert all(one.fitness.crowding_dist == 0.0 for one in pool)
    assert not {id(one) for one in kept} & {id(one) for one in pool}
    assert select_by_crowding([], 4) == []


@pytest.mark.parametrize(
    "losses",
    [
        [(1.7e308, -1.7e308), (-1.7e308, 1.7e308), (0.0, 0.0)],
        [(1.7e308, -1.7e308), (-1.7e308, 1.7e308), (0.0, 0.0), (1.0, -1.0)],
        [(1.0, 1.0)] * 5,
        [(0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.0)],
        [(5e-324, 1.0), (0.0, 2.0), (1.0, 0.0)],
        [(float(i), -float(i), 1.0) for i in range(9)],
    ],
)
def test_crowding_distances_are_numbers(losses: list[tuple[float, ...]]) -> None:
    kept = select_by_crowding(pool_of(*losses), len(losses))
    assert sorted(one.id for one in kept) == list(range(len(losses)))
    assert not any(math.isnan(one.fitness.crowding_dist) for one in kept)


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_a_selection_by_reference_is_the_same_for_the_same_pool(objectives: int) -> None:
    losses = RNG(0).random((30, objectives))
    pool = pool_of(*(tuple(row) for row in losses.tolist()))
    before = np.random.get_state()
    first = [one.id for one in select_by_reference(pool, 7)]
    np.random.seed(4)
    assert [one.id for one in select_by_reference(pool, 7)] == first
    np.random.set_state(before)
    assert len(set(first)) == 7
    dominated = [any(np.all(other <= row) and np.any(other < row) for other in losses) for row in losses]
    best = {id for id, is_dominated in enumerate(dominated) if not is_dominated}
    assert set(first) <= best or best <= set(first)


def test_losses_of_any_size_can_be_selected_by_reference() -> None:
    huge = [(1.7e308, -1.7e308, 0.0), (-1.7e308, 1.7e308, 0.0), (0.0, 0.0, 0.0), (1.0, -1.0, 0.0)]
    assert len(select_by_reference(pool_of(*huge, *([(1.0, 1.0, 1.0)] * 5)), 3)) == 3
    assert select_by_reference([], 3) == []


def test_nothing_is_registered_with_the_creator() -> None:
    before = set(vars(creator))
    select_by_crowding(pool_of((1.0, 2.0), (2.0, 1.0)), 1)
    assert set(vars(creator)) == before


def test_a_child_has_its_parents_values() -> None:
    space = SearchSpace(a=Choice(tuple("abcdef")), b=Choice(tuple("abcdef")), c=Choice(tuple("abcdef")))
    first, second = [1 / 12, 5 / 12, 9 / 12], [3 / 12, 7 / 12, 11 / 12]
    children = set()
    with deap_generator(RNG(0)):
        for _ in range(200):
            child = crossover(first, second, space)
            assert all(u in (a, b) for u, a, b in zip(child, first, second, strict=True))
            children.add(tuple(child))
    assert len(children) == 8
    assert (first, second) == ([1 / 12, 5 / 12, 9 / 12], [3 / 12, 7 / 12, 11 / 12])


def test_an_ordered_child_is_near_a_parent_and_inside() -> None:
    space = SearchSpace(x=Float(0, 1), n=Int(1, 99))
    with deap_generator(RNG(0)):
        children = np.array([crossover([0.0, 0.2], [1.0, 0.6], space) for _ in range(500)])
    assert children.min() >= 0.0
    assert children.max() <= 1.0
    near = np.minimum(abs(children[:, 1] - 0.2), abs(children[:, 1] - 0.6))
    assert np.median(near) < 0.02
    assert near.max() > 0.02
    assert 0.1 < (children[:, 1] > 0.4).mean() < 0.4


def test_equal_parents_have_the_same_child() -> None:
    units = SPACES["mixed"].encode(SPACES["mixed"].default()).tolist()
    with deap_generator(RNG(0)):
        assert crossover(units, units, SPACES["mixed"]) == units


@pytest.mark.parametrize(("rate", "low", "high"), [(0.0, 1, 1), (2.4, 1, 7), (8.0, 8, 8)])
def test_at_least_one_gene_mutates(rate: float, low: int, high: int) -> None:
    space = SPACES["mixed"]
    units = space.encode(space.default()).tolist()
    counts = [
        sum(a != b for a, b in zip(mutate(units, space, RNG(seed), rate, 0.1), units, strict=True))
        for seed in range(200)
    ]
    assert (min(counts), max(counts)) == (low, pytest.approx(high, abs=2 if rate == 2.4 else 0))


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("values", [4, 12, 10**6])
def test_best_of_a_run_equals_a_selection_of_all_trials(objectives: int, values: int) -> None:
    goals = [Minimize(name) for name in "abc"[:objectives]]
    for seed in range(5):
        rng, history = RNG(seed), RunHistory(SPACES["mixed"], goals)
        for id in range(int(rng.integers(1, 70))):
            history.add_candidate(Candidate(id, 0, 0, id, SPACES["mixed"].sample(rng), "random"))
            metrics = {goal.metric: float(rng.integers(values)) for goal in goals}
            history.tell(id, Outcome("ok", metrics) if rng.random() < 0.9 else Outcome("failed"))
            pool = [Individual.of(trial, history) for trial in history.ranking]
            found = best_by_crowding(history, 12)
            wanted = select_by_crowding(pool, 12)
            assert [one.id for one in found.values()] == [one.id for one in wanted]
            assert [one.fitness.crowding_dist for one in found.values()] == [
                one.fitness.crowding_dist for one in wanted
            ]
            assert all(history.ranking[row].id == one.id for row, one in found.items())
