"""Births that every strategy shares: spread out, random, and never one that was born before.

This file knows nothing of parents, selection or DEAP.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evo_tune.genome.genes import Choice
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.genome.values import Genome, genome_key

__all__ = ["drawn", "fresh", "spread", "unborn"]

SAMPLES = 20
"""Random genomes of which `spread` takes the most remote."""

DRAWS = 32
"""Random genomes tried before a finite space is enumerated."""

GRID = 50_000
"""Largest number of cells that is enumerated: about a second, once in a run."""

LAST_DRAWS = 2_000
"""Random genomes tried, more, where the cells are too many to enumerate."""


def spread(history: History, rng: np.random.Generator) -> Proposal | None:
    """Return that one of some random genomes which is farthest from everything born.

    Best-candidate sampling (Mitchell, 1991): it fills a space evenly whatever was born before, so the
    default and warm starts count. Genes with a prior are drawn from it.
    """
    space = history.space
    drawn = [space.sample_prior(rng) for _ in range(SAMPLES)]
    new = [genome for genome in drawn if not history.seen(genome)]
    if not new or not history.born_count:
        return unborn(history, rng)
    distances = _distances(space, np.stack([space.encode(genome) for genome in new]), np.stack(history.born_units))
    return Proposal(new[int(np.argmax(distances.min(axis=1)))], "spread")


def _distances(space: SearchSpace, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return Euclidean distances, shape (left, right), of unit coordinates of shapes (left, genes), (right, genes).

    Two values of a Choice without order are as far apart as the ends of a scale.
    """
    steps = np.abs(left[:, None, :] - right[None, :, :])
    unordered = [isinstance(gene, Choice) and not gene.ordered for gene in space.genes.values()]
    steps[:, :, unordered] = steps[:, :, unordered] > 0
    return np.asarray(np.sqrt((steps**2).sum(axis=2)))


def fresh(history: History, rng: np.random.Generator, children: Iterable[Proposal]) -> Proposal | None:
    """Return the first child that was never born, else a random genome that was not.

    Args:
        history: What was born.
        rng: For the random genome.
        children: In order of preference, each made when it is asked for.
    """
    for child in children:
        if not history.seen(child.genome):
            return child
    return unborn(history, rng)


def drawn(history: History, rng: np.random.Generator) -> Proposal | None:
    """Return a random genome that was never born, genes with a prior being drawn from it; or None, as `unborn`."""
    for _ in range(DRAWS):
        genome = history.space.sample_prior(rng)
        if not history.seen(genome):
            return Proposal(genome, "random")
    return unborn(history, rng)


def unborn(history: History, rng: np.random.Generator) -> Proposal | None:
    """Return a random genome that was never born, or None if the space has no more.

    A finite space is enumerated when random draws have failed, so all of it is born in the end. One of
    more than GRID cells counts as exhausted when LAST_DRAWS further draws in a row find nothing new.
    """
    space = history.space
    small = space.size <= GRID
    for _ in range(DRAWS if small else DRAWS + LAST_DRAWS):
        genome = space.sample(rng)
        if not history.seen(genome):
            return Proposal(genome, "random")
    return _enumerated(history, rng) if small else None


def _enumerated(history: History, rng: np.random.Generator) -> Proposal | None:
    left = history.fold(f"{__name__}.Remaining", lambda: Remaining(history.space), Remaining.without).genomes
    start = int(rng.integers(len(left))) if left else 0
    for offset in range(len(left)):
        genome = left[(start + offset) % len(left)]
        if not history.seen(genome):  # passes over those that are still out
            return Proposal(genome, "enumeration")
    return None


class Remaining:
    """The different genomes of a finite space that no told trial has had: the state of a fold.

    Args:
        space: The space; all of its cells are repaired once.
    """

    def __init__(self, space: SearchSpace) -> None:
        distinct = {genome_key(genome): genome for genome in space.grid()}
        self.genomes: list[Genome] = list(distinct.values())
        self._places = {key: place for place, key in enumerate(distinct)}

    def without(self, trial: Trial) -> Remaining:
        """Take a trial's genome out; the last one moves to its place."""
        candidate = trial.candidate
        full = candidate.budget == 1.0 and candidate.replicate == 0
        place = self._places.pop(genome_key(candidate.genome), None) if full else None
        if place is not None:
            last = self.genomes.pop()
            if place < len(self.genomes):
                self.genomes[place] = last
                self._places[genome_key(last)] = place
        return self
