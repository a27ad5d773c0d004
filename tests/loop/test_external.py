"""Proposals for other tools: what a strategy sees of their trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from evo_tune import Float, History, Proposal, SearchSpace, Strategy
from evo_tune.errors import UsageError
from evo_tune.loop.external import ExternalTrial, make_external_strategy, propose_external, space_of_genes

SPACE = SearchSpace(x=Float(0.0, 1.0))

SEEN: list[History] = []


@dataclass(frozen=True)
class Spy(Strategy):
    """Notes the history that it sees."""

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        SEEN.append(history)
        return Proposal(SPACE.sample(rng), "spied", tuple(trial.id for trial in history.ranking[:2]))


def trial(number: int, status: str | None, value: float | None = None, **fields: object) -> ExternalTrial:
    values = () if value is None else (value,)
    return ExternalTrial(number, Proposal({"x": number / 100}, "warm-start"), status, values, **fields)  # type: ignore[arg-type]


def seen(trials: Sequence[ExternalTrial], direction: str = "min") -> tuple[History, Proposal]:
    proposal = propose_external(Spy(), SPACE, [direction], trials, np.random.default_rng(0))
    assert proposal is not None
    return SEEN.pop(), proposal


def numbers(trials: Sequence[object]) -> list[int]:
    return [round(100 * trial.genome["x"]) for trial in trials]  # type: ignore[attr-defined]


def test_trials_are_ranked_by_their_values_and_parents_have_the_numbers_of_the_tool() -> None:
    trials = [trial(3, "ok", 2.0), trial(5, "failed"), trial(8, "ok", 1.0), trial(9, None)]
    history, proposal = seen(trials)
    assert numbers(history.ranking) == [8, 3]
    assert numbers(history.failed) == [5]
    assert numbers(history.pending) == [9]
    assert proposal.parents == (8, 3)
    assert numbers(seen(trials, "max")[0].ranking) == [3, 8]


def test_a_trial_that_breaks_a_constraint_or_lacks_it_is_behind_the_others() -> None:
    history, proposal = seen(
        [
            trial(1, "ok", 1.0, excesses={"memory": 0.5}),
            trial(2, "ok", 2.0),
            trial(3, "ok", 3.0, excesses={"memory": -1.0}),
        ]
    )
    assert numbers(history.ranking) == [3, 1, 2]
    assert proposal.parents == (3, 1)


def test_a_stopped_trial_is_worse_than_every_complete_one_and_no_failure() -> None:
    history, _ = seen([trial(1, "pruned"), trial(2, "ok", 7.0)])
    assert numbers(history.ranking) == [2, 1]
    assert not history.failed


def test_a_strategy_that_cannot_search_a_space_says_why() -> None:
    with pytest.raises(UsageError, match="strategy Spy optimises one objective, and 2 were given"):
        propose_external(Spy(), SPACE, ["min", "max"], [], np.random.default_rng(0))
    with pytest.raises(UsageError, match="strategy staged decides on budgets itself"):
        make_external_strategy("staged", {}, None)


def test_a_gene_has_the_name_of_its_parameter_if_it_can() -> None:
    names = ["depth", "repair", "optional", "\ud800"]
    expected = ["depth", "'repair'", "'optional'", "'\\ud800'"]
    assert list(space_of_genes({name: Float(0.0, 1.0) for name in names}).genes) == expected
