"""What a training script lets its user set, read from its syntax; nothing of it is executed.

Flags of argparse, fields of dataclasses, constants in capitals, and nanoGPT's kind of constants, which its configurator
sets from the command line. It reads text of anybody's, so sizes are bounded. What may vary is `guessing`'s matter.
"""

from __future__ import annotations

import ast
import math
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo_tune.errors import UsageError
from evo_tune.text import one_line

__all__ = ["Found", "Setting", "read_settings"]

LARGEST = 1 << 20
"""Bytes of a script at most."""

MOST = 200
"""Settings that are kept, the first ones."""

LONGEST = 200
"""Characters of a text that is a default."""

WHOLE = 2**53
"""Largest whole number that is a default."""

UNKNOWN: Any = object()

PRINTS = (["print"], ["info"], ["write"], ["log"])
"""Names of functions that print."""

PARSERS = {"HfArgumentParser": "={}", "simple_parsing": "={}", "tyro": "={}"}
"""What makes flags of a dataclass's fields, if the script mentions it."""


@dataclass(frozen=True)
class Setting:
    """One thing that a script lets its user set.

    Args:
        name: As the script knows it.
        default: Its value: a bool, a number, a text; None where it has none, or none that can be read.
        choices: The values that it may have, where they are listed.
        word: The word of the command that sets it, with {name} where the value belongs.
        needed: Whether the script does not run without it.
    """

    name: str
    default: bool | int | float | str | None
    choices: tuple[Any, ...]
    word: str
    needed: bool = False


@dataclass(frozen=True)
class Found:
    """What was read of a script.

    Args:
        settings: What its user may set, in order, each name once.
        texts: Short texts in it, those that it prints first.
        json: Whether it makes JSON.
    """

    settings: tuple[Setting, ...]
    texts: tuple[str, ...]
    json: bool


def read_settings(path: Path) -> Found:
    """Read a script.

    Raises:
        UsageError: It cannot be read, is too large, or is no Python.
    """
    shown = one_line(str(path), 200)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"--from {shown}: it is no regular file; expected a Python script")
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"--from {shown}: {what}; expected a Python script") from None
    if len(data) > LARGEST:
        raise UsageError(f"--from {shown}: it has more than {LARGEST} bytes; expected a script that people wrote")
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else (str(error) or "it is nested too deeply")
        raise UsageError(f"--from {shown}{line}: {one_line(what, 100)}; expected a Python script") from None
    nodes = list(ast.walk(tree))
    names = {name for node in nodes for name in _names(node)}
    found: dict[str, Setting] = {}
    for setting in _settings(tree, nodes, names):
        if setting.name.isidentifier() and len(found) < MOST:
            found.setdefault(setting.name, setting)
    printed = [node for node in nodes if isinstance(node, ast.Call) and _names(node.func)[-1:] in PRINTS]
    texts = [text for node in [*printed, tree] for text in _texts(node)]
    return Found(tuple(found.values()), tuple(dict.fromkeys(texts)), "dumps" in names)


def _texts(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and len(one.value) <= LONGEST:
            yield one.value


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [str(getattr(node, "module", "")), *(alias.name for alias in node.names)]
    return []


def _settings(tree: ast.Module, nodes: list[ast.AST], names: set[str]) -> Iterator[Setting]:
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: call.lineno):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            yield from _flag(call)
    configured = any(isinstance(node, ast.Expr) and _is_configurator(node) for node in tree.body)
    parser = next((one for one in PARSERS if any(name.partition(".")[0] == one for name in names)), "")
    for node in tree.body:
        if configured and isinstance(node, ast.Expr) and _is_configurator(node):
            break  # what comes later is set by the script itself
        if isinstance(node, ast.ClassDef) and any("dataclass" in _names_of(one) for one in node.decorator_list):
            yield from _fields(node, parser)
        for name, value in _assigned(node):
            default = value_of(value)
            if (
                default is not UNKNOWN
                and not name.startswith("_")
                and (configured or re.fullmatch(r"[A-Z][A-Z0-9_]*", name))
            ):
                yield Setting(name, default, (), f"--{name}={{{name}}}" if configured else f"{name}={{{name}}}")


