"""What gene an option is where the user names it behind `--gene`: its choices, or what its declaration offers.

It knows how options are declared and what genes are; not what either means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.notation import parse_gene
from evo_tune.options.declare import AUTO, Option

__all__ = ["offered"]


def offered(options: Mapping[str, Option], values: Mapping[str, Any]) -> dict[str, Gene]:
    """Return the genes that options offer of themselves, each with the option's value as its default where it can be.

    Args:
        options: Declared ones.
        values: Their values, by name.

    Raises:
        SpaceError: A declaration offers what is no gene.
    """
    genes = {name: _gene_of(one) for name, one in options.items()}
    return {name: _defaulted(gene, values.get(name)) for name, gene in genes.items() if gene is not None}


def _gene_of(one: Option) -> Gene | None:
    if one.gene is None:
        return None
    if one.gene:
        return parse_gene(one.name, one.gene)
    if values := tuple(choice for choice in one.choices if choice != AUTO):
        return Choice(values)
    return Choice((False, True)) if one.type is bool else None


def _defaulted(gene: Gene, value: Any) -> Gene:
    try:
        return replace(gene, default=gene.check(value))  # type: ignore[type-var]
    except SpaceError:  # none of its values: the gene's own middle, then
        return gene
