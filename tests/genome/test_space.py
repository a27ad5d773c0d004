"""Genes and the search space: round trips by hypothesis, and what is refused."""

from __future__ import annotations

import enum
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int, gene_from
from evo_tune.genome.notation import parse_gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome, genome_key

settings.register_profile("patient", deadline=None)  # a busy machine pauses for longer than an example takes
settings.load_profile("patient")

UNIT = st.floats(0.0, 1.0)
SEED = st.integers(0, 2**32 - 1)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    """Floats of every size of range, those too narrow for floating point left out."""
    log = draw(st.booleans())
    if log:
        exponents = st.floats(-300, 299)
        low = 10.0 ** draw(exponents)
        high = min(1e300, low * draw(st.floats(1 + 1e-9, 1e6))) if draw(st.booleans()) else 10.0 ** draw(exponents)
    else:
        bounds = st.one_of(st.floats(-1e300, 1e300), st.floats(-1000, 1000), st.sampled_from([0.0, -0.0, 1e-300]))
        low, high = draw(bounds), draw(bounds)
    assume(low < high)
    try:
        return Float(low, high, log=log)
    except SpaceError as error:
        assume("too close" not in str(error))
        raise


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1, 10**6) if log else st.integers(-(10**18), 10**18))
    step = 1 if log else draw(st.integers(1, 1000))
    steps = draw(st.one_of(st.integers(0, 20), st.integers(0, 10**12 - 1)))
    return Int(low, low + step * steps, log=log, step=step)


def plain_values() -> st.SearchStrategy[Any]:
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    return st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), numbers, st.text(max_size=5))


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    values = draw(
        st.lists(plain_values(), min_size=1, max_size=8, unique_by=lambda v: json.dumps(v + 0.0 if v == 0 else v))
    )
    try:
        return Choice(tuple(values), ordered=draw(st.booleans()))
    except SpaceError:  # two zeros
        assume(False)
        raise


def genes() -> st.SearchStrategy[Gene]:
    return st.one_of(floats(), ints(), choices())


def same(left: object, right: object) -> bool:
    """Equal and of one type: 1 is not True, and 0.0 is not -0.0."""
    return type(left) is type(right) and json.dumps(left) == json.dumps(right)


@given(genes(), UNIT)
def test_a_decoded_value_comes_back_from_its_coordinate(gene: Gene, u: float) -> None:
    value = gene.decode(u)
    coordinate = gene.encode(value)
    assert 0.0 <= coordinate <= 1.0
    assert same(gene.decode(coordinate), value)
    assert same(gene.check(value), value)


@given(genes(), UNIT)
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


def test_the_scale_of_a_log_gene_is_even() -> None:
    assert Float(1e-4, 1e-2, log=True).decode(0.5) == pytest.approx(1e-3)
    draws = [Int(1, 1000, log=True).decode(u) for u in np.linspace(0, 1, 1001)]
    assert 400 < sum(value < 30 for value in draws) < 600


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


def test_a_space_is_read_from_its_description() -> None:
    space = SearchSpace(repair=divide, lr=Float(1e-4, 1e-2, log=True), heads=Int(1, 8), width=Choice((64, 128), True))
    again = SearchSpace.from_description(json.loads(json.dumps(space.describe())))
    assert again == space
    assert again.names == ("lr", "heads", "width")
    assert again.repair is None


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


@pytest.mark.parametrize(
    ("text", "gene"),
    [
        ("float(0, 0.5)", Float(0, 0.5)),
        ("log(1e-5,1e-2)", Float(1e-5, 1e-2, log=True)),
        ("int(1,8)", Int(1, 8)),
        ("int(32,256,32)", Int(32, 256, step=32)),
        ("choice(relu, 2, true)", Choice(("relu", 2, True))),
        ("ordered(64,128)", Choice((64, 128), ordered=True)),
        ("0.1", Choice((0.1,))),
        ("relu|gelu", Choice(("relu", "gelu"))),
        ("16|32", Choice((16, 32), ordered=True)),
        ("true|false", Choice((True, False))),
    ],
)
def test_a_gene_is_read_from_the_command_line(text: str, gene: Gene) -> None:
    assert parse_gene("g", text) == gene


@pytest.mark.parametrize(
    "text",
    [
        "float(0)",
        "float(0,1,2)",
        "float(1,0)",
        "log(0,1)",
        "int(1)",
        "int(1,2,1,1)",
        "int(a,b)",
        "what(1)",
        "float(0,nan)",
        "",
        " ",
        "choice()",
        "choice(a,)",
        "ordered(1,,2)",
        "float(,1)",
        "a|",
        "1|1",
    ],
)
def test_a_gene_that_cannot_be_read_says_what_was_typed(text: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_gene("lr", text)
    assert f"--gene lr={text}" in str(caught.value)


def test_a_typed_value_is_the_genes_own() -> None:
    assert same(Choice(("8", 16)).parse("8"), "8")
    assert same(Choice((8, 16)).parse("8"), 8)
    assert same(Choice((True, "x")).parse("true"), True)
    assert same(Float(0, 1).parse("3e-4"), 3e-4)
    with pytest.raises(SpaceError, match="whole number from 1 to 4"):
        Int(1, 4).parse("9")


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
