"""What models learn from in place of a genome: its unit coordinates, and indices of values that have no order."""

from __future__ import annotations

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.space import SearchSpace

__all__ = ["features_of", "sizes_of"]


def sizes_of(space: SearchSpace) -> np.ndarray:
    """Return the number of values of each gene without order, 0 for one with an order, shape (genes,)."""
    genes = space.genes.values()
    return np.array([gene.size if isinstance(gene, Choice) and not gene.ordered else 0 for gene in genes])


def features_of(units: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return unit coordinates, shape (points, genes), with genes without order as indices of their values.

    Args:
        units: Unit coordinates, of the same shape.
        sizes: See `sizes_of`.
    """
    return np.where(sizes > 0, np.minimum(np.floor(units * sizes), sizes - 1), units)
