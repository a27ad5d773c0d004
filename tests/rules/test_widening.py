"""When a run widens a range by itself: the leading genomes are at its end, by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import EXTRA_SEED, Candidate, Constraint, Minimize, Outcome
from evo_tune.genome.widening import WIDENINGS, Range
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.rules.widening import Widening, leader_count, leaders_needed
from evo_tune.settings import RunSettings

SPACE = SearchSpace(
    x=Float(0.0, 1.0, widest=(-9.0, 9.0)), y=Float(-1.0, 1.0), n=Int(1, 8), few=Choice((2, 4), ordered=True),
    kind=Choice(("a", "b")),
)  # fmt: skip
LIMITS: Mapping[str, Range] = {"y": (-9.0, 9.0), "n": (1, 100)}
FEW: Mapping[str, Range] = {"few": (0.1, 100)}
MIDDLE = {"x": 0.5, "y": 0.0, "n": 4, "few": 2, "kind": "a"}


def history(*genomes: Mapping[str, Any], losses: Sequence[float] = (), objectives: int = 1) -> RunHistory:
    """Return a history of so many trials at least, the best first; those that are not given are in the middle."""
    given = [*({**MIDDLE, **genome} for genome in genomes)]
    rest = [{**MIDDLE, "y": 0.001 * number, "n": 3 + number % 3, "few": (2, 4)[number % 2]} for number in range(1, 13)]
    rest += [{**one, "few": 4} for one in rest[:5]]
    goals = [Minimize(f"loss{place}") for place in range(objectives)]
    found = RunHistory(SPACE, goals, [Constraint.parse("size<=10")])
    for id, genome in enumerate([*given, *rest]):
        found.add_candidate(Candidate(id, 0, 0, 0, genome, "random", (), 1.0))
        loss = losses[id] if id < len(losses) else float(id)
        found.tell(id, Outcome("ok", {**{goal.metric: loss for goal in goals}, "size": genome.get("size", 1)}))
    return found


def decided(found: RunHistory, limits: Mapping[str, Range] = LIMITS, **rules: Any) -> Widening | None:
    strategy = make_strategy("random", {"population": rules.pop("population", 4)})
    return StrategyWithRules(inner=strategy, settings=RunSettings(**rules), limits=limits).next_widening(found)


def test_three_of_five_at_an_end_widen_it_there() -> None:
    due = decided(history({"y": 0.99}, {"y": 0.97}, {}, {"y": 0.93}, {}))
    assert due == Widening("y", Float(-1.0, 2.0, default=0.0), "3 of the best 5 trials are at its high end")
    low = decided(history({"y": -0.99}, {}, {"y": -1.0}, {"y": -0.93}))
    assert low is not None
    assert low.gene == Float(-2.0, 1.0, default=0.0)


@pytest.mark.parametrize(
    "genomes",
    [
        ({"y": 0.99}, {"y": 0.97}, {}, {}, {}),  # two are too few
        ({}, {"y": 0.99}, {"y": 0.97}, {"y": 0.96}, {"y": 0.95}),  # the best is not there
        ({"y": 0.99}, {"y": 0.85}, {"y": 0.85}, {"y": 0.85}, {}),  # the others are only near
        ({"y": 0.99}, {"y": -0.99}, {"y": 0.99}, {"y": -0.99}, {}),  # both ends
        ({"x": 0.99}, {"x": 0.99}, {"x": 0.99}, {"x": 0.99}, {"x": 0.99}),  # no limits, so it may not widen
        ({"kind": "b"}, {"kind": "b"}, {"kind": "b"}, {"kind": "b"}, {"kind": "b"}),  # no order
    ],
)
def test_fewer_or_others_do_not(genomes: tuple[dict[str, Any], ...]) -> None:
    assert decided(history(*genomes)) is None


def test_more_leaders_must_agree_where_a_value_is_a_large_share_of_the_range() -> None:
    assert decided(history({"few": 4}, {"few": 4}, {"few": 4}, {"few": 4}, {"few": 2}), limits=FEW) is None


def test_genes_that_are_not_active_in_the_leaders_stay() -> None:
    """Their value is the default, here an end, on which no result depends."""
    space = SearchSpace(kind=Choice(("a", "b")), y=Float(-1.0, 1.0, default=-1.0, when={"kind": "a"}))
    for kind in ("a", "b"):
        trained = RunHistory(space, [Minimize("loss")])
        for id in range(20):
            genome = {"kind": kind, "y": -1.0} if id < 5 else {"kind": "a", "y": 0.2 + 0.03 * id}
            trained.add_candidate(Candidate(id, 0, 0, 0, genome, "random", (), 1.0))
            trained.tell(id, Outcome("ok", {"loss": float(id)}))
        due = decided(trained, {"y": (-9.0, 9.0)})
        assert (due is not None) == (kind == "a")


def test_steps_and_choices_count_by_their_last_value() -> None:
    due = decided(history({"n": 8}, {"n": 8, "y": 0.1}, {}, {"n": 8, "y": 0.2}))
    assert due is not None
    assert due.gene == Int(1, 11, default=5)
    due = decided(history(*({"few": 4, "y": number / 100} for number in range(20, 25))), limits=FEW)
    assert due is not None
    assert due.gene == Choice((2, 4, 8), ordered=True, default=4)


AT_END = ({"y": 0.99}, {"y": 0.98}, {"y": 0.97}, {"y": 0.96}, {"y": 0.95})


def test_values_that_were_not_compared_with_others_are_no_evidence() -> None:
    """A default at an end is shared by all genomes that come from it."""
    found = RunHistory(SPACE, [Minimize("loss0")])
    for id in range(14):
        found.add_candidate(
            Candidate(id, 0, 0, 0, {**MIDDLE, "y": id / 100, "few": 4 if id in (7, 8) else 2}, "random", (), 1.0)
        )
        found.tell(id, Outcome("ok", {"loss0": float(id)}))
    assert decided(found, limits=FEW) is None
    found.add_candidate(Candidate(14, 0, 0, 0, {**MIDDLE, "few": 4}, "random", (), 1.0))
    found.tell(14, Outcome("ok", {"loss0": 14.0}))
    due = decided(found, limits=FEW)
    assert due is not None
    assert due.gene == Choice((1, 2, 4), ordered=True, default=4)


def test_a_population_of_full_trainings_comes_first() -> None:
    found = history(*AT_END)
    count = len(found.trials)
    assert decided(found, population=count) is not None
    assert decided(found, population=count + 1) is None


def test_several_objectives_and_no_limits_widen_nothing() -> None:
    assert decided(history(*AT_END, objectives=2)) is None
    assert decided(history(*AT_END), limits={}) is None
    assert decided(history(*AT_END), limits={"y": (-1.0, 1.0)}) is None


def test_a_limit_cuts_the_step() -> None:
    due = decided(history(*AT_END), limits={"y": (-1.0, 1.25)})
    assert due is not None
    assert due.gene == Float(-1.0, 1.25, default=0.0)


def test_failures_and_genomes_outside_constraints_do_not_lead() -> None:
    found = (
        history(*({**one, "size": 99} for one in AT_END))
        if False
        else RunHistory(SPACE, [Minimize("loss0")], [Constraint.parse("size<=10")])
    )
    genomes = [{**MIDDLE, **one} for one in AT_END] + [{**MIDDLE, "y": number / 100} for number in range(1, 13)]
    for id, genome in enumerate(genomes):
        found.add_candidate(Candidate(id, 0, 0, 0, genome, "random", (), 1.0))
        found.tell(id, Outcome("ok", {"loss0": float(id), "size": 99.0 if id < 5 else 1.0}))
    assert decided(found) is None


def test_a_range_widens_again_only_for_genomes_in_the_added_part() -> None:
    found = history(*AT_END)
    first = decided(found)
    assert first is not None
    found.widen(SearchSpace(None, None, **{**SPACE.genes, "y": first.gene}))
    assert decided(found) is None, "the range has room now"
    for number, y in enumerate((1.99, 1.98, 1.97)):
        id = found.proposed_count
        found.add_candidate(Candidate(id, 0, 0, id, {**MIDDLE, "y": y}, "random", (), 1.0))
        found.tell(id, Outcome("ok", {"loss0": -10.0 + number, "size": 1.0}))
    again = decided(found)
    assert again is not None
    assert again.gene == Float(-1.0, 3.5, default=0.0)
    other = history(*AT_END)
    other.widen(SearchSpace(None, None, **{**SPACE.genes, "y": Float(-1.0, 1.001, default=0.0)}))
    assert decided(other) is None, "they are at the new end, but not in the added part"


def test_seeds_are_averaged_and_a_lucky_one_does_not_lead() -> None:
    """With extra seeds the genomes at the end turn out to be worse than they looked."""
    found = history(*AT_END)
    for place in range(5):
        id = found.proposed_count
        genome = found.trials[place].genome
        found.add_candidate(Candidate(id, 0, 0, id, dict(genome), EXTRA_SEED, (), 1.0, None, 1))
        found.tell(id, Outcome("ok", {"loss0": 100.0, "size": 1.0}))
    assert decided(found, seeds_per_trial=2) is None


def test_a_run_widens_at_most_a_hundred_times() -> None:
    found = history(*AT_END)
    found.spaces += [found.space] * (WIDENINGS - 1)
    assert decided(found) is not None
    found.spaces.append(found.space)
    assert decided(found) is None


def test_leaders_needed_follow_from_the_binomial_distribution() -> None:
    assert [leader_count(count) for count in (10, 59, 60, 99, 100, 10_000)] == [5, 5, 6, 9, 10, 10]
    for leaders, share in product((5, 7, 10), (0.05, 0.2, 1 / 3, 0.5)):
        chances = [sum(_binomial(leaders, count, share) for count in range(least, leaders + 1)) for least in range(12)]
        needed = leaders_needed(leaders, share)
        assert needed >= 3
        assert chances[needed] <= 0.05 or needed > leaders
        assert needed == 3 or chances[needed - 1] > 0.05


def _binomial(draws: int, count: int, share: float) -> float:
    from math import comb

    return comb(draws, count) * share**count * (1 - share) ** (draws - count)
