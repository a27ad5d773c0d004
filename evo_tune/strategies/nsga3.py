"""NSGA-III (Deb & Jain, 2014) for three objectives and more, with DEAP's selection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from evo_tune.strategies._breeder import Breeder
from evo_tune.strategies._deap import Individual, select_by_reference, tournament


@dataclass(frozen=True)
class NSGA3(Breeder):
    """NSGA-III for three objectives and more: survival by non-dominated front, then reference points.

    Crowding distances tell little where few trials are dominated; evenly spread reference points keep a front wide. By
    default it is steady-state: each result competes at once. With `generational` it is the algorithm of the paper.
    """

    several_objectives: ClassVar[bool] = True

    def survive(self, old: Sequence[Individual], young: Sequence[Individual]) -> list[Individual]:
        return select_by_reference([*old, *young], self.population)

    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        # Any two, as in the paper: all survivors are on the best fronts.
        return tournament(pool, 1), tournament(pool, 1)
