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

from evo_tune.genome.history import History
from evo_tune.genome.importance import ranks
from evo_tune.genome.kernel import FeatureLayout, encode_features, farthest_points, unordered_sizes
from evo_tune.genome.process import NOISE_MEDIAN, Process
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import GenomeResults, Strategy
from evo_tune.strategies._acquisition import Acquisition, Factor, Improvement, Prior, constraint_factor, success_factor
from evo_tune.strategies._candidates import (
    MAX_RECENT_TRIALS,
    Draft,
    Novelty,
    best_among,
    propose_rare_value,
    search_around,
)
from evo_tune.strategies._climb import climb_drafts, drafts_near
from evo_tune.strategies._deap import Individual, best_by_crowding, crossover, deap_generator, mutate, tournament
from evo_tune.strategies._models import (
    MAX_FIT_POINTS,
    EarlierRuns,
    FidelityModel,
    Models,
    loss_scores,
    normal_scores,
)
from evo_tune.strategies._proposals import spread, unseen, unseen_from_prior

BROOD = 4
"""Children bred for each parent."""

LEADERS = 3
"""Best trials whose neighbours are candidates."""

NEAR = 24
"""Genes in which neighbours of a leader are candidates; drawn for each proposal where there are more."""

IMMIGRANTS = 12
"""Random candidates."""

SEARCHING = 0.5
"""Probability that rounds of mutation around the candidates follow; the other proposals are the best candidate as bred,
so that an error of the models does not decide alone."""

AUGMENT = 0.05
"""Share of the sum in an augmented Tchebycheff scalarisation, as in ParEGO."""

TRUST = 10.0
"""Number of trials at which expected improvement and a prior have equal weight; before, the prior has more."""

LIKELY_FIRST = 4
"""Most trials before the models are used where genes have priors."""

TAUGHT = (1, 3)
"""Ids of the first trials that are the best genomes of earlier runs."""

UNKNOWN = {"crashed": 0.0}
"""Labels of failures whose cause may be the machine: they tell neither that a genome fails nor that it does not."""

SUCCESSES = 4 * MAX_FIT_POINTS
"""Most successes of which those are chosen that tell where trainings fail, which bounds the cost in a long run."""

SMOOTH, MOSTLY = 0.01, 0.9
"""Mean squared error of the prediction of a good result from the others below which a surface is smooth, and the share
of the proposals in which the process then judges alone."""

FINEST = 0.02
"""Smallest standard deviation of a mutation, in unit coordinates."""


