"""Read and write genes in the notation of `--gene NAME=`."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import is_number, read_value
from evo_tune.text import escape_unprintable, one_line

# Text of a range in another notation. As a fixed value it would be one text.
RANGE = re.compile(r"\[.*,.*\]|-?[\d.e+-]+\s*(?:\.\.|to)\s*-?[\d.e+-]+", re.IGNORECASE)


def read_space(space: SearchSpace | Mapping[str, Gene | str]) -> SearchSpace:
    """Return a search space; of a dict, each value is a gene, or its text as in `--gene NAME=TEXT`.

    Raises:
        SpaceError: It is something else, or a gene is wrong.
    """
    if isinstance(space, SearchSpace):
        return space
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        shown = one_line(repr(space), 80)
        raise SpaceError(f"space={shown}: expected SearchSpace(…) or a dict, such as {{'lr': Float(1e-4, 1e-1)}}")
    genes = {name: parse_gene(name, gene) if isinstance(gene, str) else gene for name, gene in space.items()}
    return SearchSpace(None, None, **genes)


def parse_gene(name: str, text: str) -> Gene:
    """Build a gene from the text typed after `--gene NAME=`.

    Args:
        name: Name of the gene, for messages.
        text: float(0,0.5), log(1e-5,1e-2), int(1,8) or int(32,256,32), choice(a,b), ordered(64,128),
            a|b (ordered, if all are numbers), or a plain value, which fixes the gene. Four optional parts may follow.
            '@ VALUE' is the default. '~ VALUE±SPREAD' is the prior (±2x, a factor, for log; +- is accepted for ±).
            'when NAME=A|B' lists the values of another gene for which this one is active. 'widest LOW..HIGH' has the
            limits to which a run may widen the range by itself.

    Raises:
        SpaceError: The text has another form, or its values are not allowed.
    """
    whole = text
    makers: dict[str, Callable[..., Gene]] = {
        "fixed": lambda *values: Choice(values, ordered=len(values) > 1 and all(map(is_number, values))),
        "float": lambda low, high: Float(low, high),
        "log": lambda low, high: Float(low, high, log=True),
        "int": lambda low, high, step=1: Int(low, high, step=step),
        "choice": lambda *values: Choice(values),
        "ordered": lambda *values: Choice(values, ordered=True),
    }
    try:
        text, hints = _split_hints(text)
        match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text)
        kind, inside = (match[1], match[2].split(",")) if match else ("fixed", text.split("|"))
        values = [read_value(part.strip()) for part in inside]
        if kind == "fixed" and RANGE.fullmatch(text.strip()):
            raise SpaceError("expected a range as float(LOW,HIGH), log(LOW,HIGH) or int(LOW,HIGH), or values as A|B|…")
        if kind in makers and "" in values:
            raise SpaceError("a value is empty; expected one, and one between any two commas or bars")
        gene = makers[kind](*values)
        return dataclasses.replace(gene, **hints) if hints else gene  # type: ignore[type-var]
    except SpaceError as error:
        raise SpaceError(f"--gene {name}={whole}: {error}") from None
    except (KeyError, TypeError):
        raise SpaceError(
            f"--gene {name}={whole} is not understood: expected float(LOW,HIGH), log(LOW,HIGH), int(LOW,HIGH[,STEP]), "
            "choice(A,B,…), ordered(A,B,…), A|B|… or a fixed value; then '@ DEFAULT', '~ VALUE±SPREAD' or 'when "
            "NAME=A|B' or 'widest LOW..HIGH', if wanted"
        ) from None


def _split_hints(text: str) -> tuple[str, dict[str, Any]]:
    """Split a typed gene; return its text without default, prior, condition and limits, and these as its fields.

    Raises:
        SpaceError: One of these parts is malformed.
    """
    hints: dict[str, Any] = {}
    match = re.fullmatch(r"(.*?)\swidest\s+(.*?)\s*\.\.\s*(.*)", text)
    if match:
        text, hints["widest"] = match[1], tuple(read_value(part) if part else None for part in match.groups()[1:])
    elif re.search(r"\swidest\s", text):
        raise SpaceError("expected widest LOW..HIGH, such as widest 1e-6..1")
    match = re.fullmatch(r"(.*?)\swhen\s+([^=]+?)\s*=(.*)", text)
    if match:
        text, hints["when"] = match[1], {match[2]: [read_value(part.strip()) for part in match[3].split("|")]}
    elif re.search(r"\swhen\s", text):
        raise SpaceError("expected when NAME=A|B, such as when optimizer=adamw|lion")
    match = re.fullmatch(r"(.*?)\s*~(.*)", text)
    if match:
        text = match[1]
        value = re.fullmatch(r"\s*(.+?)\s*(?:±|\+-|\+/-)\s*([^\sx]+)(x?)\s*", match[2])
        prior, spread = (read_value(value[1]), read_value(value[2])) if value else (None, None)
        if value is None or not is_number(spread):
            raise SpaceError(f"~{match[2]} is not understood: expected ~ VALUE±SPREAD, such as ~ 3e-3±2x or ~ 0.1±0.05")
        if bool(value[3]) != text.strip().startswith("log"):
            raise SpaceError(
                f"±{value[2]}{value[3]}: expected a factor, such as ±2x, for log(…), else a distance, such as ±0.05"
            )
        hints |= {"prior": prior, "spread": spread}
    match = re.fullmatch(r"(.*?(?:\s|\)))@(.*)", text)
    if match:
        text, hints["default"] = match[1], read_value(match[2].strip())
        if hints["default"] == "":
            raise SpaceError("the default is empty: expected @ VALUE, such as @ 3e-3")
    return text, hints


def format_gene(gene: Gene) -> str:
    """Return a gene in the notation of `--gene NAME=`.

    `parse_gene` reads it back, with three exceptions that have no notation: a logarithmic Int, several conditions,
    and text values with commas or bars.
    """
    return format_range(gene) + format_hints(gene)


def format_range(gene: Gene) -> str:
    """Return the range or the values of a gene in the notation of `--gene NAME=`."""
    if isinstance(gene, Float):
        return f"{'log' if gene.log else 'float'}({_format_value(gene.low)},{_format_value(gene.high)})"
    if isinstance(gene, Int):
        return f"int({gene.low},{gene.high}{f',{gene.step}' if gene.step > 1 else ''})"
    assert isinstance(gene, Choice)
    values = ",".join(map(_format_value, gene.values))
    return values if len(gene.values) == 1 else f"{'ordered' if gene.ordered else 'choice'}({values})"


def format_hints(gene: Gene) -> str:
    """Return a gene's default, prior, condition and limits in the notation of `--gene NAME=`; '' if it has none."""
    text = "" if gene.default is None else f" @ {_format_value(gene.default)}"
    if gene.prior is not None:
        factor = "x" if getattr(gene, "log", False) else ""
        text += f" ~ {_format_value(gene.prior)}±{_format_value(gene.spread)}{factor}"
    for name, values in gene.when or ():
        text += f" when {name}={'|'.join(map(_format_value, values))}"
    if gene.widest is not None:
        text += f" widest {'..'.join('' if limit is None else _format_value(limit) for limit in gene.widest)}"
    return text


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else escape_unprintable(str(value))
