"""Run a script with other values of its constants: `python -m evo_tune.plugins.scripts.launch train.py LR=0.003`.

It serves scripts without flags, as the command of a run, and evaluators that `evo-tune new --from` of 1.0 wrote. Module
constants (NAME=VALUE) and defaults of dataclass fields (CLASS.FIELD=VALUE) are replaced in the script's syntax by
values of the same type. Other words are the script's arguments. Processes that import the script anew see the old
values.
"""

import ast
import contextlib
import math
import os
import re
import sys
from types import ModuleType
from typing import Any

from evo_tune.errors import UsageError

CONSTANT = re.compile(r"[A-Za-z_][\w.]*=")

# Maximum characters and largest whole number of a constant that can be replaced.
LONGEST, WHOLE = 200, 2**53

# Nodes of an expression of numbers, beside the numbers.
ARITHMETIC = (ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div)

# Value of an expression that is no plain value.
UNKNOWN: Any = object()


def main(words: list[str]) -> None:
    """Execute a script as `python SCRIPT` would, with other constants.

    Raises:
        UsageError: A constant does not exist, or a value is not of its type.
    """
    path, *arguments = words
    constants = [word for word in arguments if CONSTANT.match(word)]
    with open(path, "rb") as file:
        tree = replace_constants(ast.parse(file.read(), path), dict(word.partition("=")[::2] for word in constants))
    module = ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    sys.argv = [path, *(word for word in arguments if not CONSTANT.match(word))]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    exec(compile(tree, path, "exec"), vars(module))


def replace_constants(tree: ast.Module, values: dict[str, str]) -> ast.Module:
    """Return a module with other constants.

    Args:
        tree: The module.
        values: Texts by NAME or CLASS.FIELD.

    Raises:
        UsageError: A constant does not exist, or a value is not of its type.
    """
    unused = dict(values)
    for node in tree.body:
        _replace(node, "", values, unused)
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            _replace(inner, f"{getattr(node, 'name', '')}.", values, unused)
    if unused:
        raise UsageError(f"the script has no constant {', '.join(unused)}")
    return tree


def _replace(node: ast.stmt, prefix: str, values: dict[str, str], unused: dict[str, str]) -> None:
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for name in (f"{prefix}{target.id}" for target in targets if isinstance(target, ast.Name)):
        if name not in values:
            continue
        holder: ast.keyword | ast.Assign | ast.AnnAssign = node
        if isinstance(node.value, ast.Call):
            holder = next((keyword for keyword in node.value.keywords if keyword.arg == "default"), node)
        old, text = value_of(holder.value), values[name]
        if old is UNKNOWN:
            continue
        new: bool | float | str
        try:
            new = {"True": True, "False": False}[text] if isinstance(old, bool) else type(old)(text)
        except (KeyError, ValueError):
            if type(old) is not int:
                raise UsageError(f"{name}={text}: expected a value like {old!r}, which is in the script") from None
            new = float(text)
        holder.value = ast.copy_location(ast.Constant(new), node.value)
        unused.pop(name, None)


def value_of(node: ast.expr | None) -> Any:
    """Return the value of a plain expression: a bool, a text, or numbers with +, -, * and /; else UNKNOWN."""
    parts = [] if node is None else list(ast.walk(node))
    constants = [part.value for part in parts if isinstance(part, ast.Constant)]
    others = [part for part in parts if not isinstance(part, (*ARITHMETIC, ast.Constant))]
    value = UNKNOWN
    if isinstance(node, ast.Constant):
        value = node.value
    elif node is not None and not others and all(type(number) in (int, float) for number in constants):
        with contextlib.suppress(ZeroDivisionError, OverflowError, RecursionError):
            value = eval(compile(ast.Expression(node), "constant", "eval"))
    return value if _is_plain(value) else UNKNOWN


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is bool or (type(value) is int and abs(value) <= WHOLE)


if __name__ == "__main__":
    main(sys.argv[1:])
