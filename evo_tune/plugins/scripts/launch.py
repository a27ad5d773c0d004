"""Run a script with other values of its constants: `python -m evo_tune.plugins.scripts.launch train.py LR=0.003`.

It serves scripts without flags. Module constants (NAME=VALUE) and defaults of dataclass fields (CLASS.FIELD=VALUE) are
replaced in the script's syntax by values of the same type. Other words are the script's arguments. Processes that
import the script anew see the old values.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from types import ModuleType

from evo_tune.errors import UsageError
from evo_tune.plugins.scripts.settings import UNKNOWN, value_of

CONSTANT = re.compile(r"[A-Za-z_][\w.]*=")


def main(words: list[str]) -> None:
    """Execute a script as `python SCRIPT` would, with other constants.

    Raises:
        UsageError: A constant does not exist, or a value is not of its type.
    """
    path, *rest = words
    given = [word for word in rest if CONSTANT.match(word)]
    with open(path, "rb") as file:
        tree = replaced(ast.parse(file.read(), path), dict(word.partition("=")[::2] for word in given))
    module = ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    sys.argv = [path, *(word for word in rest if not CONSTANT.match(word))]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    exec(compile(tree, path, "exec"), vars(module))


def replaced(tree: ast.Module, values: dict[str, str]) -> ast.Module:
    """Return a module with other constants.

    Args:
        tree: The module.
        values: Texts by NAME or CLASS.FIELD.

    Raises:
        UsageError: A constant does not exist, or a value is not of its type.
    """
    left = dict(values)
    for node in tree.body:
        _replace(node, "", values, left)
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            _replace(inner, f"{getattr(node, 'name', '')}.", values, left)
    if left:
        raise UsageError(f"the script has no constant {', '.join(left)} any more: make the evaluator anew")
    return tree


def _replace(node: ast.stmt, prefix: str, values: dict[str, str], left: dict[str, str]) -> None:
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for name in (f"{prefix}{target.id}" for target in targets if isinstance(target, ast.Name)):
        if name not in values:
            continue
        holder: ast.keyword | ast.Assign | ast.AnnAssign = node
        if isinstance(node.value, ast.Call):
            holder = next((one for one in node.value.keywords if one.arg == "default"), node)
        old = value_of(holder.value)
        if old is not UNKNOWN:
            holder.value = ast.copy_location(ast.Constant(_like(old, values[name], name)), node.value)
            left.pop(name, None)


def _like(old: bool | int | float | str, text: str, name: str) -> bool | int | float | str:
    try:
        if isinstance(old, bool):
            return {"True": True, "False": False}[text]
        return type(old)(text)
    except (KeyError, ValueError):
        if isinstance(old, int) and not isinstance(old, bool):
            return float(text)
        raise UsageError(f"{name}={text}: expected a value like {old!r}, which is in the script") from None


if __name__ == "__main__":
    main(sys.argv[1:])
