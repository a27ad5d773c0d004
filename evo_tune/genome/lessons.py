"""What earlier runs found, as a search takes it: genomes in this space's coordinates, and how each run ranked them.

It is plain data and no history: nothing of it counts as born, told or seen (law 10). This module knows nothing of
stores, models or strategies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome, Value, is_number

__all__ = ["Lesson", "digest"]


@dataclass(frozen=True)
class Lesson:
    """One earlier run.

    Args:
        name: Its name.
        shared: Places of the genes that it had as well, shape (shared,).
        units: Unit coordinates of its genomes, in the genes that it lacked those of the default. Shape (trials, genes).
        losses: Their losses, shape (trials,).
        memo: For what is computed from the others alone.
    """

    name: str
    shared: np.ndarray
    units: np.ndarray
    losses: np.ndarray
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, genomes: Sequence[Genome], losses: Sequence[float], space: SearchSpace) -> Lesson:
        """Return what a run's trials say in a space: values outside of a gene's range are moved to its ends.

        A genome with a category that the space does not have is left out.
        """
        shared = [place for place, gene in enumerate(space.genes) if any(gene in genome for genome in genomes)]
        units, kept = [], []
        for genome, loss in zip(genomes, losses, strict=True):
            moved = {name: _moved(gene, genome[name]) for name, gene in space.genes.items() if name in genome}
            if None not in moved.values():
                units.append(space.encode(space.check({**space.default(), **moved})))
                kept.append(loss)
        return cls(name, np.array(shared, dtype=int), np.array(units).reshape(-1, len(space.genes)), np.array(kept))


def _moved(gene: Gene, value: Value) -> Value | None:
    """Return the value of a gene that is nearest to one of another run's; None if there is nothing near."""
    try:
        return gene.check(value)
    except SpaceError:
        pass
    if not is_number(value):
        return None
    if isinstance(gene, Choice):
        numbers = [mine for mine in gene.values if is_number(mine)] if gene.ordered else []
        return min(numbers, key=lambda mine: abs(float(mine) - float(value)), default=None)
    low, high = gene.decode(0.0), gene.decode(1.0)
    if not float(low) < float(value) < float(high):
        return low if float(value) <= float(low) else high
    return gene.decode(gene.encode(round(float(value)) if isinstance(low, int) else value))


def digest(genomes: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> str:
    """Return the SHA-256 of what was learned from, by which two runs tell whether it was the same."""
    return hashlib.sha256(json.dumps([list(genomes), list(losses)], sort_keys=True).encode()).hexdigest()
