"""What a strategy may see: told trials in told order, candidates out, and memos that equal a fresh count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Int
from evo_tune.genome.history import GrowingArray, RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Minimize, Outcome, Trial
from evo_tune.genome.view import RankedHistory

SPACE = SearchSpace(n=Int(0, 9), m=Int(0, 9))
OBJECTIVES = (Minimize("loss"), Minimize("cost"))


def candidate(id: int, n: int = 0, **fields: object) -> Candidate:
    return Candidate(id, 0, 0, 0, {"n": n, "m": 0}, "given", **fields)  # type: ignore[arg-type]


def ok(loss: float, cost: float = 0.0) -> Outcome:
    return Outcome("ok", {"loss": loss, "cost": cost})


def test_arrays_have_results_failures_and_pending_trials() -> None:
    history = RunHistory(SearchSpace(n=Int(0, 9), kind=Choice(("a", "b", "c"))), OBJECTIVES[:1])
    empty = history.arrays()
    assert (empty.x.shape, empty.y.shape, empty.failed.shape, empty.pending.shape) == ((0, 4), (0, 1), (0, 4), (0, 4))
    for id, kind in enumerate("abca"):
        history.add_candidate(Candidate(id, 0, 0, 0, {"n": id, "kind": kind}, "given"))
    history.tell(2, ok(3.0))
    history.tell(0, ok(5.0))
    history.tell(1, Outcome("failed"))
    arrays = history.arrays()
    assert np.allclose(arrays.x, [[0.25, 0, 0, 1], [0.05, 1, 0, 0]])  # the best first
    assert np.allclose(arrays.y, [[3.0], [5.0]])
    assert np.allclose(arrays.failed, [[0.15, 0, 1, 0]])
    assert np.allclose(arrays.pending, [[0.35, 1, 0, 0]])


@pytest.mark.parametrize(("rungs", "y"), [((1.0,), [[0.1], [7.0]]), ((0.5, 1.0), [[0.5], [1.5]])])
def test_arrays_of_a_run_with_rules_have_losses_or_places(rungs: tuple[float, ...], y: list[list[float]]) -> None:
    history = RunHistory(SPACE, OBJECTIVES[:1])
    for id, loss in enumerate([7.0, 0.1]):
        history.add_candidate(candidate(id, id))
        history.tell(id, ok(loss))
    assert np.allclose(RankedHistory(history, rungs, lambda genome: False).arrays().y, y)


def test_births_and_results_move_from_out_to_told() -> None:
    history = RunHistory(SPACE, OBJECTIVES)
    for id in range(4):
        history.add_candidate(candidate(id, id))
    assert [c.id for c in history.pending] == [0, 1, 2, 3]
    history.tell(2, ok(1.0))
    history.tell(0, Outcome("failed"))
    assert [c.id for c in history.pending] == [1, 3]
    assert [(t.id, t.reported_order, t.ok) for t in history.trials] == [(2, 0, True), (0, 1, False)]
    assert history.proposed_count == 4
    assert np.allclose(history.proposed_units[3], [0.35, 0.05])


def test_ids_come_in_order_and_results_once() -> None:
    history = RunHistory(SPACE, OBJECTIVES)
    with pytest.raises(ValueError, match="candidate 1 is out of order: expected 0"):
        history.add_candidate(candidate(1))
    history.add_candidate(candidate(0))
    history.tell(0, ok(1.0))
    with pytest.raises(KeyError):
        history.tell(0, ok(1.0))
    with pytest.raises(KeyError):
        history.tell(1, ok(1.0))
    assert len(history.trials) == 1


def test_a_genome_that_is_not_of_the_space_is_not_born() -> None:
    history = RunHistory(SearchSpace(n=Int(0, 9), m=Int(0, 9), more=Int(0, 1)), OBJECTIVES)
    with pytest.raises((KeyError, SpaceError)):
        history.add_candidate(candidate(0))
    assert (history.proposed_count, list(history.pending)) == (0, [])


def test_a_duplicate_is_the_same_genome_budget_and_extra_seed() -> None:
    history = RunHistory(SPACE, OBJECTIVES)
    genome = {"n": 1, "m": 0}
    history.add_candidate(candidate(0, 1))
    history.add_candidate(candidate(1, 1, budget=0.5))
    assert history.seen(genome)
    assert history.seen(genome, budget=0.5)
    assert not history.seen(genome, extra_seed=1)
    assert not history.seen({"n": 2, "m": 0})
    history.add_candidate(candidate(2, 1, extra_seed=1))
    history.add_candidate(candidate(3, 1, resumes=1))
    assert history.seen(genome, extra_seed=1)
    assert history.fresh_count == 2


LOSS = st.one_of(st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf]), st.floats(-9, 9))


@given(st.lists(st.tuples(LOSS, LOSS, st.booleans(), st.booleans()), max_size=20), st.randoms())
def test_trials_are_ranked_by_losses_then_age(
    results: list[tuple[float, float, bool, bool]], order: np.random.Generator
) -> None:
    history = RunHistory(SPACE, OBJECTIVES)
    for id, (_, _, _, whole) in enumerate(results):
        history.add_candidate(candidate(id, budget=1.0 if whole else 0.5))
    for id in order.sample(range(len(results)), len(results)):  # type: ignore[attr-defined]
        loss, cost, good, _ = results[id]
        history.tell(id, ok(loss, cost) if good else Outcome("failed"))
    expected = sorted(
        (loss, cost, id)
        for id, (loss, cost, good, whole) in enumerate(results)
        if good and whole and math.isfinite(loss) and math.isfinite(cost)
    )
    assert [trial.id for trial in history.ranked()] == [id for *_, id in expected]
    assert (history.best.id if history.best else None) == (expected[0][-1] if expected else None)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_a_fold_is_the_same_whenever_it_is_asked_for(told: list[int]) -> None:
    def step(ids: list[int], trial: Trial) -> list[int]:
        ids.append(trial.id)
        return ids

    asked, late = RunHistory(SPACE, OBJECTIVES), RunHistory(SPACE, OBJECTIVES)
    for id in range(len(told)):
        for history in (asked, late):
            history.add_candidate(candidate(id))
            history.tell(id, ok(told[id]))
        for _ in range(told[id]):
            asked.fold("ids", list, step)
    assert asked.fold("ids", list, step) == late.fold("ids", list, step) == list(range(len(told)))


def test_a_fold_visits_each_trial_once() -> None:
    history, visits = RunHistory(SPACE, OBJECTIVES), []

    def step(count: int, trial: Trial) -> int:
        visits.append(trial.id)
        return count + 1

    for id in range(50):
        history.add_candidate(candidate(id))
        history.tell(id, ok(0.0))
        assert history.fold("count", int, step) == id + 1
    assert visits == list(range(50))
    assert history.fold("another", int, step) == 50


def test_a_row_far_behind_the_last_one_can_be_set() -> None:
    rows = GrowingArray(math.nan)
    rows.set(1000, 2.0)
    assert rows.first_rows(1001)[1000] == 2.0
    assert np.isnan(rows.first_rows(1000)).all()