@dataclass(frozen=True)
class SAEA(Strategy):
    """Surrogate-assisted evolution: breed many children, train the one that models find most promising."""

    first: int = option(
        6,
        bounds="[2, inf)",
        help="Trials spread over the space before the models are used, the default included; at most 4 with priors.",
    )
    gp_only: float = option(0.5, bounds="[0, 1]", help="Least probability that the Gaussian process judges alone.")
    rare_values: float = option(
        0.5, bounds="[0, 1]", help="Probability of a rare value of an unordered gene while results do not improve."
    )
    min_distance: float = option(
        0.25,
        bounds="[0, inf)",
        unit="standard deviations of a mutation",
        help="Least difference in one gene from the best and latest trials; it shrinks during a run.",
    )

    several_objectives: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return self._next(history, rng, None)

    def learn(self, seen: GenomeResults, space: SearchSpace) -> FidelityModel | None:
        return FidelityModel.of(seen, unordered_sizes(space)) if len(seen.ids) >= self._first(space) else None

    def _first(self, space: SearchSpace) -> int:
        """Return the number of trials before the models are used: with priors, less of the space is to be covered."""
        return min(self.first, LIKELY_FIRST) if space.has_priors else self.first

    def propose_learned(self, history: History, prospects: FidelityModel, rng: np.random.Generator) -> Proposal | None:
        return self._next(history, rng, prospects)

    def _next(self, history: History, rng: np.random.Generator, learned: FidelityModel | None) -> Proposal | None:
        """Return the next proposal.

        Args:
            history: Completed and pending trials.
            rng: The only source of randomness.
            learned: Predictions from partial trainings; None where all trials are trained in full.
        """
        first = self._first(history.space)
        if history.fresh_count < first or len(history.ranking) < first // 2:
            # Where many slots ask before there are results, later trials are random: the farther apart many genomes
            # are, the more of them have extreme values.
            return self._lesson(history) or (spread if history.fresh_count < first else unseen_from_prior)(history, rng)
        trade = _trade(history, rng)
        parents = self._parents(history, trade)
        drafts = list(self._drafts(history, rng, parents))
        step = self.min_distance * _step(history, self.population)
        if learned is None:
            rare = propose_rare_value(Novelty.of(history, step), drafts, self.rare_values, rng)
            if rare is not None:
                return rare
            acquisition = self._acquisition(history, trade, parents, rng)
        else:  # a partial result cannot be a new best, so it does not show that a search has stalled
            acquisition = self._learned_acquisition(history, learned, rng)
        novelty = Novelty.of(history, step * min(1.0, acquisition.noise / NOISE_MEDIAN), step)
        search = acquisition.sure or rng.random() < SEARCHING
        if search and acquisition.smooth:
            drafts += drafts_near(parents[:LEADERS], rng)
            drafts += climb_drafts(drafts, acquisition, acquisition.slopes, history.space)
        found = search_around(novelty, drafts, acquisition, rng) if search else best_among(novelty, drafts, acquisition)
        return found or unseen(history, rng)

    def _lesson(self, history: History) -> Proposal | None:
        """Return the best new genome of an earlier run, of each run in turn; None if this proposal is not for one."""
        if not history.lessons or history.fresh_count not in TAUGHT:
            return None
        lesson = history.lessons[TAUGHT.index(history.fresh_count) % len(history.lessons)]
        drafts = (Draft(lesson.units[row], "learned") for row in np.argsort(lesson.losses, kind="stable"))
        return next(Novelty.of(history, 0.0).filter_new(drafts), None)

    def _parents(self, history: History, trade: np.ndarray) -> list[Individual]:
        """Return the trials that may become parents, the best first; those that meet the constraints come first."""
        if len(history.objectives) > 1:
            places = _places(history.ranked_losses(), trade)
            place_of = {one.id: float(places[row]) for row, one in best_by_crowding(history, self.population).items()}
        else:
            place_of = {trial.id: float(row) for row, trial in enumerate(history.ranking[: self.population])}
        pool = [Individual(id, (place,), history.proposed_units[id].tolist()) for id, place in place_of.items()]
        return sorted(pool, key=lambda one: (one.losses, one.id))

    def survivors(self, history: History) -> Sequence[int]:
        if len(history.objectives) > 1:
            return [one.id for one in best_by_crowding(history, self.population).values()]
        return super().survivors(history)

    def _drafts(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> Iterator[Draft]:
        """Yield children, neighbours of the leaders and random genomes."""
        space = history.space
        scale = max(FINEST, _step(history, self.population))
        # Tournaments are small, unlike the genetic algorithm's: the models select, and they need variety.
        with deap_generator(rng):
            pairs = [(tournament(pool, 2), tournament(pool, 2)) for _ in range(BROOD * len(pool))]
            crossed = [crossover(a.units, b.units, space) if a.id != b.id else a.units for a, b in pairs]
        for (first, second), units in zip(pairs, crossed, strict=True):
            mutated = mutate(units, space, rng, 1.0, scale)
            if first.id == second.id:
                yield Draft(mutated, "mutation", (first.id,))
            else:
                yield Draft(mutated, "crossover+mutation", (first.id, second.id))
        genes = list(enumerate(space.genes.values()))
        for leader in pool[:LEADERS]:
            some = rng.permutation(len(genes))[:NEAR].tolist() if len(genes) > NEAR else range(len(genes))
            for place, gene in (genes[one] for one in some):
                for u in gene.neighbours(leader.units[place]):
                    units = list(leader.units)
                    units[place] = u
                    yield Draft(units, "neighbour", (leader.id,))
        yield from (Draft(rng.random(len(space.genes)), "random") for _ in range(IMMIGRANTS))

    def _acquisition(
        self, history: History, trade: np.ndarray, parents: Sequence[Individual], rng: np.random.Generator
    ) -> Acquisition:
        """Return a judge of candidates from full trainings.

        Scores are those that the losses have without constraints and failures; both are factors of their own. At most
        POINTS trials are used. In a long run half of these are the best, the others random.
        """
        layout = FeatureLayout.of(history.space)
        places, excesses = _places(history.bare_losses(), trade), history.excesses()
        feasible = ~(excesses > 0.0).any(axis=1) & ~np.isnan(excesses).any(axis=1)
        lost = history.failed[-(MAX_FIT_POINTS // 4) :]
        rows, room = np.arange(len(places)), MAX_FIT_POINTS - len(lost)
        if len(rows) > room:
            order = np.lexsort((places, ~feasible))
            rows = np.append(
                order[: MAX_FIT_POINTS // 2],
                rng.choice(order[MAX_FIT_POINTS // 2 :], room - MAX_FIT_POINTS // 2, replace=False),
            )
        units = np.stack([history.proposed_units[history.ranking[row].id] for row in rows.tolist()])
        scores = loss_scores(places, _one_loss(history, trade, parents))[rows]
        process, sure = self._smooth(history, layout.features(units), scores, layout, rng)
        known = units
        if process is None:  # the forest knows edges, so failures share the places behind all others
            behind = np.full(len(lost), len(places) + (len(history.failed) + 1) / 2)
            scores = normal_scores(np.append(places[rows], behind), len(places) + len(history.failed))
            known = np.stack([*units, *(history.proposed_units[one.id] for one in lost)])
        points, plain = layout.features(known), encode_features(known, layout.counts)
        earlier = EarlierRuns.of(history.lessons, plain, scores, layout.counts)
        if earlier.lessons and process is not None:
            process = Process.fit(points, scores - earlier(plain), layout.kinds, precise=True)
        own, pending = scores - earlier(plain), _pending(history, layout)
        alone = process is not None
        models = Models.fit(points, own, pending, layout.sizes, layout.kinds, rng, alone, process)
        limits = [constraint_factor(layout, units, column) for column in excesses[rows].T]
        factors: list[Factor | None] = [*limits, _success(history, layout), self._prior(history)]
        if feasible[rows].any():  # before that, any trial that meets the constraints is an improvement
            best = float(scores[: len(rows)][feasible[rows]].max())
            factors.append(Improvement(models, layout, best, earlier))
        return Acquisition([one for one in factors if one is not None], models.process.noise, sure)

    def _learned_acquisition(self, history: History, learned: FidelityModel, rng: np.random.Generator) -> Acquisition:
        """Return a judge of candidates that knows partial trainings as well.

        The `reported_order` of a trial in this history is its row in what was learned. Trials that failed or break a
        constraint rank behind all others.
        """
        layout = FeatureLayout.ignoring_conditions(history.space)
        kept = np.arange(len(history.ranking) + len(history.failed))
        if len(kept) > MAX_FIT_POINTS:
            kept = np.append(
                kept[: MAX_FIT_POINTS // 2],
                rng.choice(kept[MAX_FIT_POINTS // 2 :], MAX_FIT_POINTS - MAX_FIT_POINTS // 2, replace=False),
            )
        rows = np.array([one.reported_order for one in _trials(history, kept)])
        points, scores = layout.features(learned.seen.encode(rows)), learned.scores(rows)
        alone = len(history.objectives) == 1 and self.gp_only > 0.0 and rng.random() < self.gp_only
        pending = _pending(history, layout)
        models = Models.fit(points, scores, pending, layout.sizes, layout.kinds, rng, alone, learned.process)
        factors = [Improvement(models, layout, learned.best), self._prior(history)]
        return Acquisition([one for one in factors if one is not None], learned.process.noise)

    def _prior(self, history: History) -> Prior | None:
        """Return the priors of the genes; None if no gene has one."""
        return Prior(history.space.genes, TRUST / history.fresh_count) if history.space.has_priors else None

    def _smooth(
        self, history: History, points: np.ndarray, scores: np.ndarray, layout: FeatureLayout, rng: np.random.Generator
    ) -> tuple[Process | None, bool]:
        """Return a process that judges alone, or None if this proposal is not for one, and whether it is precise.

        It judges a share of the proposals, which is larger where it predicts each good result well from the others.

        Args:
            history: History of the run.
            points: Features of the results, shape (results, genes).
            scores: Scores of the results that are spaced as the losses, shape (results,).
            layout: Features of the space.
            rng: The only source of randomness; nothing is drawn where no process ever judges alone.
        """
        if self.gp_only == 0.0:
            return None, False
        draw = rng.random()
        if draw >= max(self.gp_only, MOSTLY):
            return None, False
        process = Process.fit(points, scores, layout.kinds, precise=True)
        better = scores > np.median(scores)
        sure = better.any() and float(np.mean(process.leave_one_out_errors()[better] ** 2)) < SMOOTH
        return (process, bool(sure)) if draw < self.gp_only or sure else (None, False)


def _success(history: History, layout: FeatureLayout) -> Factor | None:
    """Return the probability that a training does not fail; None while none has failed.

    The successes that it is fitted to are spread out: most of the best are so much alike that any place with their
    values of a few genes would look safe.
    """
    failed = history.failed[-MAX_FIT_POINTS // 2 :]
    if not failed:
        return None
    rows, room = np.arange(len(history.ranking)), MAX_FIT_POINTS - len(failed)
    if len(rows) > room:
        rows = np.linspace(0, len(rows) - 1, min(len(rows), SUCCESSES)).astype(int)
        units = np.stack([history.proposed_units[history.ranking[row].id] for row in rows.tolist()])
        rows = rows[farthest_points(layout.features(units), layout.kinds, room)]
    trials = [*(history.ranking[row] for row in rows.tolist()), *failed]
    labels = np.array([UNKNOWN.get(one.outcome.status, -1.0 if one.losses is None else 1.0) for one in trials])
    units = np.stack([history.proposed_units[one.id] for one in trials])
    return success_factor(layout, units, labels, len(history.trials))


def _trials(history: History, places: np.ndarray) -> list[Trial]:
    """Return the trials in some places of the ranked and then the failed ones."""
    ranking, failed = history.ranking, history.failed
    return [ranking[at] if at < len(ranking) else failed[at - len(ranking)] for at in places.tolist()]


def _pending(history: History, layout: FeatureLayout) -> np.ndarray:
    """Return the features of the latest pending trials, shape (pending, genes)."""
    units = [history.proposed_units[one.id] for one in history.pending[-MAX_RECENT_TRIALS:]]
    return layout.features(np.stack(units)) if units else np.empty((0, len(layout.sizes)))


def _step(history: History, population: int) -> float:
    """Return the standard deviation of a mutation, in unit coordinates; it shrinks as the run goes on."""
    return 0.3 / math.sqrt(1.0 + len(history.trials) / population)


def _trade(history: History, rng: np.random.Generator) -> np.ndarray:
    """Return random weights of several objectives, shape (objectives,); nothing is drawn for a single one."""
    count = len(history.objectives)
    return rng.dirichlet(np.ones(count)) if count > 1 else np.ones(1)


def _places(losses: np.ndarray, trade: np.ndarray) -> np.ndarray:
    """Return the places of trials by their losses, from 1, the best. Shape (trials,).

    Several objectives are ranked one by one and become one by an augmented Tchebycheff norm with random weights, so any
    point of the front, also in a dent of it, is the best for some weights.

    Args:
        losses: Losses of the trials, shape (trials, objectives).
        trade: Weights of the objectives, shape (objectives,).
    """
    if len(trade) > 1:
        weighted = trade * np.stack([ranks(column) for column in losses.T], axis=1)
        losses = weighted.max(axis=1, keepdims=True) + AUGMENT * weighted.sum(axis=1, keepdims=True)
    return ranks(losses[:, 0])


def _one_loss(history: History, trade: np.ndarray, parents: Sequence[Individual]) -> np.ndarray:
    """Return the losses of the trials on one scale, NaN where a loss has another scale. Shape (trials,).

    Several objectives become one as in `_places`, but with their distances. Each is divided by its range among the
    parents, which are near the front, so that an outlier does not hide the others.
    """
    if len(trade) == 1:
        return history.scaled_losses()
    losses = history.bare_losses() / 2.0  # the difference of whole ones may overflow
    ids = {one.id for one in parents}
    near = losses[[trial.id in ids for trial in history.ranking]]
    span, whole = np.ptp(near, axis=0), np.ptp(losses, axis=0)
    span = np.where(span > 0.0, span, np.where(whole > 0.0, whole, 1.0))
    with np.errstate(over="ignore"):  # a loss that is infinite now has no scale, and counts as the worst
        weighted = trade * (losses - losses.min(axis=0)) / span
        return np.asarray(weighted.max(axis=1) + AUGMENT * weighted.sum(axis=1))
