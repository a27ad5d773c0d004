"""Surrogate-assisted evolution: many children are bred, and only the most promising one is trained.

DEAP breeds as the genetic algorithm does. Two models learned from what was told, a forest and a Gaussian
process, screen the children, the one-step neighbours of the best and a few random genomes; every second
birth the process alone does, by how far apart losses are and not by their ranks. Several
objectives are one whose weights are drawn anew for each birth. Nothing is kept between two births: the
models are made anew from the history each time, in milliseconds.

Sources: Jin, Surrogate-assisted evolutionary computation (Swarm and Evolutionary Computation 1, 2011);
Hutter, Hoos & Leyton-Brown, SMAC (LION 5, 2011) for the forest and the mix of local and random
candidates; Salinas, Shen & Perrone, A quantile-based approach for hyperparameter transfer learning (ICML
2020) for normal scores in place of losses; Knowles, ParEGO (IEEE Transactions on Evolutionary Computation
10, 2006) for several objectives; Hvarfner et al., πBO (ICLR 2022) for priors whose weight decays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.genome.hints import beliefs
from evo_tune.genome.history import History
from evo_tune.genome.importance import ranks
from evo_tune.genome.models.features import features_of, sizes_of
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.plugins.strategy import Seen, Strategy
from evo_tune.strategies._births import drawn, spread, unborn
from evo_tune.strategies._deap import Individual, best_of, crossover, mutate, seeded, select, tournament
from evo_tune.strategies.surrogate.chances import another_chance
from evo_tune.strategies.surrogate.learned import Learned
from evo_tune.strategies.surrogate.rounds import Bred, Merits, News, searched
from evo_tune.strategies.surrogate.scores import Spacing, normal_scores
from evo_tune.strategies.surrogate.screen import Screen, expected_improvement
from evo_tune.strategies.surrogate.taught import Expectation

__all__ = ["SAEA"]

LEADERS = 3
"""Best trials whose neighbours are screened as well."""

POINTS = 96
"""Trials that a model learns from, at most: what bounds the cost of a birth in a long run. At 100, OpenBLAS wakes
threads to invert a matrix; they cost more than they bring, and the slots need the cores."""

AUGMENT = 0.05
"""Share of the sum in an augmented Tchebycheff scalarisation, as in ParEGO."""

TRUST = 10.0
"""Births after which expected improvement and a prior weigh as in their product; before, the prior weighs more."""

TAUGHT = (1, 3)
"""Births, of the first ones, that are the best genomes of earlier runs."""

RECENT = 256
"""Births that are out and looked at, at most: the last ones."""

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
        believe: What is out on other slots is believed to give: what is 'expected' of it, or the 'average' of all.
        rounds: Rounds of mutation around the candidates that the models like best; 0: what was bred is all there is.
        searching: Probability that a birth is found by such rounds; the others are the best of what was bred, so that
            an error of the models does not decide alone.
        chances: Probability that a birth, while results do not improve, has the value of a gene without order that had
            the fewest births, at the place that a model of its own results finds the most promising.
        front: With several objectives parents are selected from 'all' trials at once, or in a 'steady' state, each
            trial having competed as it came.
        early: With --fidelity and one objective, results in part are 'learned' from, and who goes on is what is
            expected to end best; or they count by their 'places'.
        apart: Births are so far from the best and latest ones in one gene at least, in standard deviations of a
            mutation, which shrinks as a run goes on; 0: as near as may be.
        smooth: With one objective, probability that a birth is judged by the process alone. Where all were trained in
            full it then learns how far apart the better half of the losses are, and not their ranks only.
        ahead: Births beyond the first that many slots need before results are there: 'random', or 'spread' as well. The
            farther many of them are apart, the more lie at the ends of genes, which are seldom good.
    """

    first: int = 6
    brood: int = 4
    immigrants: int = 12
    trees: int = 40
    models: Literal["both", "forest", "process"] = "both"
    screen: Literal["ei", "ucb", "none"] = "ei"
    kappa: float = 1.0
    believe: Literal["expected", "average"] = "expected"
    rounds: int = 6
    searching: float = 0.5
    chances: float = 0.5
    front: Literal["all", "steady"] = "all"
    early: Literal["learned", "places"] = "learned"
    apart: float = 0.25
    smooth: float = 0.5
    ahead: Literal["random", "spread"] = "random"

    several_objectives: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("first", 2), ("brood", 1), ("immigrants", 0), ("trees", 2), ("rounds", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)} is not allowed: expected {least} or more")
        for name in ("searching", "chances", "smooth"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise OptionError(f"{name}={getattr(self, name)} is not allowed: expected a probability from 0 to 1")
        if not 0.0 <= self.apart < math.inf:
            raise OptionError(f"apart={self.apart} is not allowed: expected a number of deviations, 0 or more")
        if not 0.0 <= self.kappa < math.inf:
            raise OptionError(f"kappa={self.kappa} is not allowed: expected a number of deviations, 0 or more")

    @property
    def scores(self) -> bool:
        return self.early == "learned"

    def learn(self, seen: Seen, space: SearchSpace) -> Learned | None:
        return Learned.of(seen, sizes_of(space)) if len(seen.ids) >= self.first else None

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return self._next(history, rng, None)

    def propose_learned(self, history: History, prospects: Learned, rng: np.random.Generator) -> Proposal | None:
        return self._next(history, rng, prospects)

    def _next(self, history: History, rng: np.random.Generator, learned: Learned | None) -> Proposal | None:
        told = history.ranking
        if history.fresh_count < self.first or len(told) < self.first // 2:
            lesson = self._lesson(history) if history.fresh_count in TAUGHT else None
            even = history.fresh_count < self.first or self.ahead == "spread"
            return lesson or (spread if even else drawn)(history, rng)
        places = _places(history.ranked_losses(), len(history.failed), rng)
        pool = self._parents(history, told, places)
        bred = list(self._bred(history, rng, pool))
        news = News.of(history, self.apart * _step(history, self.population))
        if self.screen == "none":
            return next(news.of_bred(bred), None) or unborn(history, rng)
        if learned is not None:  # results in part are no chance that a value had: they bring no new best
            merits = self._learned_merits(history, told, learned, rng)
        else:
            chance = another_chance(news, bred, self.chances, rng)
            if chance is not None:
                return chance
            merits = self._merits(history, told, places, rng)
        if self.rounds and rng.random() < self.searching:
            return searched(news, bred, merits, self.rounds, rng) or unborn(history, rng)
        found = list(news.of_bred(bred))
        if not found:
            return unborn(history, rng)
        return found[int(np.argmax(merits(np.stack([history.space.encode(one.genome) for one in found]))))]

    def survivors(self, history: History) -> Sequence[int]:
        if len(history.objectives) > 1:
            return [one.id for one in self._front(history)]
        return super().survivors(history)

    def _front(self, history: History) -> list[Individual]:
        """Return those that NSGA-II would keep: of all at once, or, as older versions had it, each as it came."""
        if self.front == "all":
            return list(best_of(history, self.population).values())

        def step(pool: list[Individual], trial: Trial) -> list[Individual]:
            return select([*pool, Individual.of(trial, history)], self.population) if trial.rankable else pool

        return history.fold((__name__, self.population), list, step)

    def _parents(self, history: History, told: Sequence[Trial], places: np.ndarray) -> list[Individual]:
        """Return who may become a parent, the best first."""
        if len(history.objectives) > 1 and self.front == "all":
            place_of = {one.id: float(places[row]) for row, one in best_of(history, self.population).items()}
            ids = list(place_of)
        elif len(history.objectives) > 1:
            place_of = {trial.id: float(place) for trial, place in zip(told, places, strict=False)}
            ids = [one.id for one in self._front(history)]
        else:
            ids = [trial.id for trial in told[: self.population]]
            place_of = dict(zip(ids, places.tolist(), strict=False))
        pool = [Individual(id, (place_of[id],), history.born_units[id].tolist()) for id in ids]
        return sorted(pool, key=lambda one: (one.losses, one.id))

    def _bred(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> Iterator[Bred]:
        """Yield children, neighbours of the leaders and random genomes."""
        space = history.space
        yield from _children(history, rng, pool, self.brood * len(pool), self.population)
        yield from _neighbours(space, pool[:LEADERS])
        yield from (Bred(rng.random(len(space.genes)), "random") for _ in range(self.immigrants))

    def _merits(self, history: History, told: Sequence[Trial], places: np.ndarray, rng: np.random.Generator) -> Merits:
        """Return what says how promising a genome is, from models made for this birth."""
        space, sizes = history.space, sizes_of(history.space)
        trust = TRUST / history.fresh_count
        smooth = self._is_smooth(history, rng)
        points, scores, out = self._learned(history, told, places, smooth, rng)
        expected = Expectation.of(history.lessons, points, scores, sizes)
        left = scores - expected(points) if expected.lessons else scores
        screen = Screen.fit(points, left, out, sizes, self.trees, "process" if smooth else self.models, rng)
        return self._judged(screen, expected if expected.lessons else None, float(scores.max()), space, trust, rng)

    def _is_smooth(self, history: History, rng: np.random.Generator) -> bool:
        """Say whether the process alone is asked; nothing is drawn where it cannot be, or never is."""
        if self.smooth == 0.0 or self.models == "forest" or len(history.objectives) > 1:
            return False
        return rng.random() < self.smooth

    def _judged(
        self,
        screen: Screen,
        expected: Expectation | None,
        best: float,
        space: SearchSpace,
        trust: float,
        rng: np.random.Generator,
    ) -> Merits:
        """Return what says how promising a genome is by models, and by what earlier runs lead one to expect."""
        sizes = sizes_of(space)
        appetite = rng.exponential(self.kappa) if self.screen == "ucb" else 0.0  # its own for each birth

        def merits(units: np.ndarray) -> np.ndarray:
            features = features_of(units, sizes)
            mean, deviation = screen.predict(features)
            if expected is not None:
                mean = mean + expected(features)
            if self.screen == "ei":
                return expected_improvement(mean, deviation, best) + trust * beliefs(space.genes, units)
            return np.asarray(mean + appetite * deviation)

        return merits

    def _learned_merits(
        self, history: History, told: Sequence[Trial], learned: Learned, rng: np.random.Generator
    ) -> Merits:
        """Return the same by what was learned of results in part; rows of what was learned are the view's trials."""
        space, sizes = history.space, sizes_of(history.space)
        failed = history.failed
        kept = np.arange(len(told) + len(failed))
        if len(kept) > POINTS:
            kept = np.append(kept[: POINTS // 2], rng.choice(kept[POINTS // 2 :], POINTS - POINTS // 2, replace=False))
        trials = [told[at] if at < len(told) else failed[at - len(told)] for at in kept.tolist()]
        rows = np.array([trial.told_order for trial in trials])
        points = features_of(learned.seen.encoded(rows), sizes)
        out = [history.born_units[one.id] for one in history.out[-RECENT:]]
        waiting = features_of(np.stack(out), sizes) if out else np.empty((0, len(sizes)))
        scores, models = learned.scores(rows), "process" if self._is_smooth(history, rng) else self.models
        screen = Screen.fit(points, scores, waiting, sizes, self.trees, models, rng, learned.process)
        return self._judged(screen, None, learned.best, space, TRUST / history.fresh_count, rng)

    def _lesson(self, history: History) -> Proposal | None:
        """Return the best genome of an earlier run that was not born, of each run by turns."""
        if not history.lessons:
            return None
        lesson = history.lessons[TAUGHT.index(history.fresh_count) % len(history.lessons)]
        bred = (Bred(lesson.units[row], "learned") for row in np.argsort(lesson.losses, kind="stable"))
        return next(News.of(history, 0.0).of_bred(bred), None)

    def _learned(
        self, history: History, told: Sequence[Trial], places: np.ndarray, smooth: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features and scores of at most POINTS births, and features of what is out and not among these.

        In a long run half of them are the best, the others random. Trials trained in part are left out: theirs is
        another scale. With believe='average' what is out counts as told, with the mean of all scores, and takes the
        place of results: so slots that ask together do not crowd in one place, but a promising place seems the worse
        for being tried (the constant liar of Ginsbourger, Le Riche & Carraro, 2010). The proposals of older versions
        rest on it.

        Returns:
            Shapes (points, genes), (points,) and (out, genes).
        """
        waiting = history.out
        lied = len(waiting) if self.believe == "average" else 0
        count = lied + len(places)
        kept = np.arange(count)
        if count > POINTS:
            order = np.argsort(np.append(np.full(lied, -np.inf), places), kind="stable")
            others = rng.choice(order[POINTS // 2 :], POINTS - POINTS // 2, replace=False)
            kept = np.append(order[: POINTS // 2], others)
        failed = history.failed
        ids = [
            waiting[row].id if row < lied else (told[row - lied] if row < lied + len(told) else failed[row - count]).id
            for row in kept.tolist()
        ]
        scores = np.append(np.zeros(lied), places)[kept]
        results = kept >= lied
        scores[results] = normal_scores(scores[results], len(places))
        if smooth:
            losses = np.append(history.scaled_losses(), np.full(len(failed), math.nan))
            scores[results] = Spacing.of(places, losses, len(places))(scores[results], losses[kept[results] - lied])
        out = [one.id for one in ([] if lied else waiting[-RECENT:])]
        features = features_of(np.stack([history.born_units[id] for id in (*ids, *out)]), sizes_of(history.space))
        return features[: len(ids)], scores, features[len(ids) :]


def _children(
    history: History, rng: np.random.Generator, pool: Sequence[Individual], count: int, population: int
) -> Iterator[Bred]:
    """Yield mutated children of parents chosen by tournament; the steps shrink as the run goes on, as in Breeder.

    Tournaments are small, unlike the genetic algorithm's: it is the model that selects, and it wants variety.
    """
    space = history.space
    scale = max(FINEST, _step(history, population))
    with seeded(rng):
        pairs = [(tournament(pool, 2), tournament(pool, 2)) for _ in range(count)]
        units = [crossover(a.units, b.units, space) if a.id != b.id else a.units for a, b in pairs]
    for (first, second), bred in zip(pairs, units, strict=True):
        mutated = mutate(bred, space, rng, 1.0 / len(space.genes), scale)
        if first.id == second.id:
            yield Bred(mutated, "mutation", (first.id,))
        else:
            yield Bred(mutated, "crossover+mutation", (first.id, second.id))


def _step(history: History, population: int) -> float:
    """Return the standard deviation of a mutation, in unit coordinates."""
    return 0.3 / math.sqrt(1.0 + len(history.trials) / population)


def _neighbours(space: SearchSpace, leaders: Sequence[Individual]) -> Iterator[Bred]:
    """Yield the genomes one step away from each leader."""
    for leader in leaders:
        for place, gene in enumerate(space.genes.values()):
            for u in gene.neighbours(leader.units[place]):
                units = list(leader.units)
                units[place] = u
                yield Bred(units, "neighbour", (leader.id,))


def _places(losses: np.ndarray, failures: int, rng: np.random.Generator) -> np.ndarray:
    """Return the places of what was told, then of each failure, shape (told + failures,), from 1, the best.

    Failures share the places behind all others, whatever their number: they say where not to go without a number of
    their own. Several objectives are ranked one by one and become one by an augmented Tchebycheff norm with
    random weights: any point of the front, also in a dent of it, is the best for some of them.

    Args:
        losses: Of what was told, shape (told, objectives).
        failures: Number of them.
        rng: The only source of randomness.
    """
    if losses.shape[1] > 1:
        share = rng.dirichlet(np.ones(losses.shape[1]))
        weighted = share * np.stack([ranks(column) for column in losses.T], axis=1)
        losses = weighted.max(axis=1, keepdims=True) + AUGMENT * weighted.sum(axis=1, keepdims=True)
    return np.append(ranks(losses[:, 0]), np.full(failures, len(losses) + (failures + 1) / 2))
