"""The genes that a user gives instead of the evaluator's own: taken as they were meant, or refused.

Knows genes and spaces alone: no evaluator, no run and no strategy.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Value
from evo_tune.options.binding import suggest

__all__ = ["with_defaults"]

KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "whole numbers": int,
    "numbers": (int, float),
    "text": str,
}
"""What the values of a gene may be, in words; the first that holds of all of them counts."""


def with_defaults(genes: Mapping[str, Gene | None], own: SearchSpace) -> dict[str, Gene]:
    """Return genes that replace some of the evaluator's own, with those's defaults where they allow it.

    None stands for the evaluator's own gene: it is how an optional one is switched on as it is.

    Raises:
        SpaceError: One is unknown, is no gene, or has values of another type than the evaluator's own.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    found = {}
    known = {**own.genes, **own.optional}
    for name, gene in genes.items():
        if name not in known:
            raise SpaceError(f"--gene {name}: expected one of {', '.join(known)}{suggest(str(name), known)}")
        if gene is None and name in own.genes:
            raise SpaceError(f"--gene {name}: it is on as it is; expected --gene {name}=GENE")
        if gene is None:
            continue
        if not isinstance(gene, Gene):
            raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
        try:
            found[name] = _like(known[name], gene)
        except SpaceError as error:
            raise SpaceError(f"--gene {name}: {error}") from None
        if gene.default is None:
            with contextlib.suppress(SpaceError):
                found[name] = dataclasses.replace(found[name], default=found[name].check(known[name].middle()))  # type: ignore[type-var]
    return found


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
        convert = _as_whole if wanted == "whole numbers" else _as_text
        values = tuple(convert(value, own) for value in new.values)
        default = None if new.default is None else convert(new.default, own)
        new = dataclasses.replace(new, values=values, default=default)
    if wanted is None or _kind_of(new) == wanted or (wanted == "numbers" and _kind_of(new) == "whole numbers"):
        return new
    held = ", ".join(map(repr, new.values)) if isinstance(new, Choice) else f"{type(new).__name__}(…)"
    raise SpaceError(f"{held} is not allowed: expected {wanted}, as the evaluator's own gene has")


def _as_whole(value: Value, own: Gene) -> Value:
    """Return 8 for 8.0; what is not whole, as it is."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def _as_text(value: Value, own: Gene) -> Value:
    """Return '8' for 8 where the own gene has such a text: what was typed tells no text from a number."""
    texts = [str(text) for text in own.values] if isinstance(own, Choice) else []
    return next((text for text in texts if not isinstance(value, str) and text.lower() == str(value).lower()), value)
