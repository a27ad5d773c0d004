"""Candidates of saea: searches around them find new genomes, and a stalled search tries a rare value."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.strategies import _candidates, _models, saea
from evo_tune.strategies._candidates import (
    MAX_RECENT_TRIALS,
    RESULTS_UNTIL_STALLED,
    Draft,
    Novelty,
    move_to_cell_centres,
    propose_rare_value,
    search_around,
)
from evo_tune.strategies._models import Feasibility
from evo_tune.strategies.saea import SAEA
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation, birth_rng

PLANE = SearchSpace(x=Float(0, 1), y=Float(0, 1))
TARGET = np.array([0.613, 0.287])


def near(units: np.ndarray) -> np.ndarray:
    return -np.asarray(((units - TARGET) ** 2).sum(axis=1))


def begun(space: SearchSpace) -> History:
    history = RunHistory(space, OBJECTIVES[:1])
    history.add_candidate(Candidate(0, 0, 0, 0, space.default(), "default"))
    return history


def distance(rounds: int = _candidates.ROUNDS) -> float:
    bred = [Draft(row, "random", (0,)) for row in birth_rng(1, 0).random((20, 2))]
    found = search_around(Novelty.of(begun(PLANE), 0.0), bred, near, birth_rng(0, 0), rounds)
    assert found is not None
    assert found.parents == (0,)
    return float(np.abs(PLANE.encode(found.genome) - TARGET).max())


def test_rounds_come_nearer_to_what_the_models_like() -> None:
    searched = distance()
    assert searched < 0.2 * distance(rounds=0)
    assert searched < 0.02


def test_search_skips_seen_genomes_until_none_is_left() -> None:
    space = SearchSpace(depth=Int(1, 3), kind=Choice(("a", "b")))
    history = begun(space)
    for id in range(1, 6):
        bred = [Draft(space.encode(genome), "grid") for genome in space.grid()]
        found = search_around(Novelty.of(history, 0.0), bred, lambda units: units.sum(axis=1), birth_rng(0, id))
        assert found is not None
        assert not history.seen(found.genome)
        history.add_candidate(Candidate(id, 0, 0, 0, found.genome, found.operator))
    assert search_around(Novelty.of(history, 0.0), bred, lambda units: units.sum(axis=1), birth_rng(0, 9)) is None


def test_coordinates_of_genes_with_few_values_arerounded_as_by_snapping() -> None:
    space = SearchSpace(x=Float(0, 1), depth=Int(1, 5), kind=Choice(("a", "b", "c")), batch=Choice((8, 16)))
    units = birth_rng(0, 0).random((50, 4))
    snapped = np.stack([space.encode(space.snap(row)) for row in units])
    assert np.allclose(move_to_cell_centres(space, units), snapped, atol=1e-5)


def grown(space: SearchSpace, *genomes: dict[str, object], told: int = 0) -> History:
    """Return a history of births, of which the first so many are told, the first one being the best."""
    history = RunHistory(space, OBJECTIVES[:1])
    for id, genome in enumerate(genomes):
        history.add_candidate(Candidate(id, 0, 0, 0, space.check(genome), "given"))
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
def test_genomes_near_in_every_gene_are_not_new(change: dict[str, object], new: bool) -> None:
    history = grown(NARROW, HERE)
    genome = NARROW.check({**HERE, **change})
    assert (Novelty.of(history, 0.03).units_if_new(genome) is not None) is new
    assert (Novelty.of(history, 0.0).units_if_new(genome) is not None) is bool(change)


def test_proposals_keep_apart_from_the_latest_and_the_best_trials() -> None:
    others = [{"x": place / 2000, "width": 100, "depth": 2, "kind": "b"} for place in range(MAX_RECENT_TRIALS + 20)]
    near = NARROW.check({**HERE, "x": 0.51})
    assert Novelty.of(grown(NARROW, HERE, *others, told=1), 0.03).units_if_new(near) is None
    assert (
        Novelty.of(grown(NARROW, HERE, *others), 0.03).units_if_new(near) is not None
    )  # neither told nor recent: forgotten
    assert Novelty.of(grown(NARROW, *others, HERE), 0.03).units_if_new(near) is None


def test_searches_and_drafts_yield_only_new_genomes() -> None:
    history = grown(PLANE, {"x": float(TARGET[0]), "y": float(TARGET[1])})
    bred = [Draft(row, "random") for row in birth_rng(1, 0).random((20, 2))]
    bred.append(Draft(TARGET + 0.01, "random"))
    found = search_around(Novelty.of(history, 0.05), bred, near, birth_rng(0, 0))
    assert found is not None
    assert 0.05 <= np.abs(PLANE.encode(found.genome) - TARGET).max() < 0.1
    assert len(list(Novelty.of(history, 0.05).filter_new(bred))) == 20
    assert len(list(Novelty.of(history, 0.0).filter_new(bred))) == 21


KINDS = SearchSpace(x=Float(0, 1), y=Float(0, 1), depth=Int(1, 9), kind=Choice(("a", "b", "c")))


def standing(for_results: int, kinds: str = "aaaab", objectives: int = 1, out: int = 0) -> History:
    """Return a history whose best was told so many results before the last one, its kinds repeated in turn."""
    history, rng = RunHistory(KINDS, OBJECTIVES[:objectives]), birth_rng(1, 0)
    for id in range(20 + for_results + out):
        genome = {**KINDS.sample(rng), "kind": kinds[id % len(kinds)]}
        history.add_candidate(Candidate(id, 0, 0, id, genome, "random"))
        if id < 20 + for_results:
            loss = 0.0 if id == 19 else 1.0 + float(rng.random())
            history.tell(id, Outcome("ok", {"loss": loss, "cost": loss}))
    return history


def drafts() -> list[Draft]:
    return [Draft(units, "mutation", (0,)) for units in birth_rng(2, 0).random((30, 4))]


def chance(history: History, chances: float = 1.0, seed: int = 0) -> str | None:
    found = propose_rare_value(Novelty.of(history, 0.0), drafts(), chances, birth_rng(seed, 0), None)
    if found is None:
        return None
    assert found.operator == "chance"
    assert not history.seen(found.genome)
    assert KINDS.snap(KINDS.encode(found.genome)) == found.genome
    return str(found.genome["kind"])


def test_a_stalled_search_tries_the_value_with_the_fewest_trials() -> None:
    assert chance(standing(RESULTS_UNTIL_STALLED + 1)) == "c"
    assert chance(standing(RESULTS_UNTIL_STALLED + 1, "aaacccb")) == "b"
    assert {chance(standing(RESULTS_UNTIL_STALLED + 1, "aaaaaabc"), seed=seed) for seed in range(20)} == {"b", "c"}


def test_while_results_improve_no_rare_value_is_tried_and_nothing_is_drawn() -> None:
    rng = birth_rng(0, 0)
    assert propose_rare_value(Novelty.of(standing(RESULTS_UNTIL_STALLED), 0.0), drafts(), 1.0, rng, None) is None
    assert rng.random() == birth_rng(0, 0).random()


def test_results_pending_at_the_time_of_the_best_do_not_count_as_stalled() -> None:
    assert chance(standing(RESULTS_UNTIL_STALLED + 5, out=RESULTS_UNTIL_STALLED + 5)) is None
    assert chance(standing(RESULTS_UNTIL_STALLED + 6, out=RESULTS_UNTIL_STALLED + 5)) == "c"


def test_losses_of_different_scales_are_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    history = standing(RESULTS_UNTIL_STALLED)
    monkeypatch.setattr(history, "scaled_losses", lambda: np.full(len(history.ranking), np.nan))
    assert chance(history) is None


def test_a_value_with_enough_trials_is_not_tried_again() -> None:
    assert (
        chance(standing(RESULTS_UNTIL_STALLED + 1, "abc"))
        == chance(standing(RESULTS_UNTIL_STALLED + 1, "acb"))
        is not None
    )
    assert chance(standing(600, "aaab")) == "c"
    assert chance(standing(600, "abc")) is None


def test_the_share_of_rare_values_is_the_given_probability() -> None:
    history = standing(RESULTS_UNTIL_STALLED + 1)
    assert chance(history, 0.0) is None
    assert 20 < sum(chance(history, 0.3, seed) is not None for seed in range(100)) < 40


def test_no_rare_value_with_several_objectives_or_without_an_unordered_gene() -> None:
    assert chance(standing(RESULTS_UNTIL_STALLED + 1, objectives=2)) is None
    space = SearchSpace(x=Float(0, 1), size=Choice((1, 2, 3), ordered=True))
    history = RunHistory(space, OBJECTIVES[:1])
    for id in range(40):
        history.add_candidate(Candidate(id, 0, 0, id, space.sample(birth_rng(0, id)), "random"))
        history.tell(id, Outcome("ok", {"loss": float(id)}))
    assert propose_rare_value(Novelty.of(history, 0.0), [], 1.0, birth_rng(0, 0), None) is None


def test_a_rare_value_is_tried_where_trainings_probably_succeed_or_not_at_all() -> None:
    history = standing(RESULTS_UNTIL_STALLED + 1)
    column = list(KINDS.genes).index("x")

    def unit(highest: float) -> float | None:
        """Return the coordinate of the proposal if only genomes below 0.1 succeed, and those with that probability."""
        success = SimpleNamespace(probabilities=lambda units: np.where(units[:, column] < 0.1, highest, 0.5 * highest))
        rng, novelty = birth_rng(0, 0), Novelty.of(history, 0.0)
        proposal = propose_rare_value(novelty, drafts(), 1.0, rng, cast(Feasibility, success))
        return None if proposal is None else KINDS.encode(proposal.genome)[column]

    assert (unit(0.9) or 1.0) < 0.1
    assert unit(0.4) is None


@pytest.mark.parametrize(("loss_of_b", "trials_of_b", "kind"), [(4.0, 6, "b"), (4.5, 6, None), (4.5, 2, "b")])
def test_a_branch_far_behind_the_best_one_is_tried_less(loss_of_b: float, trials_of_b: int, kind: str | None) -> None:
    """The losses of branch a are from 1 to 1.8. Two results of another branch say little."""
    space = SearchSpace(kind=Choice(("a", "b")), x=Float(0, 1, when={"kind": "a"}), y=Float(0, 1, when={"kind": "b"}))
    history = RunHistory(space, OBJECTIVES[:1])
    for id in range(30):
        genome = space.check({"x": id / 40} if id >= trials_of_b else {"kind": "b", "y": id / 40}, fill_defaults=True)
        history.add_candidate(Candidate(id, 0, 0, id, genome, "given"))
        history.tell(id, Outcome("ok", {"loss": loss_of_b if genome["kind"] == "b" else 2.0 - id / 29}))
    proposal = propose_rare_value(Novelty.of(history, 0.0), [], 1.0, birth_rng(0, 0), None)
    assert (proposal and proposal.genome["kind"]) == kind


def test_results_of_the_rare_value_alone_choose_the_place() -> None:
    """Under a, the best lies at 0; under b it lies at 1, as six results show."""
    space = SearchSpace(x=Float(0, 1), kind=Choice(("a", "b")))
    history = RunHistory(space, OBJECTIVES[:1])
    for id in range(46):
        kind, x = ("b", 0.1 + 0.15 * id) if id < 6 else ("a", 0.02 * (id - 6))
        loss = 3.0 - x if kind == "b" else x
        history.add_candidate(Candidate(id, 0, 0, id, space.snap(space.encode({"x": x, "kind": kind})), "given"))
        history.tell(id, Outcome("ok", {"loss": loss}))
    found = [propose_rare_value(Novelty.of(history, 0.0), [], 1.0, birth_rng(seed, 0), None) for seed in range(8)]
    assert [one.genome["kind"] for one in found if one] == ["b"] * 8
    assert np.median([float(one.genome["x"]) for one in found if one]) > 0.8


def test_random_genomes_with_the_value_are_candidates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace(n=Int(1, 60), kind=Choice(("a", "b")), m=Int(1, 2))
    history = RunHistory(space, OBJECTIVES[:1])
    genomes = [{"n": n, "kind": "a", "m": 1} for n in range(1, 50)]
    for id, genome in enumerate(genomes):
        history.add_candidate(Candidate(id, 0, 0, id, genome, "given"))
        history.tell(id, Outcome("ok", {"loss": float(id)}))
    monkeypatch.setattr(saea, "IMMIGRANTS", 0)
    proposal = SAEA(rare_values=1.0).propose(history, birth_rng(0, 99))
    assert proposal is not None
    assert (proposal.operator, proposal.genome["kind"]) == ("chance", "b")


def hidden(candidate: Candidate) -> Outcome:
    """Two kinds are best in the middle, where the default is, and good all over; c is better, at a corner only."""
    units, right = KINDS.encode(candidate.genome), candidate.genome["kind"] == "c"
    away = float(((units[:2] - (0.9 if right else 0.5)) ** 2).sum())
    return Outcome("ok", {"loss": 4.0 * away if right else 0.15 + 0.1 * away})


@pytest.mark.slow
def test_a_value_that_looked_worse_at_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten runs in a row at least nine find it, without rare values at most seven."""
    monkeypatch.setattr(saea, "SEARCHING", 0.0)
    monkeypatch.setattr(_models, "TREES", 10)

    def found(chances: float, seed: int) -> bool:
        strategy = SAEA(rare_values=chances, gp_only=0.0)  # the process alone finds it in most runs
        best = Simulation(strategy, KINDS, OBJECTIVES[:1], hidden, births=45, seed=seed).run().history.best
        return best is not None and best.genome["kind"] == "c"

    assert sum(found(0.5, seed) for seed in range(10)) >= 9
    assert sum(found(0.0, seed) for seed in range(10)) <= 7


def test_a_rare_value_costs_little_more_in_a_long_run() -> None:
    costs = []
    for count in (RESULTS_UNTIL_STALLED + 50, 3_000):
        history, times = standing(count, "a" * 9 + "b"), []
        for id in range(5):
            start = time.process_time()
            assert chance(history, seed=id) == "c"
            times.append(time.process_time() - start)
        costs.append(min(times))
    assert costs[1] < 5 * costs[0]  # 45 times the results
