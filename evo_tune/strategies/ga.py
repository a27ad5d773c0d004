"""The genetic algorithm for one objective, with DEAP's operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evo_tune.errors import OptionError
from evo_tune.genome.history import History
from evo_tune.strategies._breeder import Breeder
from evo_tune.strategies._deap import Individual, tournament

__all__ = ["GA"]


@dataclass(frozen=True)
class GA(Breeder):
    """Genetic algorithm for one objective: tournaments among the best so far, crossover, mutation.

    By default it is steady-state: every result competes at once with the best `population` of the whole
    run, so no slot ever waits. With `generational` a generation is bred from the one before it and the
    `elites`.

    Args:
        population: See Breeder.
        crossover: See Breeder.
        mutation: See Breeder.
        scale: See Breeder.
        immigrants: See Breeder.
        generational: See Breeder.
        tournament: Number of survivors of which the best becomes a parent. High, because a run has tens of
            trainings and not thousands.
        elites: Number of earlier survivors that compete with a new generation; only if generational.
    """

    tournament: int = 6
    elites: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tournament < 1:
            raise OptionError(f"tournament={self.tournament} is not allowed: expected 1 or more")
        if not 0 <= self.elites <= self.population:
            raise OptionError(
                f"elites={self.elites} is not allowed: expected 0 to {self.population}, the size of the population"
            )

    def survive(self, old: Sequence[Individual], young: Sequence[Individual]) -> list[Individual]:
        kept = old[: self.elites] if self.generational else old
        return sorted([*kept, *young], key=lambda one: (one.losses, one.id))[: self.population]

    def _steady(self, history: History) -> list[Individual]:
        # What `survive` would leave of everything told, one by one; rules show a history that is made anew each time.
        return [Individual.of(trial, history) for trial in history.ranking[: self.population]]

    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        return tournament(pool, self.tournament), tournament(pool, self.tournament)
