"""Proposals that strategies share: spread out, new while there is room; and seeds for folds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evo_tune import strategies
from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.space import SearchSpace, log_prior
from evo_tune.genome.trial import Candidate, Outcome, Proposal
from evo_tune.genome.values import Genome, genome_key
from evo_tune.strategies import fold_seed, fresh, spread, unseen
from tests.strategies.cases import OBJECTIVES, SPACES
from tests.strategies.simulate import birth_rng

PLANE = SearchSpace(x=Float(0, 1), y=Float(0, 1))


def history_of(space: SearchSpace, *genomes: Genome, told: int = 0) -> History:
    history = RunHistory(space, OBJECTIVES[:1])
    for id, genome in enumerate(genomes):
        history.add_candidate(Candidate(id, 0, 0, 0, genome, "given"))
    for id in range(told):
        history.tell(id, Outcome("ok", {"loss": 0.0}))
    return history


def nearest(history: History) -> float:
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(history.proposed_units, 2))


def grow(history: History, make: object, births: int, seed: int) -> History:
    for _ in range(births):
        proposal = make(history, birth_rng(seed, history.proposed_count))  # type: ignore[operator]
        history.add_candidate(Candidate(history.proposed_count, 0, 0, 0, proposal.genome, proposal.operator))
    return history


def test_the_first_proposals_are_spread_out() -> None:
    spreads = [nearest(grow(history_of(PLANE, PLANE.default()), spread, 8, seed)) for seed in range(10)]
    randoms = [nearest(grow(history_of(PLANE, PLANE.default()), unseen, 8, seed)) for seed in range(10)]
    assert np.median(spreads) > 2 * np.median(randoms)


def test_spread_keeps_away_from_existing_genomes() -> None:
    corner = [{"x": x / 100, "y": y / 100} for x in range(50) for y in range(50)]
    history = history_of(PLANE, *corner)
    for seed in range(20):
        proposal = spread(history, birth_rng(seed, 0))
        assert proposal is not None
        assert max(proposal.genome.values()) > 0.7  # type: ignore[type-var,operator]


def test_spread_genomes_are_likely_under_the_priors() -> None:
    space = SearchSpace(**{f"x{n}": Float(0, 1, prior=0.5, spread=0.1) for n in range(12)})
    histories = [grow(history_of(space, space.default()), spread, 3, seed) for seed in range(20)]
    found = [units for history in histories for units in history.proposed_units[1:]]
    likely = log_prior(space.genes, np.stack(found))
    random = log_prior(space.genes, np.stack([space.encode(space.sample_prior(birth_rng(9, n))) for n in range(200)]))
    assert likely.mean() > np.quantile(random, 0.2)


def test_choices_without_order_are_all_equally_far() -> None:
    space = SearchSpace(kind=Choice(tuple("abcdefgh")), x=Float(0, 1))
    history = grow(history_of(space), spread, 8, 0)
    assert len({history.pending[id].genome["kind"] for id in range(8)}) >= 6


def test_the_first_unseen_child_is_taken() -> None:
    space = SearchSpace(n=Int(1, 9))
    children = [Proposal({"n": n}, "child") for n in (1, 2, 3, 4)]
    asked = []

    def each() -> object:
        for child in children:
            asked.append(child.genome["n"])
            yield child

    chosen = fresh(history_of(space, {"n": 1}, {"n": 2}), birth_rng(0, 0), each())  # type: ignore[arg-type]
    assert chosen == children[2]
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("told", [0, 100, 4094])
def test_the_last_genome_of_a_large_grid_is_found(told: int) -> None:
    space = SearchSpace(**{f"g{i}": Int(0, 7) for i in range(4)})
    genomes = list(space.grid())
    last = genomes.pop(1234)
    history = history_of(space, *genomes, told=told)
    assert unseen(history, birth_rng(0, 0)) == Proposal(last, "enumeration")
    history.add_candidate(Candidate(len(genomes), 0, 0, 0, last, "given"))
    assert unseen(history, birth_rng(0, 0)) is None


def test_enumeration_is_a_function_of_history() -> None:
    space = SearchSpace(n=Int(1, 100))
    genomes = [{"n": n} for n in range(1, 98)]
    lived, read = history_of(space, *genomes), history_of(space, *genomes, told=90)
    for id in range(90):  # one is asked all along, the other at the end only
        unseen(lived, birth_rng(0, id))
        lived.tell(id, Outcome("ok", {"loss": 0.0}))
    found = {genome_key((unseen(history, birth_rng(1, 0)) or Proposal({}, "")).genome) for history in (lived, read)}
    assert len(found) == 1
    draws = {genome_key((unseen(lived, birth_rng(seed, 0)) or Proposal({}, "")).genome) for seed in range(60)}
    assert len(draws) == 3


def test_other_budgets_and_extra_seeds_leave_room() -> None:
    space = SearchSpace(n=Int(1, 2))
    history = RunHistory(space, OBJECTIVES[:1])
    history.add_candidate(Candidate(0, 0, 0, 0, {"n": 1}, "given", budget=0.5))
    history.add_candidate(Candidate(1, 0, 0, 0, {"n": 2}, "given", extra_seed=1))
    for id in range(2):
        history.tell(id, Outcome("ok", {"loss": 0.0}))
    for id in (2, 3):
        proposal = unseen(history, birth_rng(0, id))
        assert proposal is not None
        history.add_candidate(Candidate(id, 0, 0, 0, proposal.genome, "given"))
    assert unseen(history, birth_rng(0, 4)) is None


def test_a_large_space_counts_as_exhausted_after_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "LAST_DRAWS", 200)
    space = SearchSpace(repair=lambda genome: {"x": float(round(genome["x"]))}, x=Float(0, 1))
    history = grow(history_of(space), unseen, 2, 0)
    assert {candidate.genome["x"] for candidate in history.pending} == {0.0, 1.0}
    assert unseen(history, birth_rng(0, 9)) is None


def test_random_proposals_are_uniform_on_the_scale_of_each_gene() -> None:
    history = grow(history_of(SPACES["mixed"]), unseen, 400, 0)
    drawn = np.stack([units[[0, 6]] for units in history.proposed_units])  # lr, on its log scale, and dropout
    assert np.allclose(drawn.mean(axis=0), 0.5, atol=0.06)
    assert np.allclose(drawn.std(axis=0), np.sqrt(1 / 12), atol=0.03)


def test_the_seed_of_a_fold_depends_on_the_trials_and_not_on_their_order() -> None:
    assert fold_seed([3, 4, 9]) == fold_seed([9, 3, 4]) == 16
    assert fold_seed([2**32 - 1, 2]) == 1
    assert len({fold_seed([id]) for id in range(100)}) == 100
