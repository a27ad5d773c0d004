"""NSGA-II (Deb et al., 2002) for several objectives, with DEAP's selection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from evo_tune.genome.history import History
from evo_tune.strategies._breeder import Breeder
from evo_tune.strategies._deap import Individual, best_by_crowding, select_by_crowding, tournament_by_crowding


@dataclass(frozen=True)
class NSGA2(Breeder):
    """NSGA-II for several objectives: survival by non-dominated front, then crowding distance.

    By default it is steady-state: survivors are selected from all completed trials. With `generational` it is the
    algorithm of the paper.
    """

    several_objectives: ClassVar[bool] = True

    def _steady(self, history: History) -> list[Individual]:
        return list(best_by_crowding(history, self.population).values())

    def survive(self, old: Sequence[Individual], young: Sequence[Individual]) -> list[Individual]:
        return select_by_crowding([*old, *young], self.population)

    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        return tournament_by_crowding(pool)
