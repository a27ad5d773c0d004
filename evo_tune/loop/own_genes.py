"""The genes that a user gives instead of the evaluator's own: taken as they were meant, or refused.

Knows genes, spaces and how options are declared: no evaluator, no run and no strategy.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Value
from evo_tune.options.binding import suggest
from evo_tune.options.declare import AUTO, Option, members

__all__ = ["as_before", "with_defaults"]

KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "whole numbers": int,
    "numbers": (int, float),
    "text": str,
}
"""What the values of a gene may be, in words; the first that holds of all of them counts."""


def with_defaults(
    genes: Mapping[str, Gene | None], own: SearchSpace, fields: Mapping[str, Option], values: Mapping[str, Any]
) -> dict[str, Gene]:
    """Return genes that replace some of the evaluator's own, with those's defaults where they allow it.

    Args:
        genes: As the user gave them. None stands for the evaluator's own gene: it is how an optional one is switched
            on as it is.
        own: The evaluator's space.
        fields: Its options that may become genes, even if they offer none; which values they take is not checked here.
        values: The options' values: the defaults of such genes.

    Raises:
        SpaceError: One is unknown, is no gene, or has values of another type than the evaluator's own.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    found = {}
    known = {**own.genes, **own.optional}
    for name, gene in genes.items():
        if name not in known and name not in fields:
            near = suggest(str(name), [*known, *fields])
            raise SpaceError(f"--gene {name}: expected one of {', '.join(known)}{near}")
        if gene is None and name in own.genes:
            raise SpaceError(f"--gene {name}: it is on as it is; expected --gene {name}=GENE")
        if name not in known:
            _check_field(fields[name], gene)
        if name in fields and AUTO in fields[name].choices and isinstance(gene, Choice) and AUTO in gene.values:
            raise SpaceError(
                f"--gene {name}: auto is settled once, when the run begins: expected the values themselves"
            )
        if gene is None:
            continue
        if not isinstance(gene, Gene):
            raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
        try:
            found[name] = _like(known[name], gene) if name in known else _for_field(fields[name], gene)
        except SpaceError as error:
            raise SpaceError(f"--gene {name}: {error}") from None
        if gene.default is None:
            default = known[name].middle() if name in known else values.get(name)
            with contextlib.suppress(SpaceError):
                found[name] = dataclasses.replace(found[name], default=found[name].check(default))  # type: ignore[type-var]
    for name, gene in found.items():
        for other, _ in gene.when or ():
            if other not in {*own.genes, *genes}:
                near = suggest(other, [*own.genes, *genes])
                raise SpaceError(
                    f"--gene {name}: when {other}: expected one of {', '.join({**own.genes, **genes})}{near}"
                )
    return found


def as_before(genes: Mapping[str, Gene | None], present: Mapping[str, Gene]) -> dict[str, Gene]:
    """Return genes that replace some of a run's, with all that those say beside their ranges.

    Args:
        genes: As the user gave them.
        present: The run's.

    Raises:
        SpaceError: One is no gene of the run, or has values of another type.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    found: dict[str, Gene] = {}
    for name, gene in genes.items():
        if name not in present:
            raise SpaceError(f"--gene {name}: expected a gene of the run: {', '.join(present)}{suggest(name, present)}")
        old = present[name]
        if not isinstance(gene, Gene):
            raise SpaceError(f"--gene {name}: expected its wider range, such as --gene '{name}=log(1e-5,1e-1)'")
        if gene.default is not None and gene.default != old.middle():
            raise SpaceError(
                f"--gene {name}: its default is {old.middle()!r}, and was trained already: leave {gene.default!r} out"
            )
        try:
            found[name] = _said(_like(old, gene), old)
        except SpaceError as error:
            raise SpaceError(f"--gene {name}: {error}") from None
    return found


def _said(new: Gene, old: Gene) -> Gene:
    """Return a gene with what another of its kind says and what was typed does not: scale, order, hints, default.

    Where that does not fit it is no wider range, and stays as it is.
    """
    fields: dict[str, Any] = {"when": new.when or old.when}
    if isinstance(new, Int) and isinstance(old, Int) and new.step == 1:
        fields["log"] = old.log
    elif isinstance(new, Choice) and isinstance(old, Choice):
        fields["ordered"] = old.ordered  # 2|4 is ordered where nothing is known, a|b is not
        if all(type(value) is float for value in old.values):  # 8 was typed for 8.0
            fields["values"] = tuple(float(value) if type(value) is int else value for value in new.values)
    if new.prior is None:
        fields |= {"prior": old.prior, "spread": old.spread}
    with contextlib.suppress(SpaceError):
        return dataclasses.replace(new, **fields, default=new.check(old.middle()))  # type: ignore[type-var]
    return new


def _check_field(field: Option, gene: Gene | None) -> None:
    """Refuse an option that cannot be a gene, or that says no range and is given none.

    Raises:
        SpaceError: It is one.
    """
    name = field.name
    if field.gene is None:
        raise SpaceError(f"--gene {name}: this option cannot differ between genomes; set it with -o {name}=VALUE")
    if gene is None:
        raise SpaceError(
            f"--gene {name}: this option ({field.kind}) offers no range of its own; give one, such as "
            f"--gene '{name}=float(LOW,HIGH)' or --gene '{name}=A|B'"
        )


def _for_field(field: Option, gene: Gene) -> Gene:
    """Return a gene with whole numbers where its option takes no others: 1e3 was typed, and read as 1000.0."""
    kinds = members(field.type)
    if not isinstance(gene, Choice) or int not in kinds or float in kinds:
        return gene
    return dataclasses.replace(gene, values=tuple(map(_as_whole, gene.values)), default=gene.default)


def _kind_of(gene: Gene) -> str | None:
    """Return what the values of a gene are, in words; None if they are of several kinds."""
    if not isinstance(gene, Choice):
        return "whole numbers" if isinstance(gene, Int) else "numbers"
    for kind, types in KINDS.items():
        if all(isinstance(value, types) and (types is bool or type(value) is not bool) for value in gene.values):
            return kind
    return None


def _like(own: Gene, new: Gene) -> Gene:
    """Return a gene that replaces the evaluator's own, its values of the type that `evaluate` counts on.

    Raises:
        SpaceError: They are of another one; out of the own range they may be.
    """
    wanted = _kind_of(own)
    if isinstance(new, Choice) and wanted in ("whole numbers", "text"):
        values = tuple(_as_whole(value) if wanted == "whole numbers" else _as_text(value, own) for value in new.values)
        default = None if new.default is None else values[new.values.index(new.default)]
        new = dataclasses.replace(new, values=values, default=default)
    if wanted is None or _kind_of(new) == wanted or (wanted == "numbers" and _kind_of(new) == "whole numbers"):
        return new
    held = ", ".join(map(repr, new.values)) if isinstance(new, Choice) else f"{type(new).__name__}(…)"
    raise SpaceError(f"{held} is not allowed: expected {wanted}, as the evaluator's own gene has")


def _as_whole(value: Value) -> Value:
    """Return 8 for 8.0; what is not whole, as it is."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def _as_text(value: Value, own: Gene) -> Value:
    """Return '8' for 8 where the own gene has such a text: what was typed tells no text from a number."""
    texts = [str(text) for text in own.values] if isinstance(own, Choice) else []
    return next((text for text in texts if not isinstance(value, str) and text.lower() == str(value).lower()), value)
