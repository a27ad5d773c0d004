"""NSGA-II (Deb et al., 2002) for several objectives, with DEAP's selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from evo_tune.genome.history import History
from evo_tune.strategies._breeder import Breeder
from evo_tune.strategies._deap import Individual, best_of, crowded_tournament, select

__all__ = ["NSGA2"]


@dataclass(frozen=True)
class NSGA2(Breeder):
    """NSGA-II for several objectives: survival by non-dominated front, then crowding distance.

    By default it is steady-state (every result competes at once); with `generational` it is the
    algorithm of the paper.

    Args:
        population: See Breeder.
        crossover: See Breeder.
        mutation: See Breeder.
        scale: See Breeder.
        immigrants: See Breeder.
        generational: See Breeder.
        front: In the steady state, survivors are selected from 'all' trials at once, or 'steady'ly, each trial having
            competed as it came: with rules around, the cost of that grows with the run.
    """

    front: Literal["all", "steady"] = "all"

    several_objectives: ClassVar[bool] = True

    def _steady(self, history: History) -> list[Individual]:
        if self.front == "steady":
            return super()._steady(history)
        return list(best_of(history, self.population).values())

    def survive(self, old: Sequence[Individual], young: Sequence[Individual]) -> list[Individual]:
        return select([*old, *young], self.population)

    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        return crowded_tournament(pool)
