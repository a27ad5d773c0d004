"""Surrogate-assisted evolution: many children are bred, and only the most promising one is trained.

DEAP breeds as the genetic algorithm does. Two models learned from what was told, a forest and a Gaussian
process, screen the children, the one-step neighbours of the best and a few random genomes. Several
objectives are one whose weights are drawn anew for each birth. Nothing is kept between two births: the
models are made anew from the history each time, in milliseconds.

Sources: Jin, Surrogate-assisted evolutionary computation (Swarm and Evolutionary Computation 1, 2011);
Hutter, Hoos & Leyton-Brown, SMAC (LION 5, 2011) for the forest and the mix of local and random
candidates; Salinas, Shen & Perrone, A quantile-based approach for hyperparameter transfer learning (ICML
2020) for normal scores in place of losses; Knowles, ParEGO (IEEE Transactions on Evolutionary Computation
10, 2006) for several objectives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.genome.genes import Choice
from evo_tune.genome.history import History
from evo_tune.genome.importance import ranks
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.genome.values import genome_key
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies._births import spread, unborn
from evo_tune.strategies._deap import Individual, crossover, mutate, seeded, select, tournament
from evo_tune.strategies._forest import Forest
from evo_tune.strategies._process import Process

__all__ = ["SAEA"]

LEADERS = 3
"""Best trials whose neighbours are screened as well."""

POINTS = 96
"""Trials that a model learns from, at most: what bounds the cost of a birth in a long run. At 100, OpenBLAS wakes
threads to invert a matrix; they cost more than they bring, and the slots need the cores."""

BAG = 0.7
"""Share of these that each tree learns from: trees that saw other trials disagree where trials are few."""

AUGMENT = 0.05
"""Share of the sum in an augmented Tchebycheff scalarisation, as in ParEGO."""

FINEST = 0.02
"""Smallest standard deviation of a mutation, in unit coordinates."""


@dataclass(frozen=True)
class SAEA(Strategy):
    """Surrogate-assisted evolution: breed many children, train the one that models find most promising.

    Args:
        population: Number of trials that may become parents.
        first: Births that are spread over the space before a model is asked, the default included.
        brood: Children bred for each parent, of which all but one are never trained.
        immigrants: Random genomes screened with each brood.
        trees: Trees of the forest.
        models: Who predicts: 'both', or the 'forest' or the Gaussian 'process' alone.
        screen: How the candidates are judged: by 'ei' (expected improvement), by 'ucb' (predicted score plus
            some deviations), or 'none', which takes the first child unseen.
        kappa: Of 'ucb', the mean number of deviations that candidates are credited with; more explores more.
            Each birth draws its own from an exponential distribution (Hutter, Hoos & Leyton-Brown, Parallel
            algorithm configuration, LION 6, 2012): most births follow the models, some look where they are unsure.
    """

    first: int = 6
    brood: int = 4
    immigrants: int = 12
    trees: int = 40
    models: Literal["both", "forest", "process"] = "both"
    screen: Literal["ei", "ucb", "none"] = "ei"
    kappa: float = 1.0

    several_objectives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("first", 2), ("brood", 1), ("immigrants", 0), ("trees", 2)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)} is not allowed: expected {least} or more")
        if not 0.0 <= self.kappa < math.inf:
            raise OptionError(f"kappa={self.kappa} is not allowed: expected a number of deviations, 0 or more")

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        told = history.ranked()
        if history.fresh_count < self.first or len(told) < self.first // 2:
            return spread(history, rng)
        scores = _scores(told, sum(not trial.ok for trial in history.trials), rng)
        candidates = self._candidates(history, rng, self._parents(history, told, scores))
        if not candidates:
            return unborn(history, rng)
        if self.screen == "none":
            return candidates[0]
        return candidates[int(np.argmax(self._merits(history, told, scores, candidates, rng)))]

    def survivors(self, history: History) -> Sequence[int]:
        if len(history.objectives) > 1:
            return [one.id for one in self._front(history)]
        return super().survivors(history)

    def _front(self, history: History) -> list[Individual]:
        """Return those that NSGA-II would keep, each trial having competed as it came."""

        def step(pool: list[Individual], trial: Trial) -> list[Individual]:
            return select([*pool, Individual.of(trial, history)], self.population) if trial.rankable else pool

        return history.fold((__name__, self.population), list, step)

    def _parents(self, history: History, told: Sequence[Trial], scores: np.ndarray) -> list[Individual]:
        """Return who may become a parent, the best score first."""
        score_of = {trial.id: float(score) for trial, score in zip(told, scores, strict=False)}
        if len(history.objectives) > 1:
            ids = [one.id for one in self._front(history)]
        else:
            ids = [trial.id for trial in told[: self.population]]
        pool = [Individual(id, (-score_of[id],), history.born_units[id].tolist()) for id in ids]
        return sorted(pool, key=lambda one: (one.losses, one.id))

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

    def _merits(
        self,
        history: History,
        told: Sequence[Trial],
        scores: np.ndarray,
        candidates: Sequence[Proposal],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return how promising each candidate is, shape (candidates,); higher is better."""
        space = history.space
        points, scores = _learned(history, told, scores, rng)
        units = np.stack([space.encode(one.genome) for one in candidates])
        mean, deviation = self._predicted(points, scores, _features(space, units), _sizes(space), rng)
        if self.screen == "ei":
            return _expected_improvement(mean, deviation, float(scores.max()))
        return np.asarray(mean + rng.exponential(self.kappa) * deviation)  # its own appetite for risk for each birth

    def _predicted(
        self, points: np.ndarray, scores: np.ndarray, asked: np.ndarray, sizes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of the score of each point asked, both of shape (asked,).

        Two models are a mixture of equal parts, so its variance holds their disagreement as well.
        """
        predictions = []
        if self.models != "process":
            samples = np.argsort(rng.random((self.trees, len(points))), axis=1)[:, : math.ceil(BAG * len(points))]
            predictions.append(Forest.fit(points, scores, sizes, samples, rng).predict(asked))
        if self.models != "forest":
            predictions.append(Process.fit(points, scores, sizes > 0).predict(asked))
        means, variances = (np.stack(parts) for parts in zip(*predictions, strict=True))
        return means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))


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


def _scores(told: Sequence[Trial], failures: int, rng: np.random.Generator) -> np.ndarray:
    """Return the scores of what was told, then of each failure, shape (told + failures,); the best are the highest.

    A score is the normal score of a rank (Blom, 1958): no scale and no outlier of a loss matters. Failures
    share the ranks behind all others, whatever their number: they say where not to go without a number of
    their own. Several objectives are ranked one by one and become one by an augmented Tchebycheff norm with
    random weights: any point of the front, also in a dent of it, is the best for some of them.
    """
    losses = np.array([trial.losses for trial in told])
    if losses.shape[1] > 1:
        share = rng.dirichlet(np.ones(losses.shape[1]))
        weighted = share * np.stack([ranks(column) for column in losses.T], axis=1)
        losses = weighted.max(axis=1, keepdims=True) + AUGMENT * weighted.sum(axis=1, keepdims=True)
    places = np.append(ranks(losses[:, 0]), np.full(failures, len(losses) + (failures + 1) / 2))
    normal = NormalDist()
    return np.array([-normal.inv_cdf((rank - 0.375) / (len(places) + 0.25)) for rank in places])


def _learned(
    history: History, told: Sequence[Trial], scores: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return features, shape (points, genes), and scores, shape (points,), of at most POINTS births.

    What is out is believed to be average, the mean of all scores (the constant liar of Ginsbourger, Le
    Riche & Carraro, 2010), so slots that ask together do not crowd in one place. Trials trained in part are
    left out: theirs is another scale. In a long run half are what is out and the best, the others random.
    """
    failed = [trial for trial in history.trials if not trial.ok]
    ids = np.array([*(one.id for one in history.out), *(trial.id for trial in (*told, *failed))])
    scores = np.append(np.zeros(len(history.out)), scores)
    if len(ids) > POINTS:
        order = np.append(np.zeros(len(history.out)) - np.inf, -scores[len(history.out) :]).argsort(kind="stable")
        sure, others = order[: POINTS // 2], order[POINTS // 2 :]
        kept = np.append(sure, rng.choice(others, POINTS - len(sure), replace=False))
        ids, scores = ids[kept], scores[kept]
    units = np.stack([history.born_units[id] for id in ids])
    return _features(history.space, units), scores


def _sizes(space: SearchSpace) -> np.ndarray:
    """Return the number of values of each gene without order, 0 for one with an order, shape (genes,)."""
    genes = space.genes.values()
    return np.array([gene.size if isinstance(gene, Choice) and not gene.ordered else 0 for gene in genes])


def _features(space: SearchSpace, units: np.ndarray) -> np.ndarray:
    """Return unit coordinates, shape (points, genes), with genes without order as indices of their values."""
    sizes = _sizes(space)
    return np.where(sizes > 0, np.minimum(np.floor(units * sizes), sizes - 1), units)


def _expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """Return the logarithm of the expected improvement over the best score under normal errors, shape (mean,).

    Jones, Schonlau & Welch (1998). The logarithm, because far below the best the improvement itself is lost
    in rounding; there it is close to density / z² (its asymptotic series).
    """
    z = (mean - best) / deviation
    density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])
    near = np.log(np.maximum(np.exp(density) + z * below, 1e-300))
    return np.asarray(np.log(deviation) + np.where(z > -5.0, near, density - 2.0 * np.log(np.maximum(-z, 5.0))))
