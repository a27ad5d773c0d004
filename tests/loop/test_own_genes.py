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


FIELDS = """
from dataclasses import dataclass
from typing import Literal

from evo_tune import Float, Minimize, Options, SearchSpace, option


@dataclass(frozen=True, kw_only=True)
class Own(Options):
    beta: float = option(0.9, bounds="[0, 1)")
    steps: int = option(10, bounds="[1, 5000]")
    pattern: str = option("S")
    clip: float | None = option(None, bounds="(0, inf)")
    data: str = option("", gene=None)
    kind: Literal["a", "b"] = option("a")
    mult: float = option(4.0, bounds="(0, 64]", gene="2.0|4.0")


SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
METRICS = {"loss": "", "beta": ""}


def evaluate(genome, context, options: Own):
    return {"loss": genome["x"], "beta": options.beta}
"""


@pytest.fixture
def with_fields(tmp_path: Path) -> Callable[..., Search]:
    def make(**genes: str | None) -> Search:
        (tmp_path / "fields.py").write_text(FIELDS)
        read = {name: text and parse_gene(name, text) for name, text in genes.items()}
        search = Search(str(tmp_path / "fields.py"), store=tmp_path / "store", name="run", genes=read, trials=3)
        search.saved.close()
        return search

    return make


@pytest.mark.parametrize(
    ("name", "text", "gene"),
    [
        ("beta", "float(0.8,0.99)", Float(0.8, 0.99, default=0.9)),
        ("beta", "float(0.1,0.5)", Float(0.1, 0.5)),
        ("steps", "5|10|1e3", Choice((5, 10, 1000), ordered=True, default=10)),
        ("steps", "int(1,100)", Int(1, 100, default=10)),
        ("pattern", "S|SSSL", Choice(("S", "SSSL"), default="S")),
        ("clip", "log(0.1,10)", Float(0.1, 10.0, log=True)),
    ],
)
def test_any_option_becomes_a_gene_with_a_range_of_the_users(
    with_fields: Callable[..., Search], name: str, text: str, gene: Gene
) -> None:
    assert with_fields(**{name: text}).saved.manifest.genes()[name] == gene


def test_an_option_that_became_a_gene_is_trained_with_and_resumed(
    with_fields: Callable[..., Search], tmp_path: Path
) -> None:
    with_fields(beta="float(0.8,0.99)")
    with Search.resume("run", store=tmp_path / "store", slots=1) as search:
        search.run()
    assert [trial.outcome.metrics["beta"] for trial in search.trials] == [one.genome["beta"] for one in search.trials]
    assert len({one.genome["beta"] for one in search.trials}) == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("beta", None, r"--gene beta: this option \(a number\) offers no range of its own; give one, such as .*beta=f"),
        ("beta", "float(0.5,1)", r"--gene beta, at 1\.0: .*expected a number in \[0, 1\)"),
        ("beta", "0.5|fast", "--gene beta, at fast: .*expected a number"),
        ("steps", "float(1,8)", r"--gene steps, at 1\.0: .*expected a whole number, 1 to 5000"),
        ("steps", "1|9999", "--gene steps, at 9999: .*expected a whole number, 1 to 5000"),
        ("mult", "2|65", r"--gene mult, at 65: .*expected a number in \(0, 64\]"),
        ("data", "a|b", "--gene data: this option cannot differ between genomes; set it with -o data=VALUE"),
        ("data", None, "--gene data: this option cannot differ between genomes"),
        ("bet", "1", r"--gene bet: expected one of x, .*did you mean beta"),
    ],
)
def test_an_option_is_no_gene_beyond_what_it_takes(
    with_fields: Callable[..., Search], tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    with pytest.raises(SpaceError, match=said):
        with_fields(**{name: text})
    assert not (tmp_path / "store").exists()


def test_an_option_of_the_language_model_becomes_a_gene(tmp_path: Path) -> None:
    search = Search(
        "language_model",
        options={"tokens": 2000},
        genes={"beta1": parse_gene("beta1", "float(0.8,0.99)")},
        store=tmp_path,
        name="run",
    )
    search.saved.close()
    assert search.space.genes["beta1"] == Float(0.8, 0.99, default=0.9)
    again = Search.resume("run", store=tmp_path)
    again.saved.close()
    for genes, said in (({"beta1": None}, "offers no range of its own"), ({"tokens": None}, "cannot differ between")):
        with pytest.raises(SpaceError, match=said):
            Search("language_model", options={"tokens": 2000}, genes=genes, store=tmp_path)


def test_without_its_name_an_optional_gene_is_in_no_genome(search: Callable[..., Search]) -> None:
    assert search().space.names == ("lr", "depth", "size", "width", "tied", "mixed")
