"""Surrogate-assisted evolution: many children are bred, and only the most promising one is trained.

DEAP breeds as the genetic algorithm does. Two models of the results, a forest and a Gaussian process, judge the
children, the one-step neighbours of the best genomes and a few random ones. Every second proposal, at random, is judged
by the process alone, which then uses the spacing of the losses and not only their ranks. Several objectives become one,
with weights drawn for each proposal. Nothing is kept between two proposals: the models are fitted to the history each
time, in milliseconds.

Sources: Jin, Surrogate-assisted evolutionary computation (Swarm and Evolutionary Computation 1, 2011); Hutter, Hoos &
Leyton-Brown, SMAC (LION 5, 2011), for the forest and the mix of local and random candidates; Salinas, Shen & Perrone, A
quantile-based approach for hyperparameter transfer learning (ICML 2020), for normal scores in place of losses; Knowles,
ParEGO (IEEE Transactions on Evolutionary Computation 10, 2006), for several objectives; Hvarfner et al., πBO (ICLR
2022), for priors whose weight decays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evo_tune.genome.genes import beliefs
from evo_tune.genome.history import History
from evo_tune.genome.importance import ranks
from evo_tune.genome.models.gaussian import features_of, sizes_of
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Seen, Strategy
from evo_tune.strategies._candidates import RECENT, Draft, Merits, Novelty, rare_value, search_around
from evo_tune.strategies._deap import Individual, best_of, crossover, mutate, seeded, tournament
from evo_tune.strategies._models import (
    POINTS,
    Earlier,
    Learned,
    Models,
    expected_improvement,
    normal_scores,
    spaced_scores,
)
from evo_tune.strategies._proposals import drawn, spread, unseen

BROOD = 4
"""Children bred for each parent."""

LEADERS = 3
"""Best trials whose neighbours are candidates."""

IMMIGRANTS = 12
"""Random candidates."""

SEARCHING = 0.5
"""Probability that rounds of mutation around the candidates follow; the other proposals are the best candidate as bred,
so that an error of the models does not decide alone."""

AUGMENT = 0.05
"""Share of the sum in an augmented Tchebycheff scalarisation, as in ParEGO."""

TRUST = 10.0
"""Number of trials at which expected improvement and a prior have equal weight; before, the prior has more."""

TAUGHT = (1, 3)
"""Ids of the first trials that are the best genomes of earlier runs."""

FINEST = 0.02
"""Smallest standard deviation of a mutation, in unit coordinates."""


@dataclass(frozen=True)
class SAEA(Strategy):
    """Surrogate-assisted evolution: breed many children, train the one that models find most promising."""

    first: int = option(
        6, bounds="[2, inf)", help="Trials spread over the space before the models are used, the default included."
    )
    smooth: float = option(
        0.5, bounds="[0, 1]", help="Probability that the Gaussian process judges alone, with one objective."
    )
    chances: float = option(
        0.5, bounds="[0, 1]", help="Probability of a rare value of an unordered gene while results do not improve."
    )
    apart: float = option(
        0.25,
        bounds="[0, inf)",
        unit="standard deviations of a mutation",
        help="Least difference in one gene from the best and latest trials; it shrinks as a run goes on.",
    )

    several_objectives: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return self._next(history, rng, None)

    def learn(self, seen: Seen, space: SearchSpace) -> Learned | None:
        return Learned.of(seen, sizes_of(space)) if len(seen.ids) >= self.first else None

    def propose_learned(self, history: History, prospects: Learned, rng: np.random.Generator) -> Proposal | None:
        return self._next(history, rng, prospects)

    def _next(self, history: History, rng: np.random.Generator, learned: Learned | None) -> Proposal | None:
        """Return the next proposal.

        Args:
            history: Completed and pending trials.
            rng: The only source of randomness.
            learned: Predictions from partial trainings; None where all trials are trained in full.
        """
        if history.fresh_count < self.first or len(history.ranking) < self.first // 2:
            # Where many slots ask before there are results, later trials are random: the farther apart many genomes
            # are, the more of them have extreme values.
            return self._lesson(history) or (spread if history.fresh_count < self.first else drawn)(history, rng)
        places = _places(history.ranked_losses(), len(history.failed), rng)
        drafts = list(self._drafts(history, rng, self._parents(history, places)))
        novelty = Novelty.of(history, self.apart * _step(history, self.population))
        if learned is None:
            rare = rare_value(novelty, drafts, self.chances, rng)
            if rare is not None:
                return rare
            merits = self._merits(history, places, rng)
        else:  # a partial result cannot be a new best, so it does not show that a search has stalled
            merits = self._learned_merits(history, learned, rng)
        if rng.random() < SEARCHING:
            return search_around(novelty, drafts, merits, rng) or unseen(history, rng)
        found = list(novelty.new(drafts))
        if not found:
            return unseen(history, rng)
        return found[int(np.argmax(merits(np.stack([history.space.encode(one.genome) for one in found]))))]

    def _lesson(self, history: History) -> Proposal | None:
        """Return the best new genome of an earlier run, of each run in turn; None if this proposal is not for one."""
        if not history.lessons or history.fresh_count not in TAUGHT:
            return None
        lesson = history.lessons[TAUGHT.index(history.fresh_count) % len(history.lessons)]
        drafts = (Draft(lesson.units[row], "learned") for row in np.argsort(lesson.losses, kind="stable"))
        return next(Novelty.of(history, 0.0).new(drafts), None)

    def _parents(self, history: History, places: np.ndarray) -> list[Individual]:
        """Return the trials that may become parents, the best first."""
        if len(history.objectives) > 1:
            place_of = {one.id: float(places[row]) for row, one in best_of(history, self.population).items()}
        else:
            ids = [trial.id for trial in history.ranking[: self.population]]
            place_of = dict(zip(ids, places.tolist(), strict=False))
        pool = [Individual(id, (place,), history.born_units[id].tolist()) for id, place in place_of.items()]
        return sorted(pool, key=lambda one: (one.losses, one.id))

    def survivors(self, history: History) -> Sequence[int]:
        if len(history.objectives) > 1:
            return [one.id for one in best_of(history, self.population).values()]
        return super().survivors(history)

    def _drafts(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> Iterator[Draft]:
        """Yield children, neighbours of the leaders and random genomes."""
        space = history.space
        scale = max(FINEST, _step(history, self.population))
        # Tournaments are small, unlike the genetic algorithm's: the models select, and they need variety.
        with seeded(rng):
            pairs = [(tournament(pool, 2), tournament(pool, 2)) for _ in range(BROOD * len(pool))]
            crossed = [crossover(a.units, b.units, space) if a.id != b.id else a.units for a, b in pairs]
        for (first, second), units in zip(pairs, crossed, strict=True):
            mutated = mutate(units, space, rng, 1.0 / len(space.genes), scale)
            if first.id == second.id:
                yield Draft(mutated, "mutation", (first.id,))
            else:
                yield Draft(mutated, "crossover+mutation", (first.id, second.id))
        for leader in pool[:LEADERS]:
            for place, gene in enumerate(space.genes.values()):
                for u in gene.neighbours(leader.units[place]):
                    units = list(leader.units)
                    units[place] = u
                    yield Draft(units, "neighbour", (leader.id,))
        yield from (Draft(rng.random(len(space.genes)), "random") for _ in range(IMMIGRANTS))

    def _merits(self, history: History, places: np.ndarray, rng: np.random.Generator) -> Merits:
        """Return a judge of candidates that is fitted to at most POINTS full trainings.

        In a long run half of these are the best, the others random.
        """
        sizes, alone = sizes_of(history.space), self._is_smooth(history, rng)
        rows = np.arange(len(places))
        if len(rows) > POINTS:
            order = np.argsort(places, kind="stable")
            rows = np.append(order[: POINTS // 2], _some(order[POINTS // 2 :], rng))
        if alone:
            losses = np.append(history.scaled_losses(), np.full(len(history.failed), math.nan))
            scores = spaced_scores(places, losses, rows)
        else:
            scores = normal_scores(places[rows], len(places))
        points = features_of(np.stack([history.born_units[one.id] for one in _trials(history, rows)]), sizes)
        earlier = Earlier.of(history.lessons, points, scores, sizes)
        models = Models.fit(points, scores - earlier(points), _pending(history, sizes), sizes, rng, alone)
        return _judge(models, float(scores.max()), history, earlier)

    def _learned_merits(self, history: History, learned: Learned, rng: np.random.Generator) -> Merits:
        """Return a judge of candidates that knows partial trainings as well.

        The `told_order` of a trial in this history is its row in what was learned.
        """
        sizes = sizes_of(history.space)
        kept = np.arange(len(history.ranking) + len(history.failed))
        if len(kept) > POINTS:
            kept = np.append(kept[: POINTS // 2], _some(kept[POINTS // 2 :], rng))
        rows = np.array([one.told_order for one in _trials(history, kept)])
        points, scores = features_of(learned.seen.encoded(rows), sizes), learned.scores(rows)
        alone = self._is_smooth(history, rng)
        models = Models.fit(points, scores, _pending(history, sizes), sizes, rng, alone, learned.process)
        return _judge(models, learned.best, history)

    def _is_smooth(self, history: History, rng: np.random.Generator) -> bool:
        """Draw whether the process judges alone; nothing is drawn where it never does."""
        if self.smooth == 0.0 or len(history.objectives) > 1:
            return False
        return rng.random() < self.smooth


def _judge(models: Models, best: float, history: History, earlier: Earlier | None = None) -> Merits:
    """Return a judge of candidates: log expected improvement over the best score, plus the log prior of the genes."""
    genes, sizes, weight = history.space.genes, sizes_of(history.space), TRUST / history.fresh_count

    def merits(units: np.ndarray) -> np.ndarray:
        features = features_of(units, sizes)
        mean, deviation = models.predict(features)
        if earlier is not None:
            mean = mean + earlier(features)
        return expected_improvement(mean, deviation, best) + weight * beliefs(genes, units)

    return merits


def _trials(history: History, places: np.ndarray) -> list[Trial]:
    """Return the trials in some places of the ranked and then the failed ones."""
    ranking, failed = history.ranking, history.failed
    return [ranking[at] if at < len(ranking) else failed[at - len(ranking)] for at in places.tolist()]


def _pending(history: History, sizes: np.ndarray) -> np.ndarray:
    """Return the features of the latest pending trials, shape (pending, genes)."""
    units = [history.born_units[one.id] for one in history.out[-RECENT:]]
    return features_of(np.stack(units), sizes) if units else np.empty((0, len(sizes)))


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return half of POINTS random rows."""
    return np.asarray(rng.choice(rows, POINTS - POINTS // 2, replace=False))


def _step(history: History, population: int) -> float:
    """Return the standard deviation of a mutation, in unit coordinates; it shrinks as the run goes on."""
    return 0.3 / math.sqrt(1.0 + len(history.trials) / population)


def _places(losses: np.ndarray, failures: int, rng: np.random.Generator) -> np.ndarray:
    """Return the places of the ranked trials, then of the failed ones, from 1, the best. Shape (ranked + failures,).

    Failed trials share the places behind all others, whatever their number. Several objectives are ranked one by one
    and become one by an augmented Tchebycheff norm with random weights, so any point of the front, also in a dent of
    it, is the best for some weights.

    Args:
        losses: Losses of the ranked trials, shape (ranked, objectives).
        failures: Number of failed trials.
        rng: The only source of randomness.
    """
    if losses.shape[1] > 1:
        share = rng.dirichlet(np.ones(losses.shape[1]))
        weighted = share * np.stack([ranks(column) for column in losses.T], axis=1)
        losses = weighted.max(axis=1, keepdims=True) + AUGMENT * weighted.sum(axis=1, keepdims=True)
    return np.append(ranks(losses[:, 0]), np.full(failures, len(losses) + (failures + 1) / 2))
