"""`python -m evo_tune.plugins.scripts.launch train.py LR=0.003`: a script with other values of its constants."""

from __future__ import annotations

import ast

import pytest

from evo_tune.errors import UsageError
from evo_tune.plugins.scripts.launch import UNKNOWN, replace_constants, value_of


def test_constants_are_replaced_by_their_like() -> None:
    tree = ast.parse("A = 1\nB = True\nC = 'x'\nD: float = 0.5\nclass E:\n    f: int = 2\n")
    changed = replace_constants(tree, {"A": "3", "B": "False", "C": "7", "D": "1e-3", "E.f": "4"})
    assert ast.unparse(changed).split("\n") == [
        "A = 3",
        "B = False",
        "C = '7'",
        "D: float = 0.001",
        "",
        "class E:",
        "    f: int = 4",
    ]
    for values, said in (({"Z": "1"}, "no constant Z"), ({"B": "7"}, "expected a value like True")):
        with pytest.raises(UsageError, match=said):
            replace_constants(ast.parse("A = 1\nB = True"), values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * 16", 32),
        ("-0.5", -0.5),
        ("'x'", "x"),
        ("1 / 0", UNKNOWN),
        ("10**9", UNKNOWN),
        ("1e999", UNKNOWN),
        ("[1, 2]", UNKNOWN),
        ("().__class__.__name__", UNKNOWN),
        ("print(1)", UNKNOWN),
        ("1+" * 50 + "1", 51),
    ],
)
def test_only_plain_values_are_read(text: str, value: object) -> None:
    assert value_of(ast.parse(text, mode="eval").body) == value
