"""Genes: round trips by hypothesis, and what is refused."""

from __future__ import annotations

import enum
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int, gene_from
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import genome_key
from tests.genome.draws import SEED, UNIT, choices, floats, genes, ints, same


@given(genes(), UNIT)
def test_a_decoded_value_comes_back_from_its_coordinate(gene: Gene, u: float) -> None:
    value = gene.decode(u)
    coordinate = gene.encode(value)
    assert 0.0 <= coordinate <= 1.0
    assert same(gene.decode(coordinate), value)
    assert same(gene.check(value), value)


NEAR = Float(4.7434301505650025e-07, 4.743430155308433e-07, log=True)
"""Its low end lies half way between two rounded numbers."""


@given(genes(), UNIT)
@example(NEAR, 0.0)
@example(Float(0.1 + 5e-8, 0.2), 0.0)
def test_a_value_survives_json(gene: Gene, u: float) -> None:
    value = gene.decode(u)
    assert same(gene.check(json.loads(json.dumps(value))), value)


@given(ints())
def test_every_whole_number_is_reached(gene: Int) -> None:
    count = gene.size
    places = range(count) if count <= 50 else [0, 1, count // 3, count // 2, count - 2, count - 1]
    for place in places:
        value = gene.low + place * gene.step
        assert gene.decode(gene.encode(value)) == value
    assert (gene.decode(0.0), gene.decode(1.0)) == (gene.low, gene.high)


@given(choices())
def test_every_choice_is_reached(gene: Choice) -> None:
    for value in gene.values:
        assert same(gene.decode(gene.encode(value)), value)


@given(floats())
def test_a_float_has_many_values_over_its_whole_range(gene: Float) -> None:
    values = {gene.decode(u) for u in np.linspace(0, 1, 51)}
    assert all(gene.low <= value <= gene.high for value in values)
    scale = (lambda v: math.log(v)) if gene.log else (lambda v: v / 2)  # halves do not overflow
    low, high = scale(gene.low), scale(gene.high)
    assert scale(min(values)) - low <= 0.02 * (high - low)
    assert high - scale(max(values)) <= 0.02 * (high - low)
    assert len(values) == 51


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # few ranges are as wide
@given(floats(), UNIT)
def test_a_float_is_short_to_write_where_its_range_is_wide(gene: Float, u: float) -> None:
    value = gene.decode(u)
    assume(gene.log and gene.high / gene.low > 10 and gene.low < value < gene.high)
    assert len(f"{value:.6g}") <= 12
    assert float(f"{value:.6g}") == value


@given(genes(), UNIT, st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1e-300, 1e-9, 10.0])), SEED)
def test_mutation_changes_the_value_and_stays_inside(gene: Gene, u: float, scale: float, seed: int) -> None:
    mutated = gene.mutate(u, np.random.default_rng(seed), scale)
    assert 0.0 <= mutated <= 1.0
    assert gene.size == 1 or not same(gene.decode(mutated), gene.decode(u))


@given(genes(), UNIT, SEED)
def test_mutation_depends_on_its_generator_alone(gene: Gene, u: float, seed: int) -> None:
    one, other = (gene.mutate(u, np.random.default_rng(seed), 0.1) for _ in range(2))
    assert one == other


@given(genes(), UNIT)
def test_neighbours_are_other_values_one_step_away(gene: Gene, u: float) -> None:
    around = gene.neighbours(u)
    assert all(0.0 <= v <= 1.0 for v in around)
    assert not any(same(gene.decode(v), gene.decode(u)) for v in around)
    assert around or gene.size == 1
    if isinstance(gene, Int):
        assert {abs(gene.decode(v) - gene.decode(u)) for v in around} <= {gene.step}


@given(genes())
def test_a_gene_is_built_again_from_its_description(gene: Gene) -> None:
    again = gene_from(json.loads(json.dumps(gene.describe())))
    assert again == gene
    assert again.describe() == gene.describe()
    assert pickle.loads(pickle.dumps(gene)) == gene


@given(genes(), UNIT)
def test_a_gene_keeps_its_default(gene: Gene, u: float) -> None:
    default = gene.decode(u)
    fields = {**gene.describe(), "default": default}
    assert same(gene_from(fields).middle(), default)


def test_the_scale_of_a_log_gene_is_even() -> None:
    assert Float(1e-4, 1e-2, log=True).decode(0.5) == pytest.approx(1e-3)
    draws = [Int(1, 1000, log=True).decode(u) for u in np.linspace(0, 1, 1001)]
    assert 400 < sum(value < 30 for value in draws) < 600


@given(floats())
@example(NEAR)
@example(Float(1 / 3, 2 / 3))
def test_the_ends_of_a_range_are_its_bounds(gene: Float) -> None:
    assert (gene.decode(0.0), gene.decode(1.0)) == (gene.low, gene.high)
    assert (gene.check(gene.low), gene.check(gene.high)) == (gene.low, gene.high)


def test_zero_is_one_value() -> None:
    assert genome_key({"x": Float(-1, 1).decode(0.5 - 1e-9)}) == '{"x":0.0}'
    assert genome_key({"x": Float(-0.0, 1).decode(0)}) == '{"x":0.0}'
    with pytest.raises(SpaceError, match="given twice"):
        Choice((0.0, -0.0))


