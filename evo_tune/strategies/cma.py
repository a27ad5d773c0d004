"""CMA-ES through the package cmaes: a normal distribution that learns where, how far and in which direction.

It works in unit coordinates. Whole numbers and ordered choices are rounded to, with a margin that keeps
their neighbours in reach; choices without order have no place in a normal distribution, and are refused.
Births do not wait for each other: each is drawn from the distribution as it stands, which moves on
whenever a population of results has been told. What was trained is what it learns from, repaired and
rounded.

Sources: Hansen, The CMA evolution strategy: a tutorial (2016); Hamano et al., CMA-ES with margin (GECCO
2022); Auger & Hansen, A restart CMA evolution strategy with increasing population size (CEC 2005).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.history import History
from evo_tune.genome.operators import DEFAULT, WARM_START
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective, Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies._proposals import fresh

if TYPE_CHECKING:
    from cmaes import CMAwM

__all__ = ["CMA"]

ATTEMPTS = 8
"""Draws before a random genome is taken."""

BORN = (DEFAULT, WARM_START, "cma")
"""Operators of the births that it learns from: random ones would be steps of many deviations."""


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
        odd = [name for name, gene in space.genes.items() if _is_unordered(gene)]
        if odd:
            return (
                f"searches numbers and ordered choices, and {', '.join(odd)} has no order: fix it with --gene "
                f"{odd[0]}=VALUE"
            )
        return super().unsuited(space, objectives)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return fresh(history, rng, self._drawn(history, rng))

    def _drawn(self, history: History, rng: np.random.Generator) -> Iterator[Proposal]:
        """Yield draws from the distribution that was learned from what has been told."""
        space = history.space
        varied = np.array([gene.size > 1 for gene in space.genes.values()])
        if not varied.any():
            return

        def begin() -> Learned:
            return Learned(_distribution(space, varied, self.sigma, self.population))

        def step(learned: Learned, trial: Trial) -> Learned:
            if trial.candidate.operator in BORN and (trial.rankable or not trial.ok):
                learned.tell(trial, history.born_units[trial.id][varied])
            if learned.distribution.should_stop():
                return Learned(_distribution(space, varied, self.sigma, 2 * learned.distribution.population_size))
            return learned

        distribution = history.fold((__name__, self), begin, step).distribution
        distribution.reseed_rng(int(rng.integers(2**32)))
        units = space.encode(space.default())
        for _ in range(ATTEMPTS):
            units[varied], _ = distribution.ask()
            yield Proposal(space.snap(units), "cma")


def _is_unordered(gene: Gene) -> bool:
    return isinstance(gene, Choice) and not gene.ordered and gene.size > 1


def _distribution(space: SearchSpace, varied: np.ndarray, sigma: float, population: int) -> CMAwM:
    """Return a distribution around the default genome, over the coordinates of the genes that vary."""
    from cmaes import CMAwM

    # Cells of equal width are discrete for it. Those of a logarithmic Int are not: its values are rounded to.
    even = [not isinstance(gene, Float) and not (isinstance(gene, Int) and gene.log) for gene in space.genes.values()]
    widths = np.array([1.0 / gene.size for gene in space.genes.values()])  # 0 for a Float
    steps = np.where(even, widths, 0.0)[varied]
    bounds = np.stack([steps / 2, 1.0 - steps / 2], axis=1)
    return CMAwM(space.encode(space.default())[varied], sigma, bounds, steps, population_size=population, seed=0)


@dataclass
class Learned:
    """A distribution, and the results told since it last moved on: the state of a fold."""

    distribution: CMAwM
    good: list[tuple[tuple[float, ...], int, np.ndarray]] = field(default_factory=list)
    failed: list[np.ndarray] = field(default_factory=list)

    def tell(self, trial: Trial, units: np.ndarray) -> None:
        """Note a result; with the last of a population the distribution moves on.

        Only the order of losses matters to it. Failures come last in it, and no more of them than it moves
        away from: where most fail, it waits for results to move to.
        """
        size = self.distribution.population_size
        if trial.losses is not None:
            self.good.append((trial.losses, trial.id, units))
        elif len(self.failed) < size // 2:
            self.failed.append(units)
        if len(self.good) + len(self.failed) == size:
            ranked = [units for *_, units in sorted(self.good, key=lambda one: one[:2])]
            last = float(size)
            self.distribution.tell(
                [(units, float(rank)) for rank, units in enumerate(ranked)] + [(units, last) for units in self.failed]
            )
            self.good, self.failed = [], []
