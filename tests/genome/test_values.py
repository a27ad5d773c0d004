"""Values and genomes: what is the same."""

from __future__ import annotations

import itertools
import json

import pytest

from evo_tune.genome.values import genome_key, is_same

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