def test_the_largest_whole_numbers_are_allowed() -> None:
    for number in (-(2**63), 2**63 - 1):
        assert Int(number, number).decode(0.5) == Choice((number,)).decode(0.5) == number


def test_a_bool_is_no_number() -> None:
    gene = Choice((0, 1, True, False, "1"))
    assert [same(gene.decode(gene.encode(v)), v) for v in gene.values] == [True] * 5
    with pytest.raises(SpaceError):
        Choice((1, 2)).check(True)
    with pytest.raises(SpaceError):
        Int(0, 2).check(True)
    with pytest.raises(SpaceError):
        Float(0, 2).check(True)


def test_numbers_of_other_types_are_taken_as_the_genes_own() -> None:
    assert same(Int(1, 8).check(np.int64(4)), 4)
    assert same(Int(1, 8).check(4.0), 4)
    assert same(Float(0, 8).check(np.float32(0.5)), 0.5)
    assert same(Float(0, 8).check(4), 4.0)
    assert same(Choice((8, 16)).check(8.0), 8)
    assert same(Choice(("a", "b")).check(np.str_("a")), "a")
    assert same(Choice((True, 2)).check(np.bool_(True)), True)
    assert Choice(np.array([1, 2]).tolist()).values == (1, 2)
    assert Choice((np.int64(1), np.float64(0.5))).values == (1, 0.5)
    assert Choice(range(3)).values == (0, 1, 2)


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Float(1, 1), "low must be below high"),
        (lambda: Float(2, 1), "low must be below high"),
        (lambda: Float(0, math.inf), "high=inf"),
        (lambda: Float(math.nan, 1), "low=nan"),
        (lambda: Float(0, 10**400), "high="),
        (lambda: Float(True, 2), "low=True"),
        (lambda: Float("0", 1), "low='0'"),
        (lambda: Float(0, 1, log=True), "low above 0"),
        (lambda: Float(1, math.nextafter(1, 2)), "too close"),
        (lambda: Float(0, 5e-324), "too close"),
        (lambda: Float(5e-324, 1, log=True), "low above 0"),
        (lambda: Float(1, 1 + 1e-15, log=True), "too close"),
        (lambda: Float(0, 1, default=2), "default 2 is not allowed: expected a number from 0 to 1"),
        (lambda: Int(2, 1), "low must not be above high"),
        (lambda: Int(0, 1.5), "high=1.5"),
        (lambda: Int(0, math.inf), "high=inf"),
        (lambda: Int(0, math.nan), "high=nan"),
        (lambda: Int(0, 10, step=3), "step must lead"),
        (lambda: Int(0, 10, step=0), "step must lead"),
        (lambda: Int(0, 10, log=True), "low of at least 1"),
        (lambda: Int(1, 9, step=2, log=True), "no step"),
        (lambda: Int(0, 10**13), "use a Float"),
        (lambda: Int(2**63 - 1, 2**63), "high is a whole number of 64 bits: expected one from -2**63 to 2**63 - 1"),
        (lambda: Int(-(2**63) - 1, -(2**63)), "low is a whole number of 64 bits"),
        (lambda: Int(0, 10**5000), "high is a whole number of 16610 bits"),
        (lambda: Choice((1, 2**63)), "Choice: a value is a whole number of 64 bits: expected one from"),
        (lambda: Choice(("a", "\udcff")), r"Choice: '\udcff' cannot be written as UTF-8"),
        (lambda: SearchSpace(**{"\udcff": Int(1, 2)}), r"gene '\udcff': its name cannot be written as UTF-8"),
        (lambda: Int(0, 4, default=5), "default 5 is not allowed"),
        (lambda: Choice(()), "one or more"),
        (lambda: Choice("abc"), "expected a list"),
        (lambda: Choice((1, 1)), "given twice"),
        (lambda: Choice((math.nan,)), "plain number"),
        (lambda: Choice((None,)), "plain number"),
        (lambda: Choice(([1],)), "plain number"),
        (lambda: Choice((Colour.RED,)), "plain number"),
        (lambda: Choice((1, 2), default=3), "default 3 is not allowed: expected one of 1, 2"),
        (lambda: SearchSpace(), "at least one gene"),
        (lambda: SearchSpace(x=(0, 1)), "'x'"),
        (lambda: SearchSpace(Float(0, 1), y=Float(0, 1)), "repair="),
        (lambda: gene_from({"kind": "fractal"}), "float, int, choice"),
        (lambda: gene_from({"kind": "float", "low": 0}), "cannot be read"),
    ],
)
def test_what_makes_no_gene_is_refused_in_one_line(make: Any, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        make()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_typed_value_is_the_genes_own() -> None:
    assert same(Choice(("8", 16)).parse("8"), "8")
    assert same(Choice((8, 16)).parse("8"), 8)
    assert same(Choice((True, "x")).parse("true"), True)
    assert same(Float(0, 1).parse("3e-4"), 3e-4)
    with pytest.raises(SpaceError, match="whole number from 1 to 4"):
        Int(1, 4).parse("9")
