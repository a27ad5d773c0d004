"""Rungs, trust and places: what can be said of them without a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import OptionError
from evo_tune.genome.trial import Candidate, Constraint, Minimize, Outcome, Trial, violation
from evo_tune.genome.values import ranks
from evo_tune.genome.view import GenomeTrials
from evo_tune.rules.fidelity import Curves, audit_numbers, is_audit, rank_trust, rungs_that_pay, share_to_keep
from evo_tune.settings import RunSettings, parse_rungs
from tests.rules.reference import places

RUNGS = (0.25, 1.0)


def entry(id: int, *losses: float | None, violation: float = 0.0) -> GenomeTrials:
    """Return a genome with these losses at the rungs; None is a failure, infinity a pruned trial."""
    birth = Candidate(id, 0, 0, 0, {"x": id}, "test")
    found = GenomeTrials(str(id), birth)
    for budget, loss in zip(RUNGS, losses, strict=False):
        status = "failed" if loss is None else "pruned" if math.isinf(loss) else "ok"
        metrics = {} if loss is None or math.isinf(loss) else {"loss": loss}
        trial = Trial.of(birth, Outcome(status, metrics), 0, [Minimize("loss")])  # type: ignore[arg-type]
        found.trial_by_budget[budget] = Trial(trial.candidate, trial.outcome, 0, trial.losses, violation)
    return found


def order(*told: GenomeTrials) -> str:
    found = places(told, RUNGS, 1)
    return "".join(sorted(found, key=lambda key: found[key]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/3,1/9,1", "increasing"),
        ("1/3,1/3,1", "increasing"),
        ("1/9,1/3", "expected 1, the full training, as the last"),
        ("0,1", "above 0 and at most 1"),
        ("1/3,2", "above 0 and at most 1"),
        ("-1,1", "above 0 and at most 1"),
        ("a,1", "expected auto, or fractions of a full training"),
        ("1/0,1", "expected auto, or fractions of a full training"),
        ("nan,1", "expected auto, or fractions of a full training"),
        ("", "expected auto, or fractions of a full training"),
    ],
)
def test_bad_rungs_are_named(text: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected) as error:
        parse_rungs(text)
    assert str(error.value).startswith(f"--fidelity {text}:")
    assert "1/9,1/3,1" in str(error.value)


def test_rungs_are_read_exactly() -> None:
    assert parse_rungs("1/9, 1/3 ,1") == (1 / 9, 1 / 3, 1.0)
    assert parse_rungs("0.1,1.0") == (0.1, 1.0)
    assert parse_rungs("1") == (1.0,)


def test_audits_become_rarer() -> None:
    assert [number for number in range(200) if is_audit(number)] == [0, 1, 2, 8, 32, 128]


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 1000), st.floats(0, 3))
def test_the_less_trust_the_more_go_on(one: float, other: float, count: int, deviations: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= share_to_keep(high, count, deviations) <= 1.0
    if low >= 0.0 and count > 1:
        assert share_to_keep(high, count, deviations) <= share_to_keep(low, count, deviations) + 1e-9


@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_so_many_are_kept_that_the_best_is_among_them(correlation: float) -> None:
    rng = np.random.default_rng(0)
    hits, count = 0, 50
    share = share_to_keep(correlation, count, 1.5)
    for _ in range(2000):
        early = rng.normal(size=count)
        late = correlation * early + math.sqrt(1 - correlation**2) * rng.normal(size=count)
        hits += int((early > early[late.argmax()]).sum() < share * count)
    assert 0.88 < hits / 2000 < 0.98


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30))
def test_trust_is_a_correlation_drawn_to_a_belief(values: list[int]) -> None:
    same, opposite = rank_trust(values, values), rank_trust(values, [-value for value in values])
    assert -1.0 <= opposite <= same <= 1.0
    assert rank_trust([], []) == rank_trust([1.0], [1.0]) == 0.6
    if len(set(values)) > 1:
        assert same > 0.6 > opposite


def test_equal_values_share_a_rank() -> None:
    assert ranks([3.0, 1.0, 3.0, math.inf]).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_a_higher_rung_overrules_a_lower_one_among_those_that_reached_it() -> None:
    a, b, c, d = entry(0, 0.1, 9.0), entry(1, 0.2), entry(2, 0.3, 1.0), entry(3, 0.4)
    assert order(a, b, c, d) == "2103"  # 2 takes the place of 0, 0 that of 2; 1 and 3 stay
    assert order(entry(0, 0.1, math.inf), b, c, d) == "2103"
    assert order(entry(0, math.inf), b, c, d) == "1230"
    assert order(entry(0, 0.1, None), b, c, d) == "123"
    assert order(entry(0, None), b, c, d) == "123"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_among_full_trainings_places_are_ranks(losses: list[float]) -> None:
    told = [entry(number, 0.0, loss) for number, loss in enumerate(losses)]
    assert [place for (place,) in places(told, RUNGS, 1).values()] == ranks(losses).tolist()


def test_who_breaks_a_constraint_comes_behind_all_others_by_how_much() -> None:
    assert (
        order(entry(0, 0.1, violation=2.0), entry(1, 0.9), entry(2, 0.2, violation=1.0), entry(3, math.inf)) == "1320"
    )


def bounds(told: list[GenomeTrials], metric: str, sign: float, start: float, budget: float) -> tuple[object, ...]:
    curves = Curves(metric, sign)
    for one in told:
        curves.update(one)
    return curves.bounds(start, budget)


def with_curves(finals: list[float], early: list[float]) -> list[GenomeTrials]:
    told = []
    for id, (last, first) in enumerate(zip(finals, early, strict=True)):
        found = entry(id, last, last)
        found.curve += [(0.5, {"loss": first}), (1.0, {"loss": last})]
        told.append(found)
    return told


def test_pruning_compares_points_of_one_kind_at_like_fractions() -> None:
    values = [float(value) for value in range(20)]
    told = with_curves(values, values)
    plain = bounds(told, "loss", 1.0, 0.0, 1.0)
    for one in told:  # each was judged at a rung as well, after a decay that brought it far down
        one.curve.insert(1, (0.5, {"loss": -100.0, "decayed": 1.0}))
    assert bounds(told, "loss", 1.0, 0.0, 1.0) == plain == ((0.5, "loss", 9.0),)
    for one in told:
        one.curve[0] = (0.4, {**one.curve[0][1], "decayed": 0.0})  # the last before the decay: it did not get to .5
        one.curve[-1][1]["decayed"] = 1.0
    assert bounds(told, "loss", 1.0, 0.0, 1.0) == ()


def test_bounds_need_curves_and_lie_at_the_median_or_behind() -> None:
    values = [float(value) for value in range(20)]
    assert bounds(with_curves(values[:4], values[:4]), "loss", 1.0, 0.0, 1.0) == ()
    assert bounds(with_curves(values, values), "accuracy", 1.0, 0.0, 1.0) == ()
    assert bounds(with_curves(values, values), "loss", 1.0, 0.5, 1.0) == ()
    assert bounds(with_curves(values, values), "loss", 1.0, 0.0, 1.0) == ((0.5, "loss", 9.0),)
    assert bounds(with_curves(values, values[::-1]), "loss", 1.0, 0.0, 1.0) == ()
    assert bounds(with_curves(values, values), "loss", -1.0, 0.0, 1.0) == ()  # 20 is best early, and worst at the end


@pytest.mark.parametrize(
    "text", ["params", "params<2", "<=2", "params<=", "params<=x", "params<=inf", "params<=nan", "a=>3", "a==3", ""]
)
def test_bad_constraints_are_named(text: str) -> None:
    with pytest.raises(OptionError, match="expected METRIC<=NUMBER or METRIC>=NUMBER"):
        Constraint.parse(text)


def test_constraints_are_written_as_they_are_read() -> None:
    for text in ("params<=2e6", " val acc >= 0.9 ", "x<=-1"):
        read = Constraint.parse(text)
        assert Constraint.parse(read.describe()) == read
    assert Constraint.parse(" val acc >= 0.9 ").metric == "val acc"


def test_a_violation_is_measured_in_bounds() -> None:
    both = [Constraint.parse("params<=100"), Constraint.parse("accuracy>=0.5")]
    assert violation(both, {"params": 100.0, "accuracy": 0.5}) == 0.0
    assert violation(both, {"params": 150.0, "accuracy": 0.25}) == pytest.approx(1.0)
    assert violation(both, {"params": 1.0}) == math.inf
    assert violation(both, {"params": 1.0, "accuracy": math.nan}) == math.inf
    assert Constraint.parse("x<=0").violation({"x": 3.0}) == 3.0


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 17, 200])
def test_audits_are_listed_as_they_are_told(count: int) -> None:
    assert audit_numbers(count) == [number for number in range(count) if is_audit(number)]


def test_rungs_are_chosen_where_they_pay() -> None:
    assert rungs_that_pay(10, 27.0) == rungs_that_pay(120, 4000.0) == "1/9,1/3,1"
    assert rungs_that_pay(9.9, 27.0) == "1", "the audits would take most of it"
    assert rungs_that_pay(30, 26.0) == "1", "a first rung takes 3 s"
    assert rungs_that_pay(121, 60.0) == rungs_that_pay(math.inf, 60.0) == "1"


def test_open_rungs_are_full_trainings() -> None:
    assert RunSettings().fidelity == "auto"
    assert RunSettings().rungs == (1.0,)
