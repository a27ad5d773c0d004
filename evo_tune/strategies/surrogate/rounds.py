"""Candidates that the models like, and a search by the models around these: rounds of mutation that train nothing.

This file knows spaces and merits, and nothing of how either was learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.models.features import sizes_of
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import Genome, genome_key

__all__ = ["Bred", "Merits", "News", "searched"]

LIKED, VARIANTS = 8, 6
"""Candidates around which a round searches, and how many variants it makes of each."""

WIDEST = 0.1
"""Standard deviation of the first round's steps, in unit coordinates; each further round halves it."""

MANY = 64
"""Values from which on a gene counts as continuous until a candidate is snapped."""

ANY = 1e-9
"""A difference, in unit coordinates, below that of any two values."""

POINTS, RECENT = 96, 256
"""Best trials, and last births, from which a birth is kept apart: what bounds its cost in a long run."""

Merits = Callable[[np.ndarray], np.ndarray]
"""Says how promising unit coordinates of shape (points, genes) are, shape (points,); higher is better."""


@dataclass(frozen=True)
class Bred:
    """A candidate before it is snapped.

    Args:
        units: Unit coordinates, shape (genes,).
        operator: See Proposal.
        parents: See Proposal.
    """

    units: Sequence[float] | np.ndarray
    operator: str
    parents: tuple[int, ...] = ()

    def proposal(self, space: SearchSpace) -> Proposal:
        """Return the candidate, snapped."""
        return Proposal(space.snap(self.units), self.operator, self.parents)


@dataclass(frozen=True)
class News:
    """What is new: a genome that was not born, and is not so near to one that nothing could be learned by it.

    Where a search has come close to the best, most of what is bred are copies of it that differ in the third digit of
    one gene. By a noisy loss these cannot be told apart, so each teaches nothing but luck, and together they crowd out
    the other parents (the clearing of Pétrowski, A clearing procedure as a niching method, 1996, for births).

    Args:
        history: Says what was born.
        units: Unit coordinates of the best and the latest births, shape (births, genes).
        least: What differs from each of these by so much in one gene at least is new, shape (genes,).
    """

    history: History
    units: np.ndarray
    least: np.ndarray

    @classmethod
    def of(cls, history: History, apart: float) -> News:
        """Return what is new to a history.

        Args:
            history: Says what was born.
            apart: The least difference, in unit coordinates; in genes of few values, or without order, any difference
                will do. 0: whatever was not born is new.
        """
        genes = history.space.genes
        few = np.array([gene.size < MANY for gene in genes.values()]) | (sizes_of(history.space) > 0)
        ids = [trial.id for trial in history.ranking[:POINTS]] if apart > 0.0 else []
        recent = history.born_units[-RECENT:] if apart > 0.0 else []
        units = np.array([*(history.born_units[id] for id in ids), *recent]).reshape(-1, len(genes))
        return cls(history, units, np.where(few, ANY, apart))

    def __call__(self, genome: Genome) -> bool:
        """Say whether a genome is new."""
        if self.history.seen(genome):
            return False
        if not len(self.units):
            return True
        steps = np.abs(self.units - self.history.space.encode(genome))
        return bool((steps >= self.least).any(axis=1).all())

    def of_bred(self, bred: Iterable[Bred]) -> Iterator[Proposal]:
        """Yield different genomes of what was bred, all of them new, each snapped when it is asked for."""
        known = set()
        for one in bred:
            proposal = one.proposal(self.history.space)
            key = genome_key(proposal.genome)
            if key not in known and self(proposal.genome):
                known.add(key)
                yield proposal


def searched(
    news: News, bred: Sequence[Bred], merits: Merits, rounds: int, rng: np.random.Generator
) -> Proposal | None:
    """Return the most promising genome of what was bred and of what rounds of mutation find around the best of it.

    Coordinates are judged before they are snapped and repaired, which costs most; only the best of each round are, and
    judged again.

    Args:
        news: Says what is new.
        bred: The candidates to begin with.
        merits: Judges them.
        rounds: How often variants of the best so far are made.
        rng: The only source of randomness.

    Returns:
        None if nothing of what was bred is new.
    """
    space = news.history.space
    found: dict[str, Proposal] = {}
    units, merit = np.empty((0, len(space.genes))), np.empty(0)
    young = list(bred)
    for number in range(rounds + 1):
        if number:
            proposals = list(found.values())
            top = np.repeat(np.argsort(-merit, kind="stable")[:LIKED], VARIANTS)
            varied = _varied(units[top], space, rng, WIDEST / 2.0 ** (number - 1))
            young = [Bred(row, "searched", proposals[place].parents) for row, place in zip(varied, top, strict=True)]
        fresh = _best_new(news, young, merits, found)
        if fresh:
            encoded = np.stack([space.encode(one.genome) for one in fresh])
            found |= {genome_key(one.genome): one for one in fresh}
            units, merit = np.concatenate([units, encoded]), np.append(merit, merits(encoded))
        if not found:
            return None
    return list(found.values())[int(np.argmax(merit))]


def _best_new(news: News, young: Sequence[Bred], merits: Merits, known: Iterable[str]) -> list[Proposal]:
    """Return the LIKED most promising of some candidates, all of them new and none of them known."""
    likely = merits(_rounded(news.history.space, np.stack([one.units for one in young])))
    known, fresh = set(known), []
    for index in np.argsort(-likely, kind="stable"):
        proposal = young[index].proposal(news.history.space)
        key = genome_key(proposal.genome)
        if key not in known and news(proposal.genome):
            known.add(key)
            fresh.append(proposal)
            if len(fresh) == LIKED:
                break
    return fresh


def _varied(units: np.ndarray, space: SearchSpace, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Return mutated coordinates, shape (points, genes): each gene with probability 1 / genes, and one at least.

    Args:
        units: Unit coordinates, shape (points, genes).
        space: Whose genes they are.
        rng: The only source of randomness.
        scale: Standard deviation of a step, in unit coordinates; where a gene has few values, of most of a value's
            width at least. A gene without order takes any value.
    """
    count, genes = units.shape
    struck = rng.random(units.shape) < 1.0 / genes
    struck[np.arange(count), rng.integers(genes, size=count)] = True
    widths = np.array([max(scale, 0.7 / gene.size) for gene in space.genes.values()])
    moved = np.abs(units + widths * rng.normal(size=units.shape)) % 2.0
    moved = np.where(moved > 1.0, 2.0 - moved, moved)  # reflected at the bounds
    moved = np.where(sizes_of(space) > 0, rng.random(units.shape), moved)
    return np.where(struck, moved, units)


def _rounded(space: SearchSpace, units: np.ndarray) -> np.ndarray:
    """Return unit coordinates with those of genes of few values in the middle of these, nearly as `encode` has them."""
    sizes = np.array([float(gene.size) for gene in space.genes.values()])
    few = sizes < MANY
    sizes = np.where(few, sizes, 1.0)
    return np.where(few, (np.minimum(np.floor(units * sizes), sizes - 1) + 0.5) / sizes, units)
