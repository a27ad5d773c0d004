"""Values and genomes: what is the same."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from evo_tune.genome.values import common_step, genome_key, is_same, mean_of

VALUES = [0, 1, -1, 0.0, -0.0, 1.0, -1.0, 5, 5.0, True, False, "1", "", 0.1, 1e300, 2**63, float("nan"), [1], [1.0]]


def test_two_genomes_are_one_where_their_json_is() -> None:
    for value, other in itertools.product(VALUES, VALUES):
        one, two = {"a": value, "b": 1}, {"b": 1, "a": other}
        assert is_same(one, two) == (genome_key(one) == genome_key(two)), (value, other)  # type: ignore[arg-type]
    assert not is_same({"a": 1}, {"a": 1, "b": 1})
    assert not is_same({"a": 1, "b": 1}, {"a": 1})
    assert is_same({"a": 0.1, "b": 2, "c": "x"}, json.loads('{"c": "x", "b": 2, "a": 0.1}'))


@pytest.mark.parametrize("value", [object(), float, {1, 2}])
def test_what_is_no_plain_data_is_nobodys(value: object) -> None:
    assert not is_same({"a": value}, {"a": value})  # type: ignore[dict-item]


def test_finite_numbers_have_a_finite_mean() -> None:
    assert mean_of([1.5e308, 1.7e308]) == pytest.approx(1.6e308)
    assert mean_of([(1.7e308, 1.0), (1.7e308, 2.0)]).tolist() == [1.7e308, 1.5]
    assert mean_of([1.0, np.inf]) == np.inf
    values = np.random.default_rng(0).normal(size=13).tolist()
    assert mean_of(values) == np.mean(values), "to the bit: older runs rest on it"


def test_the_step_of_a_metric_is_found_and_others_have_none() -> None:
    rng = np.random.default_rng(0)
    accuracies = rng.integers(0, 51, 12) / 50
    assert common_step(accuracies.tolist()) == pytest.approx(0.02)
    assert common_step(accuracies.astype(np.float32).tolist()) == pytest.approx(0.02, rel=1e-4)
    assert common_step((1e6 + 3 * rng.integers(0, 9, 12)).tolist()) == 3.0
    assert common_step(rng.normal(size=12).tolist()) < 1e-2
    assert common_step([0.7, 0.7]) == 0.0
    assert common_step([0.3, 0.1 + 0.2, 0.4], 1e-12) == pytest.approx(0.1)
