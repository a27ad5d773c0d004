"""The view of a run: what is kept between births says the same as what is made anew from all that was told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evo_tune.genome.history import History, LazySequence, RunHistory
from evo_tune.genome.trial import Candidate, Constraint, Outcome
from evo_tune.genome.values import genome_key
from evo_tune.genome.view import RankedHistory, trials_by_genome
from tests.rules.reference import places
from tests.strategies.cases import OBJECTIVES, SPACES

RUNGS = (1 / 9, 1 / 3, 1.0)


def outcome(rng: np.random.Generator, curve: float) -> Outcome:
    luck = rng.random()
    if luck < 0.1:
        return Outcome("failed", error="no luck")
    if luck < 0.2:
        return Outcome("pruned", curve=((curve, {"loss": 1.0}),))
    return Outcome("ok", {"loss": float(rng.integers(9)), "cost": rng.random(), "size": rng.random()})


@pytest.mark.parametrize("objectives", [1, 2])
def test_what_is_kept_says_what_is_told_anew(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    constraints = [Constraint.parse("size<=0.8")]
    kept = RunHistory(SPACES["mixed"], OBJECTIVES[:objectives], constraints)
    events: list[tuple[Candidate, Outcome | None]] = []
    for id in range(120):
        base = Candidate(id, 0, 0, id, SPACES["mixed"].sample(rng), "random", budget=RUNGS[0])
        old = [one for one, told in events if told is not None and told.status == "ok"]
        if old and rng.random() < 0.5:
            one = old[int(rng.integers(len(old)))]
            higher = [rung for rung in RUNGS if rung > one.budget]
            budget = higher[0] if higher else 1.0
            base = replace(base, genome=one.genome, budget=budget, resumes=one.id, extra_seed=0 if higher else id)
        told = None if id % 10 == 9 else outcome(rng, base.budget)
        events.append((base, told))
        kept.add_candidate(base)
        if told is not None:
            kept.tell(id, told)
        if id % 7 == 0:
            anew = RunHistory(SPACES["mixed"], OBJECTIVES[:objectives], constraints)
            for one, came in events:
                anew.add_candidate(one)
                if came is not None:
                    anew.tell(one.id, came)
            view = RankedHistory(kept, RUNGS, lambda genome: False)
            agree(view, RankedHistory(anew, RUNGS, lambda genome: False))
            by_place(kept, view)
            of_one_scale(kept, view)


def agree(one: RankedHistory, other: RankedHistory) -> None:
    assert list(one.trials) == list(other.trials)
    assert one.ranked() == other.ranked() == list(one.ranking)
    assert one.best == (one.ranked() or [None])[0]
    assert list(one.pending) == list(other.pending)
    assert one.ids == other.ids
    assert one.proposed_count == one.fresh_count == len(one.ids)
    assert list(one.failed) == [trial for trial in one.trials if not trial.ok]
    assert one.ranked_losses().tolist() == [list(trial.losses or ()) for trial in one.ranked()]


def by_place(history: History, view: RankedHistory) -> None:
    """Check a view against the places that `standing` counts from the entries alone."""
    told = trials_by_genome(history)
    wanted = places(list(told.values()), RUNGS, len(history.objectives))
    assert {genome_key(trial.genome): trial.losses for trial in view.trials if trial.ok} == wanted
    ranked = [(trial.losses, trial.id) for trial in view.trials if trial.losses is not None]
    assert [(trial.losses, trial.id) for trial in view.ranked()] == sorted(ranked)


def of_one_scale(history: History, view: RankedHistory) -> None:
    """Check which losses a view has: none of several budgets, else those that are ranked by themselves."""
    assert np.isnan(view.scaled_losses()).all()
    full = RankedHistory(history, (1.0,), lambda genome: False)
    told = trials_by_genome(history)
    for trial, loss in zip(full.ranked(), full.scaled_losses().tolist(), strict=True):
        entry = told[genome_key(trial.genome)]
        mean = None if entry.failed else entry.losses(1.0)
        assert loss == mean[0] if mean is not None and np.isfinite(mean).all() else np.isnan(loss)
    keys = [genome_key(trial.genome) for trial in reversed(full.ranked()[:5])]
    expected = {key: float(place) for place, key in enumerate(keys)}
    shown = RankedHistory(history, (1.0,), lambda genome: False, expected)
    scaled = zip(shown.ranked(), shown.scaled_losses().tolist(), strict=True)
    given = {genome_key(trial.genome): loss for trial, loss in scaled if not np.isnan(loss)}
    assert given == expected
    assert np.isnan(RankedHistory(history, RUNGS, lambda genome: False, expected).scaled_losses()).all()


def test_losses_and_excesses_are_known_beside_the_order_by_constraints() -> None:
    """A history and a view of it agree: violators rank last, and their losses and metrics are still known."""
    history = RunHistory(SPACES["mixed"], OBJECTIVES[:1], [Constraint.parse("size<=0.8")])
    rng = np.random.default_rng(0)
    for id in range(30):
        history.add_candidate(Candidate(id, 0, 0, id, SPACES["mixed"].sample(rng), "random"))
        history.tell(id, Outcome("ok", {"loss": rng.random(), "size": rng.random()}))
    ranked = history.ranked()
    losses = [trial.losses[0] for trial in ranked if trial.losses]
    assert not all(trial.feasible for trial in ranked)
    assert history.scaled_losses().tolist() == history.bare_losses()[:, 0].tolist() == losses
    wanted = [trial.outcome.metrics["size"] - 0.8 for trial in ranked]
    assert history.excesses()[:, 0] == pytest.approx(wanted)
    view = RankedHistory(history, (1.0,), lambda genome: False)
    assert [trial.id for trial in view.ranked()] == [trial.id for trial in ranked]
    assert view.excesses()[:, 0] == pytest.approx(wanted)
    assert np.argsort(view.bare_losses()[:, 0]).tolist() == np.argsort(losses).tolist()
    assert view.scaled_losses().tolist() == losses


def test_items_are_made_once_when_they_are_read() -> None:
    made: list[int] = []
    items = LazySequence(5, lambda place: made.append(place) or 10 * place)
    assert items[1] == items[1] == 10
    assert items[-1] == 40
    assert made == [1, 4]
    assert items[:2] == [0, 10]
    assert list(items) == [0, 10, 20, 30, 40]
    assert sorted(made) == list(range(5))
    with pytest.raises(IndexError):
        items[5]
