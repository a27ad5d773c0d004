"""Priors of genes: where good values are expected, and random genomes from there.

The prior of a gene with an order is a normal distribution on the gene's scale around `prior`, cut off at the bounds.
The prior of a Choice without order gives all other values together the probability `spread`. A small share of the
uniform distribution is added to both, so that no value is ruled out.

An expert's default is a prior too: `near_default`.

Sources: Hvarfner et al., πBO (ICLR 2022); Mallik et al., PriorBand (NeurIPS 2023), for defaults as priors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int, decodes_to_any

UNSURE = 0.05
"""Share of the uniform distribution in a prior."""

NEAR = 0.2
"""Standard deviation of the prior around an expert's default, in unit coordinates."""

OTHER = 0.3
"""Probability that another value of a Choice without order is better than an expert's default."""


def near_default(gene: Gene) -> Gene:
    """Return a gene with a prior around its default; the same gene if it has a prior, one value or no default."""
    if gene.prior is not None or gene.default is None or gene.size <= 1:
        return gene
    if not has_order(gene):
        spread = OTHER
    elif getattr(gene, "log", False):
        assert isinstance(gene, Float | Int)
        spread = (gene.high / gene.low) ** NEAR
    else:
        spread = NEAR * _range(gene)
    return replace(gene, prior=gene.default, spread=float(f"{spread:.3g}"))  # type: ignore[type-var]


def width(gene: Gene) -> float:
    """Return the standard deviation of the prior of a gene with an order, in unit coordinates."""
    assert gene.spread is not None
    if getattr(gene, "log", False):
        assert isinstance(gene, Float | Int)
        return math.log(gene.spread) / (math.log(gene.high) - math.log(gene.low))
    return gene.spread / _range(gene)


def sample_prior(genes: Mapping[str, Gene], rng: np.random.Generator) -> np.ndarray:
    """Return random unit coordinates from the genes' priors, uniform without a prior, shape (genes,)."""
    units = rng.random(len(genes))
    for place, gene in enumerate(genes.values()):
        if gene.prior is None or rng.random() < UNSURE:
            continue
        middle = gene.encode(gene.prior)
        if has_order(gene):
            near = middle + width(gene) * rng.normal(size=64)
            inside = near[(near >= 0.0) & (near <= 1.0)]
            units[place] = inside[0] if len(inside) else middle
        else:
            assert gene.spread is not None
            units[place] = gene.mutate(middle, rng, 1.0) if rng.random() < gene.spread else middle
    return units


def log_prior(genes: Mapping[str, Gene], units: np.ndarray) -> np.ndarray:
    """Return the log density of points under the priors, relative to that of the priors' middle, shape (points,).

    Args:
        genes: Genes by name.
        units: Unit coordinates, shape (points, genes).
    """
    total = np.zeros(len(units))
    for place, gene in enumerate(genes.values()):
        if gene.prior is None:
            continue
        middle = gene.encode(gene.prior)
        if has_order(gene):
            share = np.exp(-0.5 * ((units[:, place] - middle) / width(gene)) ** 2)
        else:
            assert gene.spread is not None
            other = gene.spread / (1.0 - gene.spread) / max(1, gene.size - 1)
            share = np.where(decodes_to_any(gene, (gene.prior,), units[:, place]), 1.0, other)
        total += np.log((1.0 - UNSURE) * share + UNSURE)
    return total


def log_prior_gradient(genes: Mapping[str, Gene], units: np.ndarray) -> np.ndarray:
    """Return the gradient of `log_prior` by the unit coordinates, both of shape (points, genes)."""
    found = np.zeros(units.shape)
    for place, gene in enumerate(genes.values()):
        if gene.prior is not None and has_order(gene):
            away = (units[:, place] - gene.encode(gene.prior)) / width(gene)
            near = (1.0 - UNSURE) * np.exp(-0.5 * away**2)
            found[:, place] = -near * away / (near + UNSURE) / width(gene)
    return found


def has_order(gene: Gene) -> bool:
    """Return whether the values of a gene have an order."""
    return not isinstance(gene, Choice) or gene.ordered


def _range(gene: Gene) -> float:
    """Return the length of the range of a linear gene with an order, in the unit of its spread."""
    if isinstance(gene, Float):
        return gene.high - gene.low
    return getattr(gene, "step", 1) * gene.size
