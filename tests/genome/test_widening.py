"""One step beyond an end of a range, and the limits up to which a run may take such steps by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int, gene_from, range_ends
from evo_tune.genome.notation import format_gene, parse_gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.widening import (
    ENDS,
    STEPS,
    End,
    end_value,
    widen_end,
    widen_genes,
    widen_to_limits,
    widening_limits,
    widening_steps,
)
from tests.genome.draws import UNIT, choices, floats, genes, ints, same


@pytest.mark.parametrize(
    ("gene", "end", "text"),
    [
        (Float(1e-3, 1e-2, log=True), "low", "log(0.000333333,0.01)"),
        (Float(1e-3, 1e-2, log=True), "high", "log(0.001,0.03)"),
        (Float(1e-3, 1.0, log=True), "high", None),
        (Float(1.0, 3.0), "high", "float(1.0,4.0)"),
        (Float(1.0, 3.0), "low", "float(0.5,3.0)"),
        (Float(-1.0, 1.0), "low", "float(-2.0,1.0)"),
        (Float(0.0, 0.5), "low", None),
        (Float(0.0, 0.9), "high", "float(0.0,0.95)"),
        (Float(0.0, 1.0), "high", None),
        (Int(2, 8), "high", "int(2,11)"),
        (Int(2, 8), "low", "int(1,8)"),
        (Int(1, 64, log=True), "high", "int(1,192)"),
        (Int(32, 128, step=32), "high", "int(32,160,32)"),
        (Int(32, 128, step=32), "low", None),
        (Int(1, 8), "low", None),
        (Int(3, 3), "high", None),
        (Choice((512, 1024, 2048), ordered=True), "high", "ordered(512,1024,2048,4096)"),
        (Choice((512, 1024, 2048), ordered=True), "low", "ordered(256,512,1024,2048)"),
        (Choice((64, 32, 16), ordered=True), "high", "ordered(64,32,16,8)"),
        (Choice((0.1, 0.3), ordered=True), "high", "ordered(0.1,0.3,0.9)"),
        (Choice((0.9, 0.99), ordered=True), "high", None),
        (Choice((0, 1, 2), ordered=True), "low", None),
        (Choice((1, 2), ordered=True), "low", None),
        (Choice(("small", "large"), ordered=True), "high", None),
        (Choice((1, 2, 4)), "high", None),
        (Choice((48, 80), ordered=True), "low", "ordered(32,48,80)"),
        (Choice((48, 80), ordered=True), "high", "ordered(48,80,128)"),
    ],
)
def test_a_step_follows_the_scale_and_stops_at_natural_ends(gene: Gene, end: End, text: str | None) -> None:
    wide = widen_end(gene, end)
    assert (None if wide is None else format_gene(replace(wide, default=None))) == text  # type: ignore[type-var]
    if text is not None:
        parse_gene("x", text)  # it can be typed


@pytest.mark.parametrize(
    ("gene", "limits"),
    [
        (Float(3e-4, 3e-2, log=True), (3e-5, 0.3)),
        (Float(3e-4, 3e-2, log=True, widest=(None, 0.1)), (3e-5, 0.1)),
        (Float(0.0, 0.5), (0.0, 0.875)),
        (Float(1.0, 3.0), (0.1, 5.0)),
        (Int(1, 4), (0.1, 7)),
        (Choice((64, 128), ordered=True), (6.4, 1280)),
        (Choice((1e-305, 0.5), ordered=True), (1e-305, 5)),
        (Choice((64, 128), ordered=True, widest=(64, 128)), (64, 128)),
        (Choice((64, 128)), None),
        (Choice((64,), ordered=True), None),
        (Choice((True, False), ordered=True), None),
    ],
)
def test_limits_are_those_of_the_gene_or_ten_times_its_ends(gene: Gene, limits: tuple[float, float] | None) -> None:
    assert widening_limits(gene) == limits


def numeric() -> st.SearchStrategy[Gene]:
    numbers = st.lists(st.integers(-(2**62), 2**62) | st.integers(1, 100), min_size=1, max_size=6, unique=True)
    decimals = st.lists(st.floats(-1e290, 1e290) | st.floats(0.01, 1.0), min_size=1, max_size=6, unique=True)
    ordered = (numbers | decimals).map(lambda values: Choice(tuple(sorted(values)), ordered=True))
    return st.one_of(floats(), ints(), choices(), ordered)


@given(numeric(), st.sampled_from(ENDS), UNIT)
def test_a_wider_range_has_all_old_values_and_moves_one_end(gene: Gene, end: End, u: float) -> None:
    limits = widening_limits(gene)
    wide = None if limits is None else widen_end(gene, end, limits)
    if wide is None or limits is None:
        return
    widen_genes({"x": gene}, {"x": wide})  # raises where a value is lost, or the range is not wider
    low, high = range_ends(wide) or (0, 0)
    assert limits[0] <= low <= high <= limits[1]
    other: End = "low" if end == "high" else "high"
    assert same(end_value(wide, other), end_value(gene, other))
    assert not same(end_value(wide, end), end_value(gene, end))
    value = wide.decode(u)
    assert same(wide.decode(wide.encode(value)), value)
    old = gene.decode(u)
    assert wide.check(old) == pytest.approx(old, rel=1e-5, abs=1e-5 * (float(high) - float(low)))
    assert wide.default == wide.check(gene.middle()), "the default genome stays"
    assert gene_from(wide.describe()) == wide


@given(numeric())
def test_steps_end_at_the_limits(gene: Gene) -> None:
    limits = widening_limits(gene)
    for end in ENDS:
        assert len(list(widening_steps(gene, end, limits))) <= STEPS
    assert widen_to_limits(gene, None) is gene
    wide = widen_to_limits(gene, limits)
    assert set(SearchSpace(x=gene).describe()) == set(SearchSpace(x=wide).describe())


@given(genes(), st.tuples(st.none() | st.floats(allow_nan=False), st.none() | st.floats(allow_nan=False)))
def test_limits_survive_json_and_the_notation(gene: Gene, limits: tuple[float | None, float | None]) -> None:
    try:
        limited: Gene = replace(gene, widest=limits)  # type: ignore[type-var]
    except SpaceError:
        ends = range_ends(gene)
        assert (
            ends is None
            or any(limit is not None and not abs(limit) <= 1e300 for limit in limits)
            or (limits[0] is not None and limits[0] > ends[0])
            or (limits[1] is not None and limits[1] < ends[1])
        )
        return
    assert gene_from(limited.describe()) == limited
    if isinstance(gene, Float):
        assert parse_gene("x", format_gene(limited)) == limited


@pytest.mark.parametrize("widest", [5, (1,), (2e-4, None), (None, 5e-3), ("a", 1), (float("nan"), None), (None, True)])
def test_limits_inside_the_range_or_malformed_are_refused(widest: object) -> None:
    with pytest.raises(SpaceError, match="widest="):
        Float(1e-4, 1e-2, log=True, widest=widest)  # type: ignore[arg-type]


def test_limits_scale_with_the_range() -> None:
    assert Float(1.0, 2.0, widest=(None, 4.0)).times(10.0).widest == (None, 40.0)
