"""What is known of a gene before a run: where a good value is believed to lie, and with which others it counts at all.

A prior is a normal distribution on the gene's own scale around `prior`, cut off at its bounds, mixed with a little of
the uniform one, so that nothing is ruled out. `when` names values of other genes; with others the gene is held at its
default, so that no two genomes differ in what does not count. This module knows no strategies, spaces or trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Protocol, TypeAlias

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome.values import Genome, Value, is_number, plain

__all__ = ["When", "beliefs", "check_conditions", "check_hints", "described", "drawn", "inactive", "when_from"]

When: TypeAlias = tuple[tuple[str, tuple[Value, ...]], ...]
"""Names of other genes, each with the values of it with which a gene counts."""


class Gene(Protocol):
    """A gene, as far as it is known here."""

    default: Value | None
    prior: Value | None
    spread: float | None
    when: When | None

    @property
    def size(self) -> float: ...

    def check(self, value: object) -> Value: ...

    def encode(self, value: Value) -> float: ...


UNSURE = 0.05
"""Share of the uniform distribution in a prior."""


def when_from(given: object) -> When | None:
    """Return a condition, given as a dict of names to a value or several, as genes hold it.

    Raises:
        SpaceError: It is none.
    """
    if given is None:
        return None
    try:
        found = tuple(
            (str(name), tuple(map(plain, values if isinstance(values, list | tuple) else (values,))))
            for name, values in dict(given).items()  # type: ignore[call-overload]
        )
    except (TypeError, ValueError):
        found = ()
    if not found or not all(values for _, values in found):
        raise SpaceError(f"when={given!r}: expected a dict of a gene's name to a value of it, or several")
    return found


def described(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a gene as plain data, without hints that were not given."""
    plain = {name: value for name, value in fields.items() if value is not None or name not in HINTS}
    if "when" in plain:
        plain["when"] = {name: list(values) for name, values in plain["when"]}
    return plain


HINTS = ("prior", "spread", "when")


def check_hints(gene: Gene) -> None:
    """Bring a gene's hints into the form in which it holds them; a prior is its default, if it has no other.

    Raises:
        SpaceError: A prior outside, without spread or for a choice without order; a spread or a condition that is none.
    """
    object.__setattr__(gene, "when", when_from(gene.when))
    if gene.prior is None and gene.spread is None:
        return
    if gene.prior is None or gene.spread is None:
        raise SpaceError(f"prior={gene.prior}, spread={gene.spread}: give both, or neither")
    if getattr(gene, "ordered", True) is False:
        raise SpaceError(f"prior={gene.prior!r}: a choice without order has no spread around a value; give a default")
    log, least = getattr(gene, "log", False), 1.0 if getattr(gene, "log", False) else 0.0
    if not is_number(gene.spread) or not least < gene.spread < math.inf:
        what = "a factor above 1, as the gene is logarithmic" if log else "a number above 0"
        raise SpaceError(f"spread={gene.spread!r} is not allowed: expected {what}")
    try:
        object.__setattr__(gene, "prior", gene.check(gene.prior))
    except SpaceError as error:
        raise SpaceError(f"prior {error}") from None
    object.__setattr__(gene, "spread", float(gene.spread))
    if gene.default is None:
        object.__setattr__(gene, "default", gene.prior)


def width(gene: Gene) -> float:
    """Return the standard deviation of a gene's prior in unit coordinates."""
    assert gene.spread is not None
    if getattr(gene, "log", False):
        return math.log(gene.spread) / (math.log(gene.high) - math.log(gene.low))  # type: ignore[attr-defined]
    if math.isinf(gene.size):
        return gene.spread / (gene.high - gene.low)  # type: ignore[attr-defined, no-any-return]
    return gene.spread / (getattr(gene, "step", 1) * gene.size)


def drawn(genes: Mapping[str, Gene], rng: np.random.Generator) -> np.ndarray:
    """Return random unit coordinates from the genes' priors, uniform where there is none, shape (genes,)."""
    units = rng.random(len(genes))
    for place, gene in enumerate(genes.values()):
        if gene.prior is not None and rng.random() >= UNSURE:
            middle, deviation = gene.encode(gene.prior), width(gene)
            near = middle + deviation * rng.normal(size=64)
            inside = near[(near >= 0.0) & (near <= 1.0)]
            units[place] = inside[0] if len(inside) else middle
    return units


def beliefs(genes: Mapping[str, Gene], units: np.ndarray) -> np.ndarray:
    """Return the logarithm of how likely points are by the priors, 0 for the likeliest, shape (points,).

    Args:
        genes: Name to gene.
        units: Unit coordinates, shape (points, genes).
    """
    total = np.zeros(len(units))
    for place, gene in enumerate(genes.values()):
        if gene.prior is not None:
            away = (units[:, place] - gene.encode(gene.prior)) / width(gene)
            total += np.log((1.0 - UNSURE) * np.exp(-0.5 * away**2) + UNSURE)
    return total


def inactive(genes: Mapping[str, Gene], genome: Genome) -> list[str]:
    """Return the names of the genes that do not count in a genome; a condition on a gene that is not there holds."""
    if all(gene.when is None for gene in genes.values()):
        return []

    counts: dict[str, bool] = {}
    for name in TopologicalSorter(_needed(genes)).static_order():
        counts[name] = all(
            other not in genes
            or (counts[other] and any(genes[other].check(value) == genome[other] for value in values))
            for other, values in genes[name].when or ()
        )
    return [name for name in genes if not counts[name]]


def _needed(genes: Mapping[str, Gene]) -> dict[str, set[str]]:
    """Return the genes on which each one's condition rests, of those that are there."""
    return {name: {other for other, _ in gene.when or () if other in genes} for name, gene in genes.items()}


def check_conditions(genes: Mapping[str, Gene]) -> None:
    """Refuse conditions on values that there are not, and circles of them.

    A gene that is not there may be an optional one that is off.

    Raises:
        SpaceError: There is one.
    """
    for name, gene in genes.items():
        for other, values in gene.when or ():
            if other not in genes:
                raise SpaceError(
                    f"gene {name}: when {other}=…: there is no gene {other!r}; expected {', '.join(genes)}"
                )
            for value in values:
                try:
                    genes[other].check(value)
                except SpaceError as error:
                    raise SpaceError(f"gene {name}: when {other}: {error}") from None
    try:
        TopologicalSorter(_needed(genes)).prepare()
    except CycleError as error:
        circle = error.args[1]
        raise SpaceError(f"gene {circle[0]}: when: {' needs '.join(circle)}: expected no circle") from None
