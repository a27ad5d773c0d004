"""The genetic algorithm for one objective, with DEAP's operators."""

from collections.abc import Sequence
from dataclasses import dataclass

from evo_tune.errors import RecipeError
from evo_tune.genome.history import History
from evo_tune.options.declare import option
from evo_tune.strategies._breeder import Breeder
from evo_tune.strategies._deap import Individual, tournament


@dataclass(frozen=True)
class GA(Breeder):
    """Genetic algorithm for one objective: tournaments among the best so far, crossover, mutation.

    By default it is steady-state: each result competes at once with the best `population` trials of the run, so no
    slot waits. With `generational`, a generation is bred from the one before it and the `elites`.
    """

    # High, because a run has tens of trials and not thousands.
    tournament: int = option(
        6, bounds="[1, inf)", help="Number of survivors in a tournament; the best becomes a parent."
    )
    elites: int = option(2, bounds="[0, inf)", help="Earlier survivors that compete with a new generation.")

    def check(self) -> None:
        if self.elites > self.population:
            raise RecipeError("elites", self.elites, f"0 to {self.population}, the size of the population")

    def survive(self, old: Sequence[Individual], young: Sequence[Individual]) -> list[Individual]:
        pool = [*(old[: self.elites] if self.generational else old), *young]
        return sorted(pool, key=lambda individual: (individual.losses, individual.id))[: self.population]

    def _steady(self, history: History) -> list[Individual]:
        # The same as `survive` applied to each result in turn, but cheap where rules make a new history each time.
        return [Individual.of(trial, history) for trial in history.ranking[: self.population]]

    def parents(self, pool: Sequence[Individual]) -> tuple[Individual, Individual]:
        return tournament(pool, self.tournament), tournament(pool, self.tournament)
