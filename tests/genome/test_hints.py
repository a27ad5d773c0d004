"""Hints: priors and conditions as plain data; inactive genes are held at their defaults."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int, gene_from
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome, genome_key

PRIOR = Float(1e-4, 1e-1, log=True, prior=3e-3, spread=2)


@pytest.mark.parametrize(
    "gene", [PRIOR, Int(1, 64, log=True, prior=8, spread=2, when={"kind": ["a", "b"]}), Choice((1, 2), when={"n": 3})]
)
def test_hints_are_plain_data(gene: Gene) -> None:
    assert gene_from(json.loads(json.dumps(gene.describe()))) == gene
    assert hash(gene) == hash(gene_from(gene.describe()))


def test_a_gene_without_hints_is_described_as_it_was() -> None:
    assert Float(0, 1).describe() == {"kind": "float", "low": 0.0, "high": 1.0, "log": False, "default": None}


def test_a_prior_is_the_default_where_there_is_no_other() -> None:
    assert PRIOR.default == 3e-3
    assert Float(0, 1, default=0.2, prior=0.7, spread=0.1).default == 0.2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Float(0, 1, prior=0.5),
        lambda: Float(0, 1, spread=0.5),
        lambda: Float(0, 1, prior=2, spread=0.5),
        lambda: Float(0, 1, prior=0.5, spread=-1),
        lambda: Float(0.1, 1, log=True, prior=0.5, spread=0.9),
        lambda: Choice(("a", "b"), prior="a", spread=1),
        lambda: Choice(("a", "b"), prior="c", spread=0.3),
        lambda: Float(0, 1, when={}),
        lambda: Float(0, 1, when="kind"),
        lambda: SearchSpace(a=Choice((1, 2)), b=Float(0, 1, when={"a": 3})),
        lambda: SearchSpace(a=Choice((1, 2), when={"b": 1}), b=Choice((1, 2), when={"a": 1})),
    ],
)
def test_hints_that_make_no_sense_are_refused(make: object) -> None:
    with pytest.raises(SpaceError, match=r"prior|spread|when"):
        make()  # type: ignore[operator]


def doubled(genome: Genome) -> Genome:
    assert genome["beta"] == 0.9 or genome["kind"] == "adam"  # a repair does not see what does not count
    return genome


TREE = SearchSpace(
    doubled,
    kind=Choice(("sgd", "adam", "muon")),
    beta=Float(0.5, 0.99, default=0.9, when={"kind": "adam"}),
    nested=Choice((1, 2, 3), when={"deep": [True]}),
    deep=Choice((False, True), default=True, when={"kind": ["adam", "muon"]}),
)


def test_a_gene_that_does_not_count_is_held_at_its_default() -> None:
    rng = np.random.default_rng(0)
    drawn = [TREE.sample(rng) for _ in range(200)]
    assert {(one["beta"], one["nested"], one["deep"]) for one in drawn if one["kind"] == "sgd"} == {(0.9, 1, True)}
    assert len({one["beta"] for one in drawn if one["kind"] == "adam"}) > 20
    assert {one["nested"] for one in drawn if one["kind"] == "muon" and one["deep"]} == {1, 2, 3}
    assert all(one["nested"] == 1 for one in drawn if not one["deep"])
    given = {"kind": "sgd", "beta": 0.6, "nested": 3, "deep": False}
    assert TREE.check(given) == {"kind": "sgd", "beta": 0.9, "nested": 1, "deep": True}


def test_genomes_that_differ_in_nothing_that_counts_are_one() -> None:
    space = SearchSpace(a=Choice((1, 2)), b=Choice((1, 2, 3), when={"a": 2}))
    assert len({genome_key(genome) for genome in space.grid()}) == 4


def test_a_condition_on_an_optional_gene_that_is_off_holds() -> None:
    space = SearchSpace(None, {"kind": Choice(("a", "b"))}, x=Choice((1, 2), when={"kind": "b"}))
    assert {genome["x"] for genome in space.grid()} == {1, 2}
    on = space.including(["kind"])
    assert len({genome_key(genome) for genome in on.grid()}) == 3
