"""`python -m evo_tune.plugins.scripts.launch train.py LR=0.003`: a script with other values of its constants."""

from __future__ import annotations

import ast

import pytest

from evo_tune.errors import UsageError
from evo_tune.plugins.scripts.launch import replace_constants


def test_constants_are_replaced_by_their_like() -> None:
    tree = ast.parse(
        "A = 1\nB = True\nC = 'x'\nD: float = 0.5\nG = 5 * 8\nH = -1.5\nA = A * G\nclass E:\n    f: int = 2\n"
    )
    values = {"A": "3", "B": "False", "C": "7", "D": "1", "G": "16", "H": "2", "E.f": "4"}
    assert ast.unparse(replace_constants(tree, values)).split("\n") == [
        "A = 3",
        "B = False",
        "C = '7'",
        "D: float = 1.0",
        "G = 16",
        "H = 2.0",
        "A = A * G",
        "",
        "class E:",
        "    f: int = 4",
    ]
    for values, message in (({"Z": "1"}, "no constant Z"), ({"B": "7"}, "like True"), ({"A": "x"}, "like 1")):
        with pytest.raises(UsageError, match=message):
            replace_constants(ast.parse("A = 1\nB = True"), values)


@pytest.mark.parametrize("value", ["None", "b'x'", "'a' * 3", "1j", "True + 1", "B", "..."])
def test_other_values_stay(value: str) -> None:
    with pytest.raises(UsageError, match="no constant A"):
        replace_constants(ast.parse(f"A = {value}"), {"A": "1"})
