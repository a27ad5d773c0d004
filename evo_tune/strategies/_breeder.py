"""What the strategies that breed have in common: who survives, the barrier of generations, and a child.

A subclass says how to select survivors and parents; the rest is here. This file knows no objectives.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies._deap import Individual, crossover, mutate, seeded
from evo_tune.strategies._proposals import fresh, spread, unseen

__all__ = ["Breeder"]

ATTEMPTS = 8
"""Children made before a random genome takes their place; each mutates more than the one before."""

FINEST = 0.02
"""Smallest standard deviation of a mutation, in unit coordinates."""


@dataclass(frozen=True)
class Breeder(Strategy):
    """Abstract: survivors are selected from the completed trials, and children are bred from survivors."""

    crossover: float = option(0.8, bounds="[0, 1]", help="Probability that a child has two parents.")
    mutation: float = option(1.0, bounds="[0, inf)", help="Expected number of mutated genes; at least one mutates.")
    scale: float = option(
        0.3,
        bounds="(0, 1]",
        unit="share of a gene's range",
        help="Standard deviation of the first mutations; it shrinks with the root of the number of trials.",
    )
    immigrants: float = option(0.05, bounds="[0, 1]", help="Probability of a random genome instead of a child.")
    generational: bool = option(False, help="Breed a generation only after all results of the one before it.")

    @abstractmethod
    def survive(self, old: Sequence[Individual], young: Sequence[Individual]) -> list[Individual]:
        """Return the survivors, at most `population`, of earlier survivors and newly told individuals."""

    @abstractmethod
    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        """Return two parents, perhaps the same one twice, from one or more survivors; runs inside `seeded`."""

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        if self.generational:
            last = history.fresh_count // self.population - 1
            if any(candidate.generation <= last for candidate in history.out):
                return None
            pool = self._generations(history).survivors(self, last)
        else:
            pool = self._steady(history)
        # Half a population of parents is enough to begin: trainings are few, and waiting spends them.
        if history.fresh_count < self.population and len(pool) < max(1, self.population // 2):
            return spread(history, rng)
        if not pool or rng.random() < self.immigrants:
            return unseen(history, rng)
        return fresh(history, rng, self._children(history, rng, pool))

    def survivors(self, history: History) -> Sequence[int]:
        if not self.generational:
            return [one.id for one in self._steady(history)]
        born = history.fresh_count // self.population - 1
        complete = min([born, *(candidate.generation - 1 for candidate in history.out)])
        generations = self._generations(history)
        pool = generations.survivors(self, complete)
        # Before the first generation is complete, and where all of it failed, there is only what is told so far.
        return [one.id for one in pool or self.survive([], [one for told in generations.born for one in told])]

    def _steady(self, history: History) -> list[Individual]:
        """Return the survivors of everything told, each trial having competed as it came."""

        def step(pool: list[Individual], trial: Trial) -> list[Individual]:
            return self.survive(pool, [Individual.of(trial, history)]) if trial.rankable else pool

        return history.fold((__name__, "steady", self), list, step)

    def _generations(self, history: History) -> Generations:
        def step(generations: Generations, trial: Trial) -> Generations:
            if trial.rankable:
                generations.add(trial.candidate.generation, Individual.of(trial, history))
            return generations

        return history.fold((__name__, "generations", self), Generations, step)

    def _children(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> Iterator[Proposal]:
        """Yield children, each more mutated than the one before: the first may have been born already."""
        space = history.space
        rate = self.mutation / len(space.genes)
        scale = max(FINEST, self.scale / math.sqrt(1.0 + len(history.trials) / self.population))
        for attempt in range(ATTEMPTS):
            with seeded(rng):
                first, second = self.parents(pool)
                units, bred = first.units, first.id != second.id and rng.random() < self.crossover
                if bred:
                    units = crossover(first.units, second.units, space)
            more = 1.0 + attempt / 2
            genome = space.snap(mutate(units, space, rng, rate * more, min(1.0, scale * more)))
            if bred:
                yield Proposal(genome, "crossover+mutation", (first.id, second.id))
            else:
                yield Proposal(genome, "mutation", (first.id,))


@dataclass
class Generations:
    """Told individuals by generation, and the survivors of complete ones: the state of a fold.

    A generation that has been told completely never changes, so its survivors are computed once.
    """

    born: list[list[Individual]] = field(default_factory=list)
    closed: list[list[Individual]] = field(default_factory=list)

    def add(self, generation: int, individual: Individual) -> None:
        """Note a told individual."""
        while len(self.born) <= generation:
            self.born.append([])
        self.born[generation].append(individual)

    def told(self, generation: int) -> list[Individual]:
        """Return a generation's individuals so far."""
        return self.born[generation] if generation < len(self.born) else []

    def survivors(self, strategy: Breeder, last: int) -> list[Individual]:
        """Return the survivors of the generations up to `last`, which are told completely; -1: none."""
        while len(self.closed) <= last:
            old = self.closed[-1] if self.closed else []
            self.closed.append(strategy.survive(old, self.told(len(self.closed))))
        return self.closed[last] if last >= 0 else []
