"""Rungs that are judged after a decay of their own: the evaluator of docs/evaluators.md in a real run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.search import Search
from evo_tune.plugins.context import Context
from evo_tune.plugins.find import find_evaluator
from evo_tune.report.summary import total_cost
from evo_tune.store.run import Run
from tests.conftest import drive
from tests.test_examples import documented

RUNGS = "1/10,1/2,1"


def train(search: Search, candidate: Candidate) -> Outcome:
    """Return what comes of a candidate, trained right here from the checkpoint of the one that it goes on from."""
    trials = search.saved.folder.parents[1] / "scratch"
    resumed = None if candidate.resumes is None else trials / f"{candidate.resumes:06d}"
    context = Context(
        seed=candidate.seed,
        budget=candidate.budget,
        folder=trials / f"{candidate.id:06d}",
        resume_folder=resumed,
        stop_if=candidate.stop_if,
        objectives=search.saved.objectives,
    )
    metrics = search.evaluator.evaluate(candidate.genome, context)
    return Outcome("ok", metrics, tuple(context.curve))


@pytest.fixture
def forked(begin: Callable[..., Search], tmp_path: Path, fast_disk: None) -> Run:
    path = documented("evaluators/resumable.py", tmp_path)
    return drive(begin("run", evaluator=str(path), fidelity=RUNGS, generations=None, budget=4.0), evaluate=train).saved


def test_a_decay_that_is_thrown_away_is_counted(forked: Run) -> None:
    run = Run.open(forked.folder)
    costs = {None: 0.1, 0.1: 0.5 - 0.08, 0.5: 1.0 - 0.4}  # what goes on, goes on from eight tenths of the rung
    before = [None if one.resumes is None else run.candidates[one.resumes].budget for one in run.candidates]
    assert {None, 0.1, 0.5} == set(before)
    assert total_cost(run) == pytest.approx(sum(costs[rung] for rung in before))
    assert 4.0 - 1e-9 <= total_cost(run) < 4.0 + 0.6
    assert run.ended == "the budget of 4 full trainings is spent"


def test_each_point_of_a_saved_curve_says_whether_it_is_decayed(forked: Run) -> None:
    run = Run.open(forked.folder)
    for candidate in run.candidates:
        curve = run.outcomes[candidate.id].curve
        assert [bool(point["decayed"]) for _, point in curve] == [at > 0.8 * candidate.budget + 1e-9 for at, _ in curve]
        assert run.outcomes[candidate.id].left_at(candidate.budget) == pytest.approx(
            candidate.budget * (1.0 if candidate.budget == 1.0 else 0.8)
        )


def test_what_a_forked_rung_left_goes_on_as_if_it_had_not_been_judged(forked: Run, tmp_path: Path) -> None:
    evaluator = find_evaluator(str(tmp_path / "evaluators" / "resumable.py"))
    for candidate in forked.candidates:
        whole = Context(seed=candidate.seed, budget=candidate.budget, folder=tmp_path / "whole")
        expected = evaluator.bind(forked.manifest.options).evaluate(candidate.genome, whole)
        assert forked.outcomes[candidate.id].metrics == expected


def test_a_curve_that_says_nothing_was_left_at_its_budget() -> None:
    plain = ((0.2, {"loss": 1.0}), (0.25, {"loss": 0.9}))
    assert Outcome("ok", {}, plain).left_at(0.25) == 0.25
    assert Outcome("ok", {}).left_at(0.25) == 0.25
    alone = ((0.25, {"loss": 0.9, "decayed": 1.0}),)
    assert Outcome("ok", {}, alone).left_at(0.25) == 0.25, "where the decay began is not known"
    assert Outcome("ok", {}, (plain[0], *alone)).left_at(0.25) == 0.2
    assert Outcome("ok", {}, (plain[0], (1.0, {"loss": 0.9, "decayed": 1.0}))).left_at(1.0) == 1.0
