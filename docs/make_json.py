"""Write the tables of docs/json.md anew, from the types of evo_tune/cli/formats: `make json` does it.

A table's keys, types and texts are read from the source, so that what is promised is written down once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evo_tune.cli import formats
from evo_tune.cli.formats import EVENTS, OUTPUTS

PAGE = Path(__file__).with_name("json.md")
MARK = "<!-- What follows is made by `make json` from evo_tune/cli/formats. -->"

WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "None": "null",
    "Any": "anything",
    "Value": "number, text, true or false",
    "Genome": "object of values",
    "Metrics": "object of numbers or null",
}

PLURALS = {"text": "texts", "number": "numbers", "whole number": "whole numbers"}


def declared() -> dict[str, ast.ClassDef]:
    """Return the classes of the package by name, the base of all events left out."""
    folder = Path(formats.__file__).parent
    names = ("runs", "ahead", "trainings", "things", "scaling", "events")
    trees = [ast.parse((folder / f"{name}.py").read_bytes()) for name in names]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def in_words(kind: ast.expr) -> str:
    """Return what a type is in JSON, in words."""
    if isinstance(kind, ast.BinOp):
        sides = [in_words(side) for side in (kind.left, kind.right)]
        return " or ".join(side for side in sides if side)
    if isinstance(kind, ast.Subscript):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        held = [in_words(one) for one in inner if not (isinstance(one, ast.Constant) and one.value is ...)]
        outer = ast.unparse(kind.value)
        if outer == "tuple":
            return f"list: {', '.join(held)}"
        several = PLURALS.get(held[-1], held[-1])
        return f"list of {several}" if outer == "list" else f"object of {several}"
    name = ast.unparse(kind)
    if name == "UnsetType":
        return ""
    return WORDS.get(name) or f"[{name}](#{name.lower()})"


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, type, unit, text) of what a class adds to its bases."""
    for one, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(text, ast.Expr):
            said = ast.literal_eval(text.value)
            what, _, unit = said.partition(" Unit: ")
            left_out = " Not always there." if "UnsetType" in ast.unparse(one.annotation) else ""
            yield ast.unparse(one.target), in_words(one.annotation), unit.rstrip("."), what + left_out


def table(node: ast.ClassDef, known: dict[str, ast.ClassDef]) -> list[str]:
    """Return a class as a part of the page."""
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in known and base.id != "_Event"]
    also = "".join(f" It has all of [{base}](#{base.lower()}), and:" for base in bases)
    rows = [f"| `{key}` | {kind} | {unit} | {what} |" for key, kind, unit, what in fields(node)]
    if any(isinstance(base, ast.Name) and base.id == "_Event" for base in node.bases):
        rows.insert(0, "| `time` | number | seconds since 1970 | When it was printed. |")
    text = (ast.get_docstring(node) or "") + also
    tag = next((one.value for one in node.keywords if one.arg == "tag"), None)
    title = node.name if tag is None else f"Event `{ast.literal_eval(tag)}`"
    return [f"### {title}", "", text, "", "| key | type | unit | |", "| --- | --- | --- | --- |", *rows, ""]


def linked(kind: Any) -> str:
    """Return a command's type as links."""
    if hasattr(kind, "__args__"):
        inner = [linked(one) for one in kind.__args__]
        return f"list of {inner[0]}" if getattr(kind, "__origin__", None) is list else " or ".join(inner)
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def made() -> str:
    """Return everything below the mark."""
    known = declared()
    events = {kind.__name__ for kind in EVENTS.__args__}
    lines = ["", "## What each command prints", "", "| command | `--format json` |", "| --- | --- |"]
    lines += [f"| `evo-tune {name}` | {linked(kind)} |" for name, kind in OUTPUTS.items()]
    lines += ["", "## The objects", ""]
    lines += [line for name, node in known.items() if name not in {*events, "_Event"} for line in table(node, known)]
    lines += ["## The events", ""]
    lines += [line for name, node in known.items() if name in events for line in table(node, known)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(head + MARK + "\n" + made(), encoding="utf-8")
