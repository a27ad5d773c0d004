"""CMA-ES through the package cmaes: a normal distribution whose mean, size and directions adapt.

It works in unit coordinates. Whole numbers and ordered choices are rounded, with a margin that keeps their neighbours
in reach. Choices without order do not fit into a normal distribution and are refused. Proposals do not wait for each
other: each is drawn from the current distribution, which is updated after each population of results. It learns from
the trained genomes, repaired and rounded.

Sources: Hansen, The CMA evolution strategy: a tutorial (2016); Hamano et al., CMA-ES with margin (GECCO
2022); Auger & Hansen, A restart CMA evolution strategy with increasing population size (CEC 2005).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import DEFAULT, WARM_START, Objective, Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import fresh

if TYPE_CHECKING:
    from cmaes import CMAwM

# Draws tried before a random genome is taken.
ATTEMPTS = 8

# Operators of the trials that it learns from. Random ones would be steps of many deviations.
LEARNED = (DEFAULT, WARM_START, "cma")


@dataclass(frozen=True)
class CMA(Strategy):
    """Covariance matrix adaptation (CMA-ES) for genes with an order, through cmaes.

    The distribution is updated after each `population` results. A restart doubles that number.
    """

    population: int = option(12, bounds="[4, inf)", help="Results of an update, and trials in a generation.")
    sigma: float = option(
        0.25,
        bounds="(0, 1]",
        unit="share of a gene's range",
        help="First standard deviation; the distribution starts at the default genome.",
    )

    needs: ClassVar[Mapping[str, str]] = {"cmaes": "evo-tune[cma]"}

    def unsuited(self, space: SearchSpace, objectives: Sequence[Objective]) -> str:
        genes = space.genes.items()
        odd = [name for name, gene in genes if isinstance(gene, Choice) and not gene.ordered and gene.size > 1]
        if odd:
            fix = f"fix it with --gene {odd[0]}=VALUE"
            return f"searches numbers and ordered choices, and {', '.join(odd)} has no order: {fix}"
        return super().unsuited(space, objectives)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return fresh(history, rng, self._draw(history, rng))

    def _draw(self, history: History, rng: np.random.Generator) -> Iterator[Proposal]:
        """Yield draws from the distribution after all completed trials."""
        space = history.space
        varied = np.array([gene.size > 1 for gene in space.genes.values()])
        if not varied.any():
            return

        def step(state: State, trial: Trial) -> State:
            if trial.candidate.operator in LEARNED and (trial.rankable or not trial.ok):
                state.add(trial, history.proposed_units[trial.id][varied])
            if state.distribution.should_stop():
                return State(_distribution(space, varied, self.sigma, 2 * state.distribution.population_size))
            return state

        def begin() -> State:
            return State(_distribution(space, varied, self.sigma, self.population))

        distribution = history.fold((__name__, self), begin, step).distribution
        distribution.reseed_rng(int(rng.integers(2**32)))
        units = space.encode(space.default())
        for _ in range(ATTEMPTS):
            units[varied], _ = distribution.ask()
            yield Proposal(space.snap(units), "cma")


def _distribution(space: SearchSpace, varied: np.ndarray, sigma: float, population: int) -> CMAwM:
    """Return a distribution around the default genome, over the coordinates of the genes that vary."""
    from cmaes import CMAwM

    # Cells of equal width are discrete for cmaes. A logarithmic Int has none, so its values are rounded instead.
    even = [not isinstance(gene, Float) and not (isinstance(gene, Int) and gene.log) for gene in space.genes.values()]
    widths = np.array([1.0 / gene.size for gene in space.genes.values()])  # 0 for a Float
    steps = np.where(even, widths, 0.0)[varied]
    bounds = np.stack([steps / 2, 1.0 - steps / 2], axis=1)
    return CMAwM(space.encode(space.default())[varied], sigma, bounds, steps, population_size=population, seed=0)


@dataclass
class State:
    """A distribution and the results since its last update: the state of a fold.

    Args:
        distribution: Distribution over the coordinates of the genes that vary.
        good: Losses, id and coordinates of completed trials.
        failed: Coordinates of failed trials.
    """

    distribution: CMAwM
    good: list[tuple[tuple[float, ...], int, np.ndarray]] = field(default_factory=list)
    failed: list[np.ndarray] = field(default_factory=list)

    def add(self, trial: Trial, units: np.ndarray) -> None:
        """Add a result; the last one of a population updates the distribution.

        Only the order of losses matters. Failed trials come last, and no more of them count than the distribution moves
        away from: if most fail, it waits for results to move to.
        """
        size = self.distribution.population_size
        if trial.losses is not None:
            self.good.append((trial.losses, trial.id, units))
        elif len(self.failed) < size // 2:
            self.failed.append(units)
        if len(self.good) + len(self.failed) == size:
            ranked = [units for *_, units in sorted(self.good, key=lambda result: result[:2])]
            results = [(units, float(rank)) for rank, units in enumerate(ranked)]
            self.distribution.tell(results + [(units, float(size)) for units in self.failed])
            self.good, self.failed = [], []
