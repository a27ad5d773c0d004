"""The language of --gene: what it reads, and what it refuses."""

from __future__ import annotations

import pytest

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.notation import parse_gene


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
