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

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evo_tune.genome.history import History, units_of
from evo_tune.genome.kernel import FeatureLayout, encode_features, farthest_points
from evo_tune.genome.process import NOISE_MEDIAN, GaussianProcess
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Proposal
from evo_tune.genome.values import ranks
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import GenomeResults, Strategy
from evo_tune.strategies import _candidates as candidates
from evo_tune.strategies import _models as surrogates
from evo_tune.strategies import spread, unseen, unseen_from_prior
from evo_tune.strategies._candidates import MAX_RECENT_TRIALS, Draft, Novelty
from evo_tune.strategies._deap import Individual, best_by_crowding, crossover, deap_generator, mutate, tournament
from evo_tune.strategies._models import MAX_FIT_POINTS, Acquisition, FidelityModel, Models, loss_scores, normal_scores

# Children bred for each parent.
OFFSPRING_PER_PARENT = 4

# Best trials whose neighbours are candidates.
LEADERS = 3

# Genes in which neighbours of a leader are candidates; drawn for each proposal where there are more.
MAX_NEIGHBOUR_GENES = 24

# Random candidates.
IMMIGRANTS = 12

# Probability that rounds of mutation around the candidates follow; the other proposals are the best candidate as bred,
# so that an error of the models does not decide alone.
SEARCHING = 0.5

# Share of the sum in an augmented Tchebycheff scalarisation, as in ParEGO.
AUGMENT = 0.05

# Number of trials at which expected improvement and a prior have equal weight; before, the prior has more.
TRUST = 10.0

# Most trials before the models are used where genes have priors.
FIRST_WITH_PRIORS = 4

# Ids of the first trials that are the best genomes of earlier runs.
IDS_FROM_EARLIER_RUNS = (1, 3)

# Labels of failures whose cause may be the machine: they tell neither that a genome fails nor that it does not.
UNKNOWN_CAUSE = {"crashed": 0.0}

# Most successes of which those are chosen that tell where trainings fail, which bounds the cost in a long run.
MAX_SUCCESSES = 4 * MAX_FIT_POINTS

# Mean squared error of the prediction of a good result from the others below which a surface is smooth, and the share
# of the proposals in which the process then judges alone.
PRECISE_ERROR, PRECISE_SHARE = 0.01, 0.9

# Smallest standard deviation of a mutation, in unit coordinates.
FINEST = 0.02


