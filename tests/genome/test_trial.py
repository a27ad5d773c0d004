"""The nouns that travel: JSON and back, signs, and what an evaluator's return value is worth."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.trial import (
    STATUSES,
    Candidate,
    Maximize,
    Minimize,
    Objective,
    Outcome,
    Proposal,
    Trial,
    check_metrics,
    trial_seed,
)


def test_fresh_births_count() -> None:
    born = {"id": 1, "generation": 0, "seed": 0, "reported_before": 0, "genome": {"n": 1}, "operator": ""}
    assert Candidate(**born).fresh  # type: ignore[arg-type]
    assert Candidate(**born, budget=0.5).fresh  # type: ignore[arg-type]
    assert not Candidate(**born, resumes=0).fresh  # type: ignore[arg-type]
    assert not Candidate(**born, extra_seed=1).fresh  # type: ignore[arg-type]


def test_parents_may_be_given_as_a_list() -> None:
    assert Proposal({"n": 1}, "mutation", [3, 4]).parents == (3, 4)  # type: ignore[arg-type]


def test_the_sign_flips_in_one_place() -> None:
    assert Minimize("loss").loss({"loss": 2.0}) == 2.0
    assert Maximize("acc").loss({"acc": 2.0}) == -2.0
    assert Maximize("acc").value(-2.0) == 2.0
    assert (Minimize("a").direction, Maximize("a").direction) == ("min", "max")


@given(st.text(min_size=1), st.booleans())
def test_an_objective_is_read_as_it_is_written(metric: str, smaller: bool) -> None:
    objective = Minimize(metric) if smaller else Maximize(metric)
    assert Objective.parse(objective.describe()) == objective


@pytest.mark.parametrize("text", ["", "loss", "loss:", ":min", "loss:minimum", "min:loss"])
def test_an_objective_that_cannot_be_read_says_what_was_expected(text: str) -> None:
    with pytest.raises(SpaceError, match="METRIC:min or METRIC:max") as caught:
        Objective.parse(text)
    assert repr(text) in str(caught.value)


OBJECTIVES = (Minimize("loss"), Maximize("acc"))


def trial_of(outcome: Outcome, budget: float = 1.0) -> Trial:
    return Trial.of(Candidate(3, 0, 0, 0, {"n": 1}, "given", budget=budget), outcome, 7, OBJECTIVES)


def test_losses_are_all_minimised() -> None:
    trial = trial_of(Outcome("ok", {"loss": 1.0, "acc": 0.5, "other": math.nan}))
    assert trial.losses == (1.0, -0.5)
    assert (trial.id, trial.genome, trial.reported_order) == (3, {"n": 1}, 7)
    assert trial.ok
    assert trial.rankable


@pytest.mark.parametrize("status", STATUSES[1:])
def test_a_failure_has_no_losses(status: Any) -> None:
    trial = trial_of(Outcome(status, {"loss": 1.0, "acc": 0.5}))
    assert trial.losses is None
    assert not trial.ok
    assert not trial.rankable


@pytest.mark.parametrize("metrics", [{"loss": math.nan, "acc": 1.0}, {"loss": 1.0, "acc": math.inf}, {"loss": 1.0}, {}])
def test_an_objective_that_is_no_number_leaves_no_losses(metrics: dict[str, float]) -> None:
    assert trial_of(Outcome("ok", metrics)).losses is None


def test_partly_trained_models_are_ok_but_not_ranked() -> None:
    trial = trial_of(Outcome("ok", {"loss": 1.0, "acc": 0.5}), budget=0.5)
    assert trial.ok
    assert not trial.rankable


class Broken:
    def __float__(self) -> float:
        raise RuntimeError("a tensor with 2 elements cannot be a number")

    def __repr__(self) -> str:
        return "tensor"


@pytest.mark.parametrize(
    ("returned", "status", "said"),
    [
        (None, "failed", "returned a NoneType: expected a dict"),
        ([("loss", 1.0)], "failed", "returned a list"),
        (1.0, "failed", "returned a float"),
        ({}, "failed", "no 'loss' (it returned nothing)"),
        ({"acc": 1.0}, "failed", "no 'loss' (it returned acc)"),
        ({"loss": None, "acc": 1.0}, "failed", "loss=None: expected a number"),
        ({"loss": "low", "acc": 1.0}, "failed", "loss='low': expected a number"),
        ({"loss": 1j, "acc": 1.0}, "failed", "expected a number"),
        ({"loss": 10**400, "acc": 1.0}, "failed", "expected a number"),
        ({"loss": np.ones(2), "acc": 1.0}, "failed", "expected a number"),
        ({"loss": 1.0, "acc": 1.0, "more": Broken()}, "failed", "more=tensor: expected a number"),
        ({"loss": math.nan, "acc": 1.0}, "diverged", "loss is nan"),
        ({"loss": 1.0, "acc": -math.inf}, "diverged", "acc is -inf"),
    ],
)
def test_what_an_evaluator_returns_is_judged(returned: object, status: str, said: str) -> None:
    verdict, metrics, error = check_metrics(returned, OBJECTIVES)
    assert verdict == status
    assert metrics == {}
    assert error is not None
    assert said in error


@pytest.mark.parametrize(
    "returned",
    [
        {"loss": "x" * 9999, "acc": 1.0},
        {f"metric{i}": 1.0 for i in range(999)},
        {"loss" * 999: "low", "acc": 1.0},
        {"loss": "two\nlines \x1b[31m", "acc": 1.0},
        {"\x1b[31mloss": None, "acc": 1.0},
        {"\udcff": None},
    ],
)
def test_what_is_wrong_is_one_short_line(returned: dict[str, Any]) -> None:
    _, _, error = check_metrics(returned, OBJECTIVES)
    assert error is not None
    assert len(error) <= 400
    assert error.isprintable()
    assert "expected a number" in error or "no 'loss'" in error or len(next(iter(returned))) > 400


def test_metric_names_can_be_written() -> None:
    status, metrics, _ = check_metrics({"loss": 1.0, "acc": 1.0, "\udcff": 2.0, 3: 4.0, "é": 5.0}, OBJECTIVES)
    assert status == "ok"
    assert list(metrics) == ["loss", "acc", "\\udcff", "3", "é"]


def test_good_metrics_become_plain_numbers() -> None:
    returned = OrderedDict(loss=np.float32(0.5), acc=1, flag=True, extra=math.nan)
    status, metrics, error = check_metrics(returned, OBJECTIVES)
    assert (status, error) == ("ok", None)
    assert {type(value) for value in metrics.values()} == {float}
    assert metrics["loss"] == 0.5
    assert math.isnan(metrics["extra"])


@pytest.mark.parametrize("keys", [[None], ['{"lr":0.1}', '{"lr":0.2}', None]], ids=["shared", "own"])
def test_every_extra_seed_is_another_seed_and_every_genome_that_has_its_own(keys: list[str | None]) -> None:
    seeds = [trial_seed(run, extra_seed, key) for run in range(20) for extra_seed in range(20) for key in keys]
    assert len(set(seeds)) == 400 * len(keys)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds == [trial_seed(run, extra_seed, key) for run in range(20) for extra_seed in range(20) for key in keys]
