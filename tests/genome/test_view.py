"""The view of a run: what is kept between births says the same as what is made anew from all that was told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evo_tune.genome.constraint import Constraint
from evo_tune.genome.history import History, Made
from evo_tune.genome.standing import entries, places
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.genome.values import genome_key
from evo_tune.genome.view import View
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
@pytest.mark.parametrize("inherits", [False, True])
def test_what_is_kept_says_what_is_told_anew(objectives: int, inherits: bool) -> None:
    rng = np.random.default_rng(objectives)
    constraints = [Constraint.parse("size<=0.8")]
    kept = History(SPACES["mixed"], OBJECTIVES[:objectives], constraints)
    events: list[tuple[Candidate, Outcome | None]] = []
    for id in range(120):
        base = Candidate(id, 0, 0, id, SPACES["mixed"].sample(rng), "random", budget=RUNGS[0])
        old = [one for one, told in events if told is not None and told.status == "ok"]
        if old and rng.random() < 0.5:
            one = old[int(rng.integers(len(old)))]
            higher = [rung for rung in RUNGS if rung > one.budget]
            budget = higher[0] if higher else 1.0
            base = replace(base, genome=one.genome, budget=budget, resumes=one.id, replicate=0 if higher else id)
        elif inherits and rng.random() < 0.3:
            base = replace(base, budget=0.3, inherits=0)
        told = None if id % 10 == 9 else outcome(rng, base.budget)
        events.append((base, told))
        kept.born(base)
        if told is not None:
            kept.tell(id, told)
        if id % 7 == 0:
            anew = History(SPACES["mixed"], OBJECTIVES[:objectives], constraints)
            for one, came in events:
                anew.born(one)
                if came is not None:
                    anew.tell(one.id, came)
            view = View(kept, RUNGS, lambda genome: False)
            agree(view, View(anew, RUNGS, lambda genome: False))
            by_place(kept, view)


def agree(one: View, other: View) -> None:
    assert list(one.trials) == list(other.trials)
    assert one.ranked() == other.ranked() == list(one.ranking)
    assert one.best == (one.ranked() or [None])[0]
    assert list(one.out) == list(other.out)
    assert one.ids == other.ids
    assert one.born_count == one.fresh_count == len(one.ids)
    assert list(one.failed) == [trial for trial in one.trials if not trial.ok]
    assert one.ranked_losses().tolist() == [list(trial.losses or ()) for trial in one.ranked()]


def by_place(history: History, view: View) -> None:
    """Check a view against the places that `standing` counts from the entries alone."""
    told = entries(history)
    wanted = places(list(told.values()), RUNGS, len(history.objectives))
    assert {genome_key(trial.genome): trial.losses for trial in view.trials if trial.ok} == wanted
    ranked = [(trial.losses, trial.id) for trial in view.trials if trial.losses is not None]
    assert [(trial.losses, trial.id) for trial in view.ranked()] == sorted(ranked)


def test_items_are_made_once_when_they_are_read() -> None:
    made: list[int] = []
    items = Made(5, lambda place: made.append(place) or 10 * place)
    assert items[1] == items[1] == 10
    assert items[-1] == 40
    assert made == [1, 4]
    assert items[:2] == [0, 10]
    assert list(items) == [0, 10, 20, 30, 40]
    assert sorted(made) == list(range(5))
    with pytest.raises(IndexError):
        items[5]
