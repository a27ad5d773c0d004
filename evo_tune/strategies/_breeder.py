"""Base class of evolutionary strategies: survivors, generations, and children.

A subclass selects survivors and parents. This module does not know objectives.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import fresh, spread, unseen
from evo_tune.strategies._deap import Individual, crossover, deap_generator, mutate

# Maximum number of children tried before a random genome is proposed; each mutates more than the one before.
ATTEMPTS = 8

# Smallest standard deviation of a mutation, in unit coordinates.
FINEST = 0.02


@dataclass(frozen=True)
class Breeder(Strategy):
    """Abstract strategy that selects survivors from completed trials and breeds children from them."""

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
        """Return the survivors, at most `population`, of earlier survivors and new individuals."""

    @abstractmethod
    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        """Return two parents, possibly the same, from one or more survivors; called inside `seeded`."""

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        if self.generational:
            last = history.fresh_count // self.population - 1
            if any(candidate.generation <= last for candidate in history.pending):
                return None
            pool = self._generations(history).survivors(self, last)
        else:
            pool = self._steady(history)
        # Half a population of parents is enough to start, because waiting for more wastes slots.
        if history.fresh_count < self.population and len(pool) < max(1, self.population // 2):
            return spread(history, rng)
        if not pool or rng.random() < self.immigrants:
            return unseen(history, rng)
        return fresh(history, rng, self._children(history, rng, pool))

    def survivors(self, history: History) -> Sequence[int]:
        if not self.generational:
            return [individual.id for individual in self._steady(history)]
        proposed = history.fresh_count // self.population - 1
        complete = min([proposed, *(candidate.generation - 1 for candidate in history.pending)])
        generations = self._generations(history)
        pool = generations.survivors(self, complete)
        # Before the first generation is complete, and if all of it failed, select among all results so far.
        members = generations.members
        pool = pool or self.survive([], [individual for number in sorted(members) for individual in members[number]])
        return [individual.id for individual in pool]

    def _steady(self, history: History) -> list[Individual]:
        """Return the survivors of all completed trials. Each competed when its result was reported."""

        def step(pool: list[Individual], trial: Trial) -> list[Individual]:
            return self.survive(pool, [Individual.of(trial, history)]) if trial.rankable else pool

        return history.fold((__name__, "steady", self), list, step)

    def _generations(self, history: History) -> Generations:
        def step(generations: Generations, trial: Trial) -> Generations:
            if trial.rankable:
                generations.members[trial.candidate.generation].append(Individual.of(trial, history))
            return generations

        return history.fold((__name__, "generations", self), Generations, step)

    def _children(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> Iterator[Proposal]:
        """Yield children, each mutated more than the one before, because the first may exist already."""
        space = history.space
        scale = max(FINEST, self.scale / math.sqrt(1.0 + len(history.trials) / self.population))
        for attempt in range(ATTEMPTS):
            with deap_generator(rng):
                first, second = self.parents(pool)
                units, crossed = first.units, first.id != second.id and rng.random() < self.crossover
                if crossed:
                    units = crossover(first.units, second.units, space)
            growth = 1.0 + attempt / 2
            genome = space.snap(mutate(units, space, rng, self.mutation * growth, min(1.0, scale * growth)))
            parents = (first.id, second.id) if crossed else (first.id,)
            yield Proposal(genome, "crossover+mutation" if crossed else "mutation", parents)


@dataclass
class Generations:
    """Completed individuals of each generation, and the survivors of complete generations; the state of a fold.

    A complete generation never changes, so its survivors are computed once.

    Args:
        members: Completed individuals of each generation.
        closed: Survivors after each complete generation.
    """

    members: defaultdict[int, list[Individual]] = field(default_factory=lambda: defaultdict(list))
    closed: list[list[Individual]] = field(default_factory=list)

    def survivors(self, strategy: Breeder, last: int) -> list[Individual]:
        """Return the survivors of the complete generations up to `last`; none if `last` is -1."""
        while len(self.closed) <= last:
            earlier = self.closed[-1] if self.closed else []
            self.closed.append(strategy.survive(earlier, self.members.get(len(self.closed), [])))
        return self.closed[last] if last >= 0 else []