@dataclass(frozen=True)
class SAEA(Strategy):
    """Surrogate-assisted evolution: breed many children, train the one that models find most promising."""

    first: int = option(
        6, bounds="[2, inf)", help="First trials, spread over the space, with the default; at most 4 with priors."
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

    def learn(self, seen: GenomeResults, space: SearchSpace) -> FidelityModel | None:
        if len(seen.ids) < self._first_count(space):
            return None
        return FidelityModel.of(seen, FeatureLayout.of(space))

    def _first_count(self, space: SearchSpace) -> int:
        """Return the number of trials before the models are used: with priors, less of the space is to be covered."""
        return min(self.first, FIRST_WITH_PRIORS) if space.has_priors else self.first

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        first = self._first_count(history.space)
        if history.fresh_count < first or len(history.ranking) < first // 2:
            # Where many slots ask before there are results, later trials are random: the farther apart many genomes
            # are, the more of them have extreme values.
            start = spread if history.fresh_count < first else unseen_from_prior
            if history.lessons and history.fresh_count in IDS_FROM_EARLIER_RUNS:  # the best new one of each in turn
                lesson = history.lessons[IDS_FROM_EARLIER_RUNS.index(history.fresh_count) % len(history.lessons)]
                best_first = np.argsort(lesson.losses, kind="stable")
                learned = Novelty.of(history, 0.0).filter_new(Draft(lesson.units[row], "learned") for row in best_first)
                return next((proposal for proposal, _ in learned), None) or start(history, rng)
            return start(history, rng)
        objectives = len(history.objectives)
        weights = rng.dirichlet(np.ones(objectives)) if objectives > 1 else np.ones(1)
        parents = self._parents(history, weights)
        drafts = list(self._drafts(history, rng, parents))
        distance = self.min_distance * self._step_deviation(history)
        novelty = Novelty.of(history, distance)
        success = _success_factor(history, FeatureLayout.of(history.space))
        rare = candidates.propose_rare_value(novelty, drafts, self.rare_values, rng, success)
        if rare is not None:
            return rare
        acquisition = self._acquisition(history, weights, parents, success, rng)
        novelty = Novelty.of(history, distance * min(1.0, acquisition.noise / NOISE_MEDIAN), distance)
        rounds = candidates.ROUNDS if acquisition.precise or rng.random() < SEARCHING else 0
        if rounds and acquisition.smooth:
            drafts += candidates.drafts_near(parents[:LEADERS], rng)
            drafts += candidates.climb_drafts(drafts, acquisition, acquisition.gradients, history.space)
        return candidates.search_around(novelty, drafts, acquisition, rng, rounds) or unseen(history, rng)

    def _parents(self, history: History, weights: np.ndarray) -> list[Individual]:
        """Return the trials that may become parents, the best first; those that meet the constraints come first."""
        if len(history.objectives) > 1:
            weighted_ranks = _ranks(history.ranked_losses(), weights)
            best = best_by_crowding(history, self.population)
            rank_by_id = {individual.id: float(weighted_ranks[row]) for row, individual in best.items()}
        else:
            rank_by_id = {trial.id: float(row) for row, trial in enumerate(history.ranking[: self.population])}
        pool = [Individual(id, (rank,), history.proposed_units[id].tolist()) for id, rank in rank_by_id.items()]
        return sorted(pool, key=lambda individual: (individual.losses, individual.id))

    def survivors(self, history: History) -> Sequence[int]:
        if len(history.objectives) > 1:
            return [individual.id for individual in best_by_crowding(history, self.population).values()]
        return super().survivors(history)

    def _step_deviation(self, history: History) -> float:
        """Return the standard deviation of a mutation, in unit coordinates; it shrinks as the run goes on."""
        return 0.3 / math.sqrt(1.0 + len(history.trials) / self.population)

    def _drafts(self, history: History, rng: np.random.Generator, pool: Sequence[Individual]) -> Iterator[Draft]:
        """Yield children, neighbours of the leaders and random genomes."""
        space, deviation = history.space, max(FINEST, self._step_deviation(history))
        # Tournaments are small, unlike the genetic algorithm's: the models select, and they need variety.
        with deap_generator(rng):
            pairs = [(tournament(pool, 2), tournament(pool, 2)) for _ in range(OFFSPRING_PER_PARENT * len(pool))]
            children = [crossover(a.units, b.units, space) if a.id != b.id else a.units for a, b in pairs]
        for (first, second), units in zip(pairs, children, strict=True):
            operator = "mutation" if first.id == second.id else "crossover+mutation"
            parents = tuple(dict.fromkeys((first.id, second.id)))
            yield Draft(mutate(units, space, rng, 1.0, deviation), operator, parents)
        genes = list(space.genes.values())
        for leader in pool[:LEADERS]:
            all_genes = len(genes) <= MAX_NEIGHBOUR_GENES
            for index in range(len(genes)) if all_genes else rng.permutation(len(genes))[:MAX_NEIGHBOUR_GENES].tolist():
                for unit in genes[index].neighbours(leader.units[index]):
                    neighbour = list(leader.units)
                    neighbour[index] = unit
                    yield Draft(neighbour, "neighbour", (leader.id,))
        yield from (Draft(rng.random(len(genes)), "random") for _ in range(IMMIGRANTS))

    def _acquisition(
        self,
        history: History,
        weights: np.ndarray,
        parents: Sequence[Individual],
        success: surrogates.Feasibility | None,
        rng: np.random.Generator,
    ) -> Acquisition:
        """Return the acquisition of a full training, given the probability of success.

        Scores are those that the losses have without constraints and failures; both are factors of their own. At most
        MAX_FIT_POINTS trials are used. In a long run half of these are the best, the others random.
        """
        layout = FeatureLayout.of(history.space)
        bare_ranks, excesses = _ranks(history.bare_losses(), weights), history.excesses()
        feasible = ~(excesses > 0.0).any(axis=1) & ~np.isnan(excesses).any(axis=1)
        failed = history.failed[-(MAX_FIT_POINTS // 4) :]
        rows, room, half = np.arange(len(bare_ranks)), MAX_FIT_POINTS - len(failed), MAX_FIT_POINTS // 2
        if len(rows) > room:
            order = np.lexsort((bare_ranks, ~feasible))
            rows = np.append(order[:half], rng.choice(order[half:], room - half, replace=False))
        result_units = units_of(history, [history.ranking[row] for row in rows.tolist()])
        scores = loss_scores(bare_ranks, _combine_losses(history, weights, parents))[rows]
        # A process judges a share of the proposals alone, a larger one where it predicts each good result well from the
        # others. Nothing is drawn where none ever does.
        process, precise, chance = None, False, rng.random() if self.gp_only > 0.0 else 1.0
        if chance < max(self.gp_only, PRECISE_SHARE):
            process = GaussianProcess.fit(layout.features(result_units), scores, layout.kinds, precise=True)
            better = scores > np.median(scores)
            precise = bool(better.any() and np.mean(process.leave_one_out_errors()[better] ** 2) < PRECISE_ERROR)
        alone, units = process is not None and (precise or chance < self.gp_only), result_units
        if not alone:  # the forest knows edges, so failures share the ranks behind all others
            last_ranks = np.full(len(failed), len(bare_ranks) + (len(history.failed) + 1) / 2)
            scores = normal_scores(np.append(bare_ranks[rows], last_ranks), len(bare_ranks) + len(history.failed))
            units = np.concatenate([result_units, units_of(history, failed)])
        points, plain_points = layout.features(units), encode_features(units, layout.category_counts)
        earlier = surrogates.EarlierRuns.of(history.lessons, plain_points, scores, layout.category_counts)
        own_scores = scores - earlier(plain_points)
        if process is None or earlier.lessons or not alone:
            process = GaussianProcess.fit(points, own_scores, layout.kinds, precise=alone)
        pending = layout.features(units_of(history, history.pending[-MAX_RECENT_TRIALS:]))
        models = Models.fit(process, points, own_scores, pending, layout.category_counts_with_absent, rng, alone)
        factors: list[surrogates.Factor | None] = []
        factors += [surrogates.constraint_factor(layout, result_units, excess) for excess in excesses[rows].T]
        factors.append(success)
        if history.space.has_priors:
            factors.append(surrogates.Prior(history.space.genes, TRUST / history.fresh_count))
        smooth = True
        if feasible[rows].any():  # before that, any trial that meets the constraints is an improvement
            result_scores = scores[: len(rows)]
            if alone:  # as predicted: the luckiest of many noisy scores would hardly ever be improved on
                result_scores = models.predict(points)[0] + earlier(plain_points)
            best = float(result_scores[feasible[rows]].max())
            factors.append(surrogates.ExpectedImprovement(models, layout, best, earlier))
            smooth = alone and not earlier.lessons
        return Acquisition([factor for factor in factors if factor is not None], models.process.noise, precise, smooth)


def _success_factor(history: History, layout: FeatureLayout) -> surrogates.Feasibility | None:
    """Return the probability that a training does not fail; None while none has failed.

    The successes that it is fitted to are spread out: most of the best are so much alike that any place with their
    values of a few genes would look safe.
    """
    failed = history.failed[-MAX_FIT_POINTS // 2 :]
    if not failed:
        return None
    rows, room = np.arange(len(history.ranking)), MAX_FIT_POINTS - len(failed)
    if len(rows) > room:
        rows = np.linspace(0, len(rows) - 1, min(len(rows), MAX_SUCCESSES)).astype(int)
        units = units_of(history, [history.ranking[row] for row in rows.tolist()])
        rows = rows[farthest_points(layout.features(units), layout.kinds, room)]
    trials = [*(history.ranking[row] for row in rows.tolist()), *failed]
    labels = [UNKNOWN_CAUSE.get(trial.outcome.status, -1.0 if trial.losses is None else 1.0) for trial in trials]
    return surrogates.success_factor(layout, units_of(history, trials), np.array(labels), len(history.trials))


def _ranks(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ranks of trials by their losses, from 1, the best. Shape (trials,).

    Several objectives are ranked one by one and become one by an augmented Tchebycheff norm with random weights, so any
    point of the front, also in a dent of it, is the best for some weights.

    Args:
        losses: Losses of the trials, shape (trials, objectives).
        weights: Weights of the objectives, shape (objectives,).
    """
    if len(weights) > 1:
        weighted = weights * np.stack([ranks(column) for column in losses.T], axis=1)
        losses = weighted.max(axis=1, keepdims=True) + AUGMENT * weighted.sum(axis=1, keepdims=True)
    return ranks(losses[:, 0])


def _combine_losses(history: History, weights: np.ndarray, parents: Sequence[Individual]) -> np.ndarray:
    """Return the losses of the trials on one scale, NaN where a loss has another scale. Shape (trials,).

    Several objectives become one as in `_ranks`, but with their distances. Each is divided by its range among the
    parents, which are near the front, so that an outlier does not hide the others.
    """
    if len(weights) == 1:
        return history.scaled_losses()
    halves = history.bare_losses() / 2.0  # the difference of two losses themselves may overflow
    ids = {parent.id for parent in parents}
    parent_range = np.ptp(halves[[trial.id in ids for trial in history.ranking]], axis=0)
    full_range = np.ptp(halves, axis=0)
    scale = np.where(parent_range > 0.0, parent_range, np.where(full_range > 0.0, full_range, 1.0))
    with np.errstate(over="ignore"):  # a loss that is infinite now has no scale, and counts as the worst
        weighted = weights * (halves - halves.min(axis=0)) / scale
        return np.asarray(weighted.max(axis=1) + AUGMENT * weighted.sum(axis=1))
