"""Run a script with other values of its constants: `python -m evo_tune.plugins.scripts.launch train.py LR=0.003`.

It serves scripts without flags, as the command of a run, and evaluators that `evo-tune new --from` of 1.0 wrote. Module
constants (NAME=VALUE) and defaults of dataclass fields (CLASS.FIELD=VALUE) are replaced in the script's syntax by
values of the same type. Other words are the script's arguments. Processes that import the script anew see the old
values.
"""

import ast
import contextlib
import os
import re
import sys
from types import ModuleType

from evo_tune.errors import UsageError

CONSTANT = re.compile(r"[A-Za-z_][\w.]*=")

# Nodes of a value that is replaced: constants, and arithmetic with them, but no names.
PLAIN = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)


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
        if holder.value is not None and _is_plain(holder.value):
            holder.value = ast.copy_location(ast.Constant(_new_value(name, holder.value, values[name])), node.value)
            unused.pop(name, None)


def _is_plain(value: ast.expr) -> bool:
    """Return whether a value is a bool, a text, a number, or arithmetic with numbers."""
    kinds = {type(part.value) for part in ast.walk(value) if isinstance(part, ast.Constant)}
    allowed = {bool, str, int, float} if isinstance(value, ast.Constant) else {int, float}
    return kinds <= allowed and all(isinstance(part, PLAIN) for part in ast.walk(value))


def _new_value(name: str, old: ast.expr, text: str) -> bool | float | str:
    """Return a text as a value of the old one's type; a whole number may become another one.

    Raises:
        UsageError: The text is no such value.
    """
    constants = [part.value for part in ast.walk(old) if isinstance(part, ast.Constant)]
    if isinstance(constants[0], str):
        return text
    with contextlib.suppress(KeyError, ValueError):
        if isinstance(constants[0], bool):
            return {"True": True, "False": False}[text]
        if any(isinstance(part, ast.Div) for part in ast.walk(old)) or float in map(type, constants):
            return float(text)
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    raise UsageError(f"{name}={text}: expected a value like {ast.unparse(old)}, which is in the script")


if __name__ == "__main__":
    main(sys.argv[1:])
