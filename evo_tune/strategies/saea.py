"""Surrogate-assisted evolution: many children are bred, and only the most promising one is trained.

DEAP breeds as the genetic algorithm does. A forest learned from what was told screens the children,
the one-step neighbours of the best and a few random genomes. Nothing is kept between two births: the
model is made anew from the history each time, in milliseconds.

Sources: Jin, Surrogate-assisted evolutionary computation (Swarm and Evolutionary Computation 1, 2011);
Hutter, Hoos & Leyton-Brown, SMAC (LION 5, 2011) for the forest and the mix of local and random
candidates; Salinas, Shen & Perrone, A quantile-based approach for hyperparameter transfer learning (ICML
2020) for normal scores in place of losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.history import History
from evo_tune.space import Choice, SearchSpace, genome_key
from evo_tune.strategies._births import spread, unborn
from evo_tune.strategies._deap import Individual, crossover, mutate, seeded, tournament
from evo_tune.strategies._forest import Forest
from evo_tune.strategy import Strategy
from evo_tune.trial import Proposal

__all__ = ["SAEA"]

LEADERS = 3
"""Best trials whose neighbours are screened as well."""

POINTS = 150
"""Trials that a tree learns from, at most: what bounds the cost of a birth in a long run."""

FINEST = 0.02
"""Smallest standard deviation of a mutation, in unit coordinates."""


@dataclass(frozen=True)
class SAEA(Strategy):
    """Surrogate-assisted evolution for one objective: breed many children, train the most promising one.

    Args:
        population: Number of trials that may become parents.
        first: Births that are spread over the space before a model is asked, the default included.
        brood: Children bred for each parent, of which all but one are never trained.
        immigrants: Random genomes screened with each brood.
        trees: Trees of the model.
        screen: How the candidates are judged: by 'ucb' (predicted score plus some deviations), by 'ei'
            (expected improvement), or 'none', which takes the first child unseen.
        kappa: Mean number of the model's deviations that candidates are credited with; more explores more.
            Each birth draws its own from an exponential distribution (Hutter, Hoos & Leyton-Brown, Parallel
            algorithm configuration, LION 6, 2012): most births follow the model, some look where it is unsure.
    """

    first: int = 6
    brood: int = 4
    immigrants: int = 12
    trees: int = 40
    screen: Literal["ucb", "ei", "none"] = "ucb"
    kappa: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("first", 2), ("brood", 1), ("immigrants", 0), ("trees", 2)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)} is not allowed: expected {least} or more")
        if not 0.0 <= self.kappa < math.inf:
            raise OptionError(f"kappa={self.kappa} is not allowed: expected a number of deviations, 0 or more")

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        pool = [Individual.of(trial, history) for trial in history.ranked()[: self.population]]
        if history.fresh_count < self.first or len(pool) < self.first // 2:
            return spread(history, rng)
        candidates = self._candidates(history, rng, pool)
        if not candidates:
            return unborn(history, rng)
        if self.screen == "none":
            return candidates[0]
        return candidates[int(np.argmax(self._merits(history, rng, candidates)))]

    def survivors(self, history: History) -> Sequence[int]:
        return [trial.id for trial in history.ranked()[: self.population]]

    def _candidates(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> list[Proposal]:
        """Return different candidates, none of them born."""
        found: dict[str, Proposal] = {}
        for proposal in (
            *_children(history, rng, pool, self.brood * len(pool), self.population),
            *_neighbours(history.space, pool[:LEADERS]),
            *(Proposal(history.space.sample(rng), "random") for _ in range(self.immigrants)),
        ):
            if not history.seen(proposal.genome):
                found.setdefault(genome_key(proposal.genome), proposal)
        return list(found.values())

    def _merits(self, history: History, rng: np.random.Generator, candidates: Sequence[Proposal]) -> np.ndarray:
        """Return how promising each candidate is, shape (candidates,); higher is better."""
        space = history.space
        points, scores = _learned(history)
        forest = Forest.fit(points, scores, _sizes(space), _samples(len(points), self.trees, rng), rng)
        units = np.stack([space.encode(one.genome) for one in candidates])
        predicted = forest.mean[forest.leaves(_features(space, units))]
        mean, deviation = predicted.mean(axis=0), predicted.std(axis=0)
        if self.screen == "ei":
            return _expected_improvement(mean, deviation, float(scores.max()))
        return np.asarray(mean + rng.exponential(self.kappa) * deviation)  # its own appetite for risk for each birth


def _children(
    history: History, rng: np.random.Generator, pool: Sequence[Individual], count: int, population: int
) -> Iterator[Proposal]:
    """Yield mutated children of parents chosen by tournament; the steps shrink as the run goes on, as in Breeder.

    Tournaments are small, unlike the genetic algorithm's: it is the model that selects, and it wants variety.
    """
    space = history.space
    scale = max(FINEST, 0.3 / math.sqrt(1.0 + len(history.trials) / population))
    with seeded(rng):
        pairs = [(tournament(pool, 2), tournament(pool, 2)) for _ in range(count)]
        units = [crossover(a.units, b.units, space) if a.id != b.id else a.units for a, b in pairs]
    for (first, second), bred in zip(pairs, units, strict=True):
        genome = space.snap(mutate(bred, space, rng, 1.0 / len(space.genes), scale))
        if first.id == second.id:
            yield Proposal(genome, "mutation", (first.id,))
        else:
            yield Proposal(genome, "crossover+mutation", (first.id, second.id))


def _neighbours(space: SearchSpace, leaders: Sequence[Individual]) -> Iterator[Proposal]:
    """Yield the genomes one step away from each leader."""
    for leader in leaders:
        for place, gene in enumerate(space.genes.values()):
            for u in gene.neighbours(leader.units[place]):
                units = list(leader.units)
                units[place] = u
                yield Proposal(space.snap(units), "neighbour", (leader.id,))


def _learned(history: History) -> tuple[np.ndarray, np.ndarray]:
    """Return features, shape (points, genes), and scores, shape (points,): what is out, then what was told, best first.

    A score is the normal score of a rank (Blom, 1958), the best being highest: no scale and no outlier of
    a loss matters. Failures share the ranks behind all others, whatever their number: they say where not
    to go without a number of their own. Trials trained in part are left out: theirs is another scale.
    What is out is believed to be average, the mean of all scores (the constant liar of Ginsbourger, Le
    Riche & Carraro, 2010), so slots that ask together do not crowd in one place.
    """
    ranked = history.ranked()
    failed = [trial for trial in history.trials if not trial.ok]
    ranks = np.arange(1.0, len(ranked) + len(failed) + 1)
    ranks[len(ranked) :] = ranks[len(ranked) :].mean() if failed else 0.0
    for start, end in _ties([trial.losses for trial in ranked]):
        ranks[start:end] = ranks[start:end].mean()
    normal = NormalDist()
    scores = [-normal.inv_cdf((rank - 0.375) / (len(ranks) + 0.25)) for rank in ranks]
    ids = [*(one.id for one in history.out), *(trial.id for trial in (*ranked, *failed))]
    units = np.stack([history.born_units[id] for id in ids])
    return _features(history.space, units), np.array([0.0] * len(history.out) + scores)


def _ties(losses: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of equal losses, which are sorted."""
    start = 0
    for end in range(1, len(losses) + 1):
        if end == len(losses) or losses[end] != losses[start]:
            if end - start > 1:
                yield start, end
            start = end


