"""Another chance: a value that looked worse at first is found, and nothing changes while a search goes on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.strategies.saea import SAEA
from evo_tune.strategies.surrogate.chances import STALLED, another_chance
from evo_tune.strategies.surrogate.rounds import Bred, News
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation, birth_rng

SPACE = SearchSpace(x=Float(0, 1), y=Float(0, 1), depth=Int(1, 9), kind=Choice(("a", "b", "c")))


def standing(for_results: int, kinds: str = "aaaab", objectives: int = 1, out: int = 0) -> History:
    """Return a history whose best was told so many results before the last one, its kinds repeated in turn."""
    history, rng = History(SPACE, OBJECTIVES[:objectives]), birth_rng(1, 0)
    for id in range(20 + for_results + out):
        genome = {**SPACE.sample(rng), "kind": kinds[id % len(kinds)]}
        history.born(Candidate(id, 0, 0, id, genome, "random"))
        if id < 20 + for_results:
            loss = 0.0 if id == 19 else 1.0 + float(rng.random())
            history.tell(id, Outcome("ok", {"loss": loss, "cost": loss}))
    return history


def bred() -> list[Bred]:
    return [Bred(units, "mutation", (0,)) for units in birth_rng(2, 0).random((30, 4))]


def chance(history: History, chances: float = 1.0, seed: int = 0) -> str | None:
    found = another_chance(News.of(history, 0.0), bred(), chances, birth_rng(seed, 0))
    if found is None:
        return None
    assert found.operator == "chance"
    assert not history.seen(found.genome)
    assert SPACE.snap(SPACE.encode(found.genome)) == found.genome
    return str(found.genome["kind"])


def test_a_search_that_stands_tries_the_value_of_fewest_births() -> None:
    assert chance(standing(STALLED + 1)) == "c"
    assert chance(standing(STALLED + 1, "aaacccb")) == "b"
    assert {chance(standing(STALLED + 1, "aaaaaabc"), seed=seed) for seed in range(20)} == {"b", "c"}


def test_while_results_improve_there_is_no_chance_and_nothing_is_drawn() -> None:
    rng = birth_rng(0, 0)
    assert another_chance(News.of(standing(STALLED), 0.0), bred(), 1.0, rng) is None
    assert rng.random() == birth_rng(0, 0).random()


def test_results_that_were_out_when_the_best_was_told_do_not_say_that_it_stands() -> None:
    assert chance(standing(STALLED + 5, out=STALLED + 5)) is None
    assert chance(standing(STALLED + 6, out=STALLED + 5)) == "c"


def test_a_value_that_had_enough_births_gets_no_more() -> None:
    assert chance(standing(STALLED + 1, "abc")) == chance(standing(STALLED + 1, "acb")) is not None
    assert chance(standing(600, "aaab")) == "c"
    assert chance(standing(600, "abc")) is None


def test_there_are_as_many_chances_as_were_asked_for() -> None:
    history = standing(STALLED + 1)
    assert chance(history, 0.0) is None
    assert 20 < sum(chance(history, 0.3, seed) is not None for seed in range(100)) < 40


def test_several_objectives_and_spaces_without_such_a_gene_have_none() -> None:
    assert chance(standing(STALLED + 1, objectives=2)) is None
    space = SearchSpace(x=Float(0, 1), size=Choice((1, 2, 3), ordered=True))
    history = History(space, OBJECTIVES[:1])
    for id in range(40):
        history.born(Candidate(id, 0, 0, id, space.sample(birth_rng(0, id)), "random"))
        history.tell(id, Outcome("ok", {"loss": float(id)}))
    assert another_chance(News.of(history, 0.0), [], 1.0, birth_rng(0, 0)) is None


def test_a_place_is_chosen_by_what_is_known_of_the_value_alone() -> None:
    """Under a, the best lies at 0; under b it lies at 1, as six results show."""
    space = SearchSpace(x=Float(0, 1), kind=Choice(("a", "b")))
    history = History(space, OBJECTIVES[:1])
    for id in range(46):
        kind, x = ("b", 0.1 + 0.15 * id) if id < 6 else ("a", 0.02 * (id - 6))
        loss = 3.0 - x if kind == "b" else x
        history.born(Candidate(id, 0, 0, id, space.snap(space.encode({"x": x, "kind": kind})), "given"))
        history.tell(id, Outcome("ok", {"loss": loss}))
    found = [another_chance(News.of(history, 0.0), [], 1.0, birth_rng(seed, 0)) for seed in range(8)]
    assert [one.genome["kind"] for one in found if one] == ["b"] * 8
    assert np.median([float(one.genome["x"]) for one in found if one]) > 0.8


def test_when_all_of_a_value_is_born_the_birth_is_an_ordinary_one() -> None:
    space = SearchSpace(n=Int(1, 60), kind=Choice(("a", "b")), m=Int(1, 2))
    history = History(space, OBJECTIVES[:1])
    genomes = [{"n": n, "kind": "a", "m": 1} for n in range(1, 50)]
    for id, genome in enumerate(genomes):
        history.born(Candidate(id, 0, 0, id, genome, "given"))
        history.tell(id, Outcome("ok", {"loss": float(id)}))
    only = replace(SAEA(), chances=1.0, immigrants=0)
    proposal = only.propose(history, birth_rng(0, 99))
    assert proposal is not None
    assert (proposal.operator, proposal.genome["kind"]) == ("chance", "b")


def hidden(candidate: Candidate) -> Outcome:
    """Two kinds are best in the middle, where the default is, and good all over; c is better, at a corner only."""
    units, right = SPACE.encode(candidate.genome), candidate.genome["kind"] == "c"
    away = float(((units[:2] - (0.9 if right else 0.5)) ** 2).sum())
    return Outcome("ok", {"loss": 4.0 * away if right else 0.15 + 0.1 * away})


def test_what_looked_worse_at_first_is_found() -> None:
    def found(chances: float, seed: int) -> object:
        strategy = SAEA(chances=chances, rounds=0, trees=10, smooth=0.0)  # births by the process alone may find it
        run = Simulation(strategy, SPACE, OBJECTIVES[:1], hidden, births=45, seed=seed).run()
        return run.history.best and run.history.best.genome["kind"]

    seeds = (1, 2, 4)  # in each of which it is given up after two to four births
    assert [found(0.0, seed) for seed in seeds] == ["a"] * 3
    assert [found(0.5, seed) for seed in seeds] == ["c"] * 3


def test_a_chance_costs_little_more_in_a_long_run() -> None:
    costs = []
    for count in (STALLED + 50, 3_000):
        history, times = standing(count, "a" * 9 + "b"), []
        for id in range(5):
            start = time.process_time()
            assert chance(history, seed=id) == "c"
            times.append(time.process_time() - start)
        costs.append(min(times))
    assert costs[1] < 5 * costs[0]  # 45 times the results