def _is_configurator(node: ast.Expr) -> bool:
    texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return any(isinstance(text, str) and text.endswith("configurator.py") for text in texts)


def _names_of(node: ast.expr) -> set[str]:
    return {name for one in ast.walk(node) for name in _names(one)}


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value


def _flag(call: ast.Call) -> Iterator[Setting]:
    """Yield what a call of add_argument declares."""
    flags = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    given = {one.arg: one.value for one in call.keywords if one.arg}
    long = max((flag for flag in flags if flag.startswith("-")), key=len, default="")
    if not flags or re.search(r"[\s{}?]", flags[0] + long) or value_of(given.get("action")) in ("help", "version"):
        return
    dest = value_of(given.get("dest"))
    name = dest if isinstance(dest, str) else (long or flags[0]).lstrip("-").replace("-", "_")
    default = value_of(given.get("default"))
    action = value_of(given.get("action"))
    if action in ("store_true", "store_false"):
        text = f"{{{name}?{long}}}" if action == "store_true" else f"{{{name}?:{long}}}"
        yield Setting(name, action == "store_false", (), text)
        return
    if "BooleanOptionalAction" in _names_of(given["action"]) if "action" in given else False:
        yield Setting(name, default if isinstance(default, bool) else False, (), f"{{{name}?{long}:--no-{long[2:]}}}")
        return
    kind = given.get("type")
    if isinstance(kind, ast.Name) and kind.id == "float" and type(default) is int:
        default = float(default)
    plain = default is not UNKNOWN and "nargs" not in given and action is UNKNOWN
    listed = _list_of(given.get("choices"))
    needed = (not long and "nargs" not in given) or value_of(given.get("required")) is True
    yield Setting(
        name, default if plain else None, listed, f"{long}={{{name}}}" if long.startswith("--") else "", needed
    )


def _fields(node: ast.ClassDef, parser: str) -> Iterator[Setting]:
    """Yield the fields of a dataclass that have a default."""
    for one in node.body:
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name) or one.value is None:
            continue
        name, value = one.target.id, one.value
        if isinstance(value, ast.Call):  # field(default=…)
            value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), value)
        default = value_of(value)
        if default is UNKNOWN:
            continue
        if "float" in _names_of(one.annotation) and type(default) is int:
            default = float(default)
        literal = isinstance(one.annotation, ast.Subscript) and "Literal" in _names_of(one.annotation.value)
        listed = _list_of(one.annotation.slice) if literal and isinstance(one.annotation, ast.Subscript) else ()
        word = f"--{name}={{{name}}}" if parser else f"{node.name}.{name}={{{name}}}"
        if parser == "tyro" and isinstance(default, bool):
            word = f"{{{name}?--{name}:--no-{name}}}"
        yield Setting(name, default, listed, word)


def _list_of(node: ast.expr | None) -> tuple[Any, ...]:
    """Return the plain values of a list; nothing where one is no plain value."""
    values = [value_of(one) for one in node.elts[:50]] if isinstance(node, ast.List | ast.Tuple) else []
    return () if UNKNOWN in values or len(set(map(repr, values))) != len(values) else tuple(values)


def value_of(node: ast.expr | None, depth: int = 0) -> Any:
    """Return the bool, number or text that an expression is, with +, -, * and / of numbers; UNKNOWN for all else."""
    if isinstance(node, ast.Constant):
        return node.value if _is_plain(node.value) else UNKNOWN
    if depth > 8 or not isinstance(node, ast.UnaryOp | ast.BinOp):
        return UNKNOWN
    parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    values = [value_of(part, depth + 1) for part in parts]
    if not all(type(value) in (int, float) for value in values):
        return UNKNOWN
    found: Any = UNKNOWN
    if isinstance(node.op, ast.USub):
        found = -values[0]
    elif isinstance(node.op, ast.Add | ast.Sub):
        found = values[0] + values[1] if isinstance(node.op, ast.Add) else values[0] - values[1]
    elif isinstance(node.op, ast.Mult):
        found = values[0] * values[1]
    elif isinstance(node.op, ast.Div) and values[1]:
        found = values[0] / values[1]
    return found if _is_plain(found) else UNKNOWN


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is bool or (type(value) is int and abs(value) <= WHOLE)