def _samples(count: int, trees: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices that each tree learns from, of `count` points, shape (trees, at most POINTS).

    In a long run half of them are what is out and the best, the other half a random draw of each tree's own.
    """
    if count <= POINTS:
        return np.tile(np.arange(count), (trees, 1))
    first = POINTS // 2
    others = first + np.argsort(rng.random((trees, count - first)), axis=1)[:, : POINTS - first]
    return np.hstack([np.tile(np.arange(first), (trees, 1)), others])


def _sizes(space: SearchSpace) -> np.ndarray:
    """Return the number of values of each gene without order, 0 for one with an order, shape (genes,)."""
    genes = space.genes.values()
    return np.array([gene.size if isinstance(gene, Choice) and not gene.ordered else 0 for gene in genes])


def _features(space: SearchSpace, units: np.ndarray) -> np.ndarray:
    """Return unit coordinates, shape (points, genes), with genes without order as indices of their values."""
    sizes = _sizes(space)
    return np.where(sizes > 0, np.minimum(np.floor(units * sizes), sizes - 1), units)


def _expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Return the expected improvement over the best score under normal errors (Jones et al., 1998)."""
    deviation = np.maximum(deviation, 1e-9)
    z = (mean - best) / deviation
    below = np.array([0.5 * (1.0 + math.erf(value / math.sqrt(2.0))) for value in z])
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return np.asarray((mean - best) * below + deviation * density)
