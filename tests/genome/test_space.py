"""The search space: repair, grids, defaults, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome, genome_key
from tests.genome.draws import SEED, choices, genes, same


@given(st.lists(genes(), min_size=1, max_size=5), SEED)
def test_snapping_is_idempotent(kinds: list[Gene], seed: int) -> None:
    space = SearchSpace(**{f"g{i}": gene for i, gene in enumerate(kinds)})
    genome = space.sample(np.random.default_rng(seed))
    units = space.encode(genome)
    assert units.shape == (len(kinds),)
    assert units.dtype == np.float64
    assert genome_key(space.snap(units)) == genome_key(genome)
    assert genome_key(space.check(genome)) == genome_key(genome)
    assert genome_key(space.check(json.loads(genome_key(genome)))) == genome_key(genome)


@given(st.lists(genes(), min_size=1, max_size=5), SEED)
def test_features_are_in_the_unit_box_and_lead_back_to_the_genome(kinds: list[Gene], seed: int) -> None:
    space = SearchSpace(**{f"g{i}": gene for i, gene in enumerate(kinds)})
    rng = np.random.default_rng(seed)
    genomes = [space.sample(rng) for _ in range(3)]
    features = space.to_features(np.stack([space.encode(genome) for genome in genomes]))
    sizes = [gene.size if isinstance(gene, Choice) and not gene.ordered else 1 for gene in kinds]
    assert features.shape == (3, sum(sizes))
    assert ((features >= 0.0) & (features <= 1.0)).all()
    assert [genome_key(space.from_features(row)) for row in features] == [genome_key(genome) for genome in genomes]


@given(st.lists(st.one_of(st.integers(1, 4).map(lambda n: Int(3, 2 + n)), choices()), min_size=1, max_size=3))
@settings(max_examples=30)
def test_a_grid_holds_every_genome_once(kinds: list[Gene]) -> None:
    space = SearchSpace(**{f"g{i}": gene for i, gene in enumerate(kinds)})
    keys = [genome_key(genome) for genome in space.grid()]
    assert len(set(keys)) == len(keys) == space.size


def test_a_grid_holds_each_value_of_a_log_int_once() -> None:
    assert [g["n"] for g in SearchSpace(n=Int(1, 9, log=True)).grid()] == list(range(1, 10))


def test_a_grid_is_repaired() -> None:
    def even(genome: Genome) -> Genome:
        return {"n": 2 * (int(genome["n"]) // 2)}

    assert {g["n"] for g in SearchSpace(repair=even, n=Int(0, 5)).grid()} == {0, 2, 4}


def test_a_space_with_a_float_has_no_grid() -> None:
    with pytest.raises(SpaceError, match="Float"):
        next(SearchSpace(x=Float(0, 1)).grid())


def test_sizes_may_be_beyond_a_float() -> None:
    many: dict[str, Gene] = {f"g{i}": Int(1, 10**12) for i in range(40)}
    assert SearchSpace(**many).size == 10**480
    assert SearchSpace(**many, x=Float(0, 1)).size == math.inf


@pytest.mark.parametrize("value", [-1, 9, 1.5, math.nan, math.inf, 10**400, "4", None, True])
def test_a_wrong_value_is_refused(value: object) -> None:
    with pytest.raises(SpaceError, match=r"gene depth: .*whole number from 0 to 8"):
        SearchSpace(depth=Int(0, 8)).check({"depth": value})


@pytest.mark.parametrize("value", [-1, math.nextafter(1, 2), math.nan, math.inf, 10**400, "0.5", None])
def test_a_wrong_number_is_refused(value: object) -> None:
    with pytest.raises(SpaceError, match="expected a number from 0 to 1"):
        SearchSpace(x=Float(0, 1)).check({"x": value})


def test_unknown_and_missing_genes_are_named() -> None:
    space = SearchSpace(lr=Float(0, 1), depth=Int(1, 4, default=2))
    with pytest.raises(SpaceError, match="unknown gene dept: expected lr, depth"):
        space.check({"lr": 0.5, "dept": 2})
    with pytest.raises(SpaceError, match="missing gene depth"):
        space.check({"lr": 0.5})
    with pytest.raises(SpaceError, match="unknown gene 3, dept: expected lr, depth"):
        space.check({"dept": 2, 3: 4})  # type: ignore[dict-item]
    assert space.check({"lr": 0.5}, fill_defaults=True) == {"lr": 0.5, "depth": 2}


def divide(genome: Genome) -> Genome:
    """Heads must divide width."""
    heads = int(genome["heads"])
    while int(genome["width"]) % heads:
        heads -= 1
    return {**genome, "heads": heads}


@given(SEED)
def test_repair_comes_before_everything(seed: int) -> None:
    space = SearchSpace(repair=divide, width=Int(8, 128, step=8), heads=Int(1, 12), x=Float(0, 1))
    genome = space.sample(np.random.default_rng(seed))
    assert int(genome["width"]) % int(genome["heads"]) == 0
    assert space.snap(space.encode(genome)) == genome
    assert space.check({"width": 8, "heads": 7, "x": 0.5})["heads"] == 4
    assert list(space.snap([0.0, 1.0, 0.5])) == ["width", "heads", "x"]


@pytest.mark.parametrize(
    ("repair", "said"),
    [
        (lambda genome: None, "got None"),
        (lambda genome: {"n": 1, "m": 2}, "the genes n"),
        (lambda genome: {"n": 99}, r"repair\({'n': .*}\) left the space"),
    ],
)
def test_a_repair_that_breaks_its_contract_is_named(repair: Any, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        SearchSpace(repair=repair, n=Int(1, 4)).default()


def test_a_repair_may_use_numpy() -> None:
    space = SearchSpace(repair=lambda genome: {"n": np.gcd(genome["n"], 12)}, n=Int(1, 12))
    assert same(space.check({"n": 8})["n"], 4)


def test_a_gene_may_have_any_name_but_repair() -> None:
    assert SearchSpace(**{"self": Int(1, 2), "a b": Int(1, 2)}).names == ("self", "a b")


def test_defaults_are_the_middle_or_what_is_given() -> None:
    space = SearchSpace(
        a=Float(0, 1),
        b=Float(1e-4, 1e-2, log=True),
        c=Int(1, 9),
        d=Choice(("x", "y")),
        e=Choice((1, 2, 3), ordered=True),
    )
    assert space.default() == {"a": 0.5, "b": 1e-3, "c": 5, "d": "x", "e": 2}
    assert SearchSpace(d=Choice((False, True), default=True)).default() == {"d": True}


def test_optional_genes_are_off_until_they_are_named() -> None:
    space = SearchSpace(None, {"b": Int(1, 3), "c": Choice(("x", "y"))}, a=Float(0, 1))
    assert space.names == ("a",)
    on = space.including(["c", "unheard-of"])
    assert on.names == ("a", "c")
    assert set(on.optional) == {"b"}
    with pytest.raises(SpaceError, match="twice"):
        SearchSpace(None, {"a": Int(1, 3)}, a=Float(0, 1))
    with pytest.raises(SpaceError, match="not a Gene"):
        SearchSpace(None, {"b": 3}, a=Float(0, 1))  # type: ignore[dict-item]


def test_a_repair_with_two_parameters_sees_the_genes_as_they_are() -> None:
    def largest(genome: Genome, genes: dict[str, Gene]) -> Genome:
        return {**genome, "n": genes["n"].decode(1.0)}

    for gene in (Int(1, 9), Choice((2, 4), ordered=True)):
        assert SearchSpace(largest, n=gene).default() == {"n": gene.decode(1.0)}
