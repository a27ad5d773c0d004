"""The genes that a user gives instead of the evaluator's own: taken as they were meant, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.notation import parse_gene
from evo_tune.loop.search import Search


@pytest.mark.parametrize(
    ("name", "text", "gene"),
    [
        ("lr", "2", Choice((2,))),
        ("lr", "choice(0.5, 2)", Choice((0.5, 2), default=0.5)),
        ("lr", "int(0,3)", Int(0, 3)),
        ("depth", "99", Choice((99,))),
        ("depth", "2.0", Choice((2,), default=2)),
        ("depth", "ordered(1e1,20)", Choice((10, 20), ordered=True)),
        ("size", "1", Choice(("1",), default="1")),
        ("size", "choice(two,three)", Choice(("two", "three"))),
        ("width", "int(8,64,8)", Int(8, 64, step=8, default=8)),
        ("width", "128", Choice((128,))),
        ("tied", "false", Choice((False,))),
        ("mixed", "1.5", Choice((1.5,))),
    ],
)
def test_a_gene_of_the_same_type_is_taken(search: Callable[..., Search], name: str, text: str, gene: Gene) -> None:
    assert search(genes={name: parse_gene(name, text)}).saved.manifest.genes()[name] == gene


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("lr", "fast", "--gene lr: 'fast' is not allowed: expected numbers, as the evaluator's own gene has"),
        ("lr", "true", "--gene lr: True is not allowed: expected numbers"),
        ("depth", "2.5", "--gene depth: 2.5 is not allowed: expected whole numbers"),
        ("depth", "choice(2,x)", "--gene depth: 2, 'x' is not allowed: expected whole numbers"),
        ("depth", "float(1,8)", "--gene depth: Float(…) is not allowed: expected whole numbers"),
        ("size", "7", "--gene size: 7 is not allowed: expected text"),
        ("size", "int(1,2)", "--gene size: Int(…) is not allowed: expected text"),
        ("width", "wide", "--gene width: 'wide' is not allowed: expected whole numbers"),
        ("tied", "1", "--gene tied: 1 is not allowed: expected true or false"),
        ("depth", "choice(2,2.0)", "--gene depth: Choice([2, 2]): a value is given twice"),
    ],
)
def test_a_gene_of_another_type_is_refused(search: Callable[..., Search], name: str, text: str, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        search(genes={name: parse_gene(name, text)})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "gene"), [(None, Float(0.0, 1.0, default=0.25)), ("0|2", Choice((0, 2), ordered=True))]
)
def test_an_optional_gene_is_switched_on_by_its_name(
    search: Callable[..., Search], tmp_path: Path, given: str | None, gene: Gene
) -> None:
    made = search(genes={"noise": given and parse_gene("noise", given)}, trials=3, slots=1)
    assert made.space.genes["noise"] == gene
    again = Search.resume("run", store=tmp_path / "store")
    assert "noise" in again.ask().genome  # type: ignore[union-attr]
    again.close()


def test_without_its_name_an_optional_gene_is_in_no_genome(search: Callable[..., Search]) -> None:
    assert search().space.names == ("lr", "depth", "size", "width", "tied", "mixed")
