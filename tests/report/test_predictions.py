"""What a run teaches: predicted values of genomes that were not trained, effects of genes, and open questions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evo_tune.errors import SpaceError
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.loop.search import Search
from evo_tune.report.predictions import gene_effects, open_questions, predict_genomes
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from tests.conftest import drive

Begin = Callable[..., Search]


def parabola(search: Search, candidate: Candidate) -> dict[str, float]:
    return {"loss": (float(candidate.genome["x"]) - 0.4) ** 2, "cost": 1.0}


def trained(begin: Begin, trials: int, objective: str = "loss:min") -> Run:
    search = begin(strategy="random", generations=None, trials=trials, objectives=[objective])
    drive(search, evaluate=parabola)
    return Run.open(search.saved.folder)


@pytest.mark.parametrize("objective", ["loss:min", "loss:max"])
def test_predictions_are_near_the_true_values(begin: Begin, objective: str) -> None:
    run = trained(begin, 30, objective)
    points = [-0.9, -0.5, 0.0, 0.3, 0.7]
    rows = predict_genomes(run, [{"x": x} for x in points])
    predicted = np.array([row.value for row in rows], dtype=float)
    true = np.array([(x - 0.4) ** 2 for x in points])
    assert np.abs(predicted - true).max() < 0.1
    assert all(row.low is not None and row.low < row.value < row.high for row in rows)
    assert rows[0].genome == {"x": -0.9, "n": 6, "kind": "a"}


def test_the_chance_is_that_of_a_new_best(begin: Begin) -> None:
    run = trained(begin, 30)
    best = run.ranked()[0].genome
    bad, good = predict_genomes(run, [{**best, "x": -0.9}, {**best, "x": 0.4}])
    assert bad.chance is not None
    assert good.chance is not None
    assert bad.chance < 0.01 < good.chance <= 1.0


def test_a_value_outside_of_a_range_is_predicted_as_in_the_wider_one(begin: Begin) -> None:
    run = trained(begin, 30)
    (row,) = predict_genomes(run, [{"x": 1.5}])
    assert row.value is not None
    assert row.value > 0.4
    with pytest.raises(SpaceError, match="gene x: 9 is not allowed"):
        predict_genomes(run, [{"x": 9}])
    assert run.widened == []


def test_nothing_is_predicted_from_few_or_equal_results(begin: Begin) -> None:
    assert predict_genomes(trained(begin, 9), [{"x": 0.5}])[0].value is None
    search = begin(strategy="random", generations=None, trials=12)
    drive(search, evaluate=lambda search, candidate: {"loss": 1.0, "cost": 1.0})
    (row,) = predict_genomes(search.saved, [{"x": 0.5}])
    assert (row.value, row.low, row.high, row.chance) == (None, None, None, None)


def test_effects_have_the_share_and_the_course_of_a_gene(begin: Begin) -> None:
    data = RunData(trained(begin, 40))
    effects = gene_effects(data)
    assert next(iter(effects)) == "x"
    assert effects["x"].low <= effects["x"].share <= effects["x"].high
    assert effects["x"].share > 0.6
    assert [value for value, _ in effects["kind"].values] == ["a", 2, True]
    values = dict(effects["x"].values)
    lowest = min(values, key=lambda x: values[x])
    assert abs(float(lowest) - 0.4) < 0.5
    assert values[max(values)] < values[min(values)]
    assert gene_effects(RunData(trained(begin, 12))) == {}


def test_values_without_a_result_are_open_questions(begin: Begin) -> None:
    search = begin(strategy="random", generations=None, trials=30)

    def only_a(search: Search, candidate: Candidate) -> object:
        return parabola(search, candidate) if candidate.genome["kind"] == "a" else Outcome("failed", error="no")

    drive(search, evaluate=only_a)
    questions = list(open_questions(RunData(Run.open(search.saved.folder))))
    assert "No full training has a value for kind=2 or True." in questions
    assert any("failed" in question for question in questions)
