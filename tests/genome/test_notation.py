"""The language of --gene: what it reads, and what it refuses."""

from __future__ import annotations

import pytest

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.notation import format_gene, parse_gene


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
    assert parse_gene("g", format_gene(gene)) == gene


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
        "1e-4..1e-2",
        "0.1 to 0.5",
        "[1e-4, 1e-2]",
    ],
)
def test_a_gene_that_cannot_be_read_says_what_was_typed(text: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_gene("lr", text)
    assert f"--gene lr={text}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "gene"),
    [
        ("log(1e-4,1e-1) ~ 3e-3±2x", Float(1e-4, 1e-1, log=True, prior=3e-3, spread=2)),
        ("float(0,0.5)~0.1+-0.05", Float(0, 0.5, prior=0.1, spread=0.05)),
        ("int(1,12) ~ 4±2", Int(1, 12, prior=4, spread=2)),
        ("ordered(8,16,32) ~ 16 ± 1", Choice((8, 16, 32), ordered=True, prior=16, spread=1)),
        ("float(0.9,0.999) when optimizer=adamw|lion", Float(0.9, 0.999, when={"optimizer": ["adamw", "lion"]})),
        ("a|b when depth=2", Choice(("a", "b"), when={"depth": 2})),
        ("int(1,4) ~ 2±1 when on=true", Int(1, 4, prior=2, spread=1, when={"on": True})),
        ("log(1e-4,1e-1) @ 3e-3", Float(1e-4, 1e-1, log=True, default=3e-3)),
        ("int(1,8)@2", Int(1, 8, default=2)),
        ("16|32|64 @ 32", Choice((16, 32, 64), ordered=True, default=32)),
        ("choice(a,b) @ b when depth=2", Choice(("a", "b"), default="b", when={"depth": 2})),
        ("float(0,0.5) @ 0.2 ~ 0.1±0.05", Float(0, 0.5, default=0.2, prior=0.1, spread=0.05)),
        ("a@b|c", Choice(("a@b", "c"))),
        ("log(1e-4,1e-1) @ 3e-3 widest 1e-6..1", Float(1e-4, 1e-1, log=True, default=3e-3, widest=(1e-6, 1))),
        ("16|32|64 widest ..128", Choice((16, 32, 64), ordered=True, widest=(None, 128))),
        ("int(2,8) when a=b widest 1..", Int(2, 8, when={"a": "b"}, widest=(1, None))),  # type: ignore[arg-type]
    ],
)
def test_what_is_known_of_a_gene_is_read_behind_it(text: str, gene: Gene) -> None:
    assert parse_gene("g", text) == gene
    assert parse_gene("g", format_gene(gene)) == gene


@pytest.mark.parametrize(
    "text",
    [
        "float(0,1) @ 2",
        "float(0,1) @",
        "a|b @ c",
        "log(1e-4,1e-1) ~ 3e-3",
        "log(1e-4,1e-1) ~ 3e-3±2",
        "float(0,1) ~ 0.5±2x",
        "float(0,1) ~ 2±0.1",
        "float(0,1) ~ 0.5±0",
        "log(1e-4,1e-1) ~ 3e-3±0.5x",
        "choice(a,b) ~ a±1",
        "float(0,1) when x",
        "float(0,1) when =3",
        "float(0,1) widest 2",
        "float(0,1) widest 0..0.5",
        "float(0,1) widest 0..many",
        "a|b widest 0..1",
    ],
)
def test_what_cannot_be_known_of_a_gene_says_what_was_typed(text: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_gene("lr", text)
    assert f"--gene lr={text}" in str(caught.value)
