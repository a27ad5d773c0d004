"""Generate the tables of docs/json.md from the types that commands print: see generated.py.

A table has one row for each field of a type: its key, its type in words, and its entry under `Args:` in the docstring.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from msgspec import Struct, UnsetType

from evo_tune.cli import formats
from evo_tune.cli.output import Begin, End, Fresh, NewBest, Proposed, Result, RunStatus, Stopping, Widened
from evo_tune.cli.session import PlannedRun
from evo_tune.cli.training.devices import Devices
from evo_tune.genome.values import Genome, Value
from evo_tune.loop.verifying import Verification
from evo_tune.report.data import AutoModel, ListedRun, Recommendation, RunDetails, RunSummary
from evo_tune.report.verdict import Verdict
from evo_tune.training.scale.recipe import ScaledRecipe

# The type that each command prints with `--format json`.
OUTPUT_TYPES: dict[str, Any] = {
    "auto": AutoModel,
    "run": RunSummary,
    "run --dry-run": PlannedRun,
    "auto --dry-run": PlannedRun,
    "resume": RunSummary,
    "list": list[ListedRun],
    "status": RunStatus,
    "propose": formats.ProposedGenomes,
    "show": RunDetails,
    "watch": formats.WatchedRun,
    "rename": formats.RunFolder,
    "delete": formats.DeletedRuns,
    "mcp": formats.AgentTools,
    "best": Recommendation | list[Recommendation],
    "report": formats.WrittenReport,
    "convert": formats.ConvertedRun,
    "verify": Verification,
    "verdict": Verdict,
    "evaluators": list[formats.EvaluatorSummary] | formats.DeclaredEvaluator,
    "strategies": list[formats.StrategySummary],
    "new": formats.NewEvaluator,
    "evaluate": formats.GenomeResult,
    "export": formats.ExportedModel,
    "predict": formats.Predicted,
    "devices": Devices,
    "scale": ScaledRecipe,
    "completion": formats.ShellScript,
}

# The types of the lines that `run` and `resume` print with `--format jsonl`.
EVENTS = Begin | Proposed | Widened | Result | NewBest | Fresh | Stopping | End

WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
    Value: "number, text, true or false",
    Genome: "object of values",
}

PLURALS = {"text": "texts", "number": "numbers", "whole number": "whole numbers"}

ENTRY = re.compile(r"(\w+): (.+)")


def is_table(kind: Any) -> bool:
    """Return whether a type has a table of its own on the page."""
    return inspect.isclass(kind) and kind is not Struct and (issubclass(kind, Struct) or is_dataclass(kind))


def parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    is_union = get_origin(kind) in (Union, types.UnionType) and kind != Value
    return get_args(kind) if is_union else (kind,)


def in_words(kind: Any, absent: Collection[Any] = ()) -> str:
    """Return the JSON type of a Python type, in words.

    Args:
        kind: Python type.
        absent: Members of a union that stand for an absent key.
    """
    if len(parts(kind)) > 1:
        rest = [one for one in parts(kind) if one not in absent]
        if set(get_args(Value)) < set(rest):  # a union absorbs the members of Value
            rest = [Value, *(one for one in rest if one not in get_args(Value))]
        return " or ".join(in_words(one) for one in rest)
    if kind in WORDS:
        return WORDS[kind]
    if is_table(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    inner = [one for one in get_args(kind) if one is not ...]
    if get_origin(kind) is tuple and ... not in get_args(kind):
        return f"list: {', '.join(in_words(one) for one in inner)}"
    held = in_words(inner[-1])
    several = PLURALS.get(held, held)
    return f"list of {several}" if get_origin(kind) in (list, tuple) else f"object of {several}"


def entries(kind: Any) -> dict[str, str]:
    """Return the texts under `Args:` in the docstring of a type, by key."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(kind) or "").partition("Args:\n")[2].splitlines():
        if match := ENTRY.fullmatch(line.removeprefix("    ")):
            name, found[match[1]] = match[1], match[2]
        elif name:
            found[name] += f" {line.strip()}"
    return {key: text.strip() for key, text in found.items()}


def fields(kind: Any) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, type, unit and text of each field that a type adds to its base."""
    texts, hints = entries(kind), get_type_hints(kind)
    inherited = set(get_type_hints(kind.__base__)) if is_table(kind.__base__) else set()
    optional = getattr(getattr(kind, "__struct_config__", None), "omit_defaults", False)
    count = len(getattr(kind, "__struct_defaults__", ()))
    last = list(hints)[-count:] if optional and count else []
    for key in (key for key in hints if key not in inherited and key in texts):
        text, _, unit = texts[key].partition(" Unit: ")
        left_out = key in last or UnsetType in parts(hints[key])
        absent = {UnsetType, type(None) if key in last else UnsetType}
        yield key, in_words(hints[key], absent), unit.rstrip("."), text + " May be missing." * left_out


def table(kind: Any) -> list[str]:
    """Return the part of the page about one type."""
    rows = [f"| `{key}` | {words} | {unit} | {text} |" for key, words, unit, text in fields(kind)]
    tag = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    base = kind.__base__
    also = ""
    if tag is not None and "time" not in entries(kind):
        rows.insert(0, "| `time` | number | seconds since 1970 | Time at which the line was printed. |")
    elif is_table(base):
        also = f" It has all of [{base.__name__}](#{base.__name__.lower()}), and:"
    text = " ".join((inspect.getdoc(kind) or "").partition("\n\nArgs:")[0].split()) + also
    title = kind.__name__ if tag is None else f"Event `{tag}`"
    return [f"### {title}", "", text, "", "| key | type | unit | |", "| --- | --- | --- | --- |", *rows, ""]


def reached(kinds: Any) -> list[Any]:
    """Return the types with a table that some types refer to, themselves and their bases included."""
    found: dict[Any, None] = {}
    wanted = list(kinds)
    while wanted:
        kind = wanted.pop(0)
        if not is_table(kind):
            wanted[:0] = get_args(kind)
        elif kind not in found:
            found[kind] = None
            bases = [base for base in kind.__bases__ if is_table(base) and entries(base)]
            wanted[:0] = [*bases, *get_type_hints(kind).values()]
    return list(found)


def generated() -> str:
    """Return the tables."""
    events = get_args(EVENTS)
    kinds = [kind for kind in reached([*OUTPUT_TYPES.values(), *events]) if kind not in events]
    lines = ["", "## What each command prints", "", "| command | `--format json` |", "| --- | --- |"]
    lines += [f"| `evo-tune {name}` | {in_words(kind)} |" for name, kind in OUTPUT_TYPES.items()]
    lines += ["", "## The objects", ""]
    lines += [line for kind in kinds for line in table(kind)]
    lines += ["## The events", ""]
    lines += [line for kind in events for line in table(kind)]
    return "\n".join(lines).rstrip() + "\n"
