"""Candidates of `saea`: drafts of genomes, a test for new ones, and searches among them without training.

A draft is a point in unit coordinates, one number in [0, 1] per gene. To snap it is to decode and repair it, so that it
is a genome of the space. Both are slow, so searches rate drafts, and snap only the best of them:

- `search_around` mutates the candidates with the highest predicted merit, in rounds.
- `climb_drafts` takes the best candidates uphill, all at once, by the quasi-Newton method BFGS, where a Gaussian
  process judges alone. The merit has narrow ridges, at the bound of a constraint for example, and they seldom follow
  one gene: a method without curvature stops at their side. `drafts_near` yields starts around the best genomes, where
  the merit of a precise model has its peak.
- `propose_rare_value` proposes a rare value of a gene without order when the search has stalled.

This module knows spaces and merits, not how the merits were learned.

Source: Nocedal & Wright, Numerical Optimization (Springer, 2006), chapter 6, for BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from evo_tune.genome.history import History, units_of
from evo_tune.genome.kernel import category_counts, encode_features
from evo_tune.genome.process import GaussianProcess
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Proposal, Trial
from evo_tune.genome.values import Genome, genome_key
from evo_tune.strategies._deap import Individual
from evo_tune.strategies._models import MAX_FIT_POINTS, Feasibility, log_expected_improvement, normal_scores

# Maximum number of latest trials that are used, which bounds the cost of a proposal in a long run.
MAX_RECENT_TRIALS = 256

# Rounds of mutation of a search around candidates.
ROUNDS = 6

# Candidates that a round keeps, that have variants in the next one, or that climb; and variants of each.
KEPT_PER_ROUND, VARIANTS_PER_PARENT = 8, 6

# Standard deviation of the steps of the first round, in unit coordinates. Each later round halves it.
FIRST_STEP_DEVIATION = 0.1

# Smallest standard deviation of a step in a gene with few values, as a share of a cell: the interval of
# coordinates of one value.
CELL_SHARE = 0.7

# Minimum number of values of a gene that counts as continuous until a candidate is snapped.
CONTINUOUS_FROM = 64

# Difference in unit coordinates that is smaller than between any two values.
SMALLEST_DIFFERENCE = 1e-9

# Results without a new best after which a search has stalled; at least the number of pending trials, which were
# proposed without knowing these results.
RESULTS_UNTIL_STALLED = 12

# Least improvement of the best loss, as a share of its distance from the median, that counts as a new best.
MIN_PROGRESS_SHARE = 0.02

# A value counts as sufficiently tried after this factor times the square root of the number of all trials.
SUFFICIENT_TRIALS_FACTOR = 2.0

# The same factor for a branch whose best result, of at least so many, is far behind the best of all: the distance is
# more than so many times the range of the results of the best branch.
BEHIND_FACTOR, RESULTS_TO_JUDGE, FAR_BEHIND = 0.5, 3, 4.0

# Least probability of success of a genome with a rare value, and its least share of the highest one of all candidates:
# a search that has stalled would otherwise repeat what fails.
LEAST_SUCCESS, SUCCESS_SHARE = 0.5, 0.9

# Best trials with a rare value, whose variants are candidates.
RARE_PARENTS = 6

# Further candidates with a rare value: drafts of the strategy that get the value, and random genomes.
RARE_BRED_DRAFTS, RARE_RANDOM_DRAFTS = 24, 36

# Steps of a climb.
CLIMB_STEPS = 30

# Longest move of a gene in the first step of a climb and in any step, in unit coordinates. It doubles after each step
# that raised the merit; after another one it becomes a quarter of that step.
FIRST_CLIMB_MOVE, MAX_CLIMB_MOVE = 0.03, 0.5

# Share of the steepest slope of a climb below which a gene does not move. A gene that seems not to matter would move to
# its bound, and be the same in all results from there on, so nothing more would be learned of it.
MIN_SLOPE_SHARE = 0.02

# Number of starts near the best genomes, and range of the power of ten of their distance in each gene.
NEARBY_DRAFT_COUNT, LOG_DISTANCES = 24, (-4.0, -0.7)

# Function from unit coordinates, shape (points, genes), to merits and their gradients, of the shape of the former.
MeritWithGradient = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# Function from unit coordinates, shape (points, genes), to merits, shape (points,); higher is better.
MeritFunction = Callable[[np.ndarray], np.ndarray]


class Draft(NamedTuple):
    """A candidate before it is snapped to the values of its genes.

    Args:
        units: Unit coordinates. Shape (genes,).
        operator: See `Proposal`.
        parents: See `Proposal`.
    """

    units: Sequence[float] | np.ndarray
    operator: str
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Novelty:
    """Test whether a genome is new: not tried before, and not too near to a tried one.

    Near the best genome, most drafts differ from it only in the third digit of one gene. Noisy losses cannot separate
    such drafts, and they crowd out other parents. To keep proposals apart is the clearing of Pétrowski (A clearing
    procedure as a niching method, 1996).

    Args:
        history: History of the run.
        units: Unit coordinates of the best and the latest trials. Shape (trials, genes).
        min_differences: For each trial, a new genome has at least one of these differences from it, by gene. Shape
            (trials, genes).
    """

    history: History
    units: np.ndarray
    min_differences: np.ndarray

    @classmethod
    def of(cls, history: History, min_difference: float, min_difference_to_pending: float | None = None) -> Novelty:
        """Return the test for a history.

        Args:
            history: History of the run.
            min_difference: Minimum difference in one gene, in unit coordinates. In a gene with few values or without
                order, any difference is enough. With 0, every genome that was not tried is new.
            min_difference_to_pending: The same for pending trials, whose results may still show that another place is
                better; None for `min_difference`.
        """
        genes = history.space.genes
        any_suffices = np.array([gene.size < CONTINUOUS_FROM for gene in genes.values()]) | history.space.unordered
        ids: list[int] = []
        if min_difference > 0.0:
            ids = [trial.id for trial in history.ranking[:MAX_FIT_POINTS]]
            ids += range(max(0, history.proposed_count - MAX_RECENT_TRIALS), history.proposed_count)
        is_pending = np.isin(ids, [candidate.id for candidate in history.pending])
        to_pending = min_difference if min_difference_to_pending is None else min_difference_to_pending
        min_differences = np.where(is_pending, to_pending, min_difference)
        units = np.array([history.proposed_units[id] for id in ids]).reshape(-1, len(genes))
        return cls(history, units, np.where(any_suffices, SMALLEST_DIFFERENCE, min_differences[:, None]))

    def units_if_new(self, genome: Genome) -> np.ndarray | None:
        """Return the unit coordinates of a genome, shape (genes,); None if it is not new."""
        if self.history.seen(genome):
            return None
        units = self.history.space.encode(genome)
        differs = (np.abs(self.units - units) >= self.min_differences).any(axis=1)
        return units if differs.all() else None

    def filter_new(self, drafts: Iterable[Draft]) -> Iterator[tuple[Proposal, np.ndarray]]:
        """Yield the distinct new genomes among drafts, with their unit coordinates; each is snapped when needed."""
        keys = set()
        for draft in drafts:
            proposal = Proposal(self.history.space.snap(draft.units), draft.operator, draft.parents)
            key = genome_key(proposal.genome)
            units = None if key in keys else self.units_if_new(proposal.genome)
            if units is not None:
                keys.add(key)
                yield proposal, units


def search_around(
    novelty: Novelty, drafts: Sequence[Draft], merit_of: MeritFunction, rng: np.random.Generator, rounds: int = ROUNDS
) -> Proposal | None:
    """Return the genome with the highest merit among drafts and their variants from rounds of mutation.

    Merits are computed before coordinates are snapped and repaired, because these steps are slow. Only the best of
    each round are snapped and judged again.

    Args:
        novelty: Test for new genomes.
        drafts: Candidates of the first round.
        merit_of: Function that returns the merits of candidates.
        rng: The only source of randomness.
        rounds: Number of rounds of mutation (int ≥ 0).

    Returns:
        A proposal; None if no draft is new.
    """
    space = novelty.history.space
    # The new genomes of all rounds: proposals by key, and in the same order their coordinates and merits.
    proposals: dict[str, Proposal] = {}
    units, merits = np.empty((0, len(space.genes))), np.empty(0)
    round_drafts = list(drafts)
    for number in range(rounds + 1):
        if number:  # round 0 has the drafts themselves
            parents = np.repeat(np.argsort(-merits, kind="stable")[:KEPT_PER_ROUND], VARIANTS_PER_PARENT)
            varied = _mutate_units(units[parents], space, rng, FIRST_STEP_DEVIATION / 2.0 ** (number - 1))
            # A variant has the parents of its source, which is only a proposal, without an id.
            earlier = list(proposals.values())
            pairs = zip(varied, (earlier[parent] for parent in parents), strict=True)
            round_drafts = [Draft(row, "searched", proposal.parents) for row, proposal in pairs]
        # The new genomes in the order of their merits before snapping.
        bare_merits = merit_of(move_to_cell_centres(space, np.stack([draft.units for draft in round_drafts])))
        new_by_merit = novelty.filter_new(round_drafts[index] for index in np.argsort(-bare_merits, kind="stable"))
        unseen = ((proposal, row) for proposal, row in new_by_merit if genome_key(proposal.genome) not in proposals)
        chosen = list(islice(unseen, KEPT_PER_ROUND))
        if chosen:
            chosen_units = np.stack([row for _, row in chosen])
            proposals |= {genome_key(proposal.genome): proposal for proposal, _ in chosen}
            units, merits = np.concatenate([units, chosen_units]), np.append(merits, merit_of(chosen_units))
        if not proposals:
            return None
    return list(proposals.values())[int(np.argmax(merits))]


def _mutate_units(units: np.ndarray, space: SearchSpace, rng: np.random.Generator, deviation: float) -> np.ndarray:
    """Return coordinates with each active gene mutated with probability 1 / active genes, at least one in each row.

    Args:
        units: Unit coordinates. Shape (points, genes).
        space: Space of the genes.
        rng: The only source of randomness.
        deviation: Standard deviation of a step, in unit coordinates. For a gene with few values it is at least most of
            the width of one value. A gene without order takes any value.

    Returns:
        Mutated coordinates. Shape (points, genes).
    """
    active = space.active(units)
    draws = np.where(active, rng.random(units.shape), np.inf)
    # The lowest draws of a row mutate.
    mutates = draws < 1.0 / active.sum(axis=1, keepdims=True)
    mutates[np.arange(len(units)), np.argmin(draws, axis=1)] = True
    deviations = np.array([max(deviation, CELL_SHARE / gene.size) for gene in space.genes.values()])
    moved = np.abs(units + deviations * rng.normal(size=units.shape)) % 2.0
    moved = np.where(moved > 1.0, 2.0 - moved, moved)  # reflected at the bounds
    moved = np.where(space.unordered, rng.random(units.shape), moved)
    return np.where(mutates, moved, units)


def move_to_cell_centres(space: SearchSpace, units: np.ndarray) -> np.ndarray:
    """Return unit coordinates with genes of few values moved to the middle of a value, as `encode` does for most."""
    sizes = np.array([float(gene.size) for gene in space.genes.values()])
    has_cells = sizes < CONTINUOUS_FROM
    sizes = np.where(has_cells, sizes, 1.0)
    return np.where(has_cells, (np.minimum(np.floor(units * sizes), sizes - 1) + 0.5) / sizes, units)


def drafts_near(leaders: Sequence[Individual], rng: np.random.Generator) -> Iterator[Draft]:
    """Yield drafts at random distances from each leader, an individual of the best trials, in turn."""
    for number in range(NEARBY_DRAFT_COUNT):
        leader = leaders[number % len(leaders)]
        steps = 10.0 ** rng.uniform(*LOG_DISTANCES) * rng.normal(size=len(leader.units))
        yield Draft(np.clip(leader.units + steps, 0.0, 1.0), "nearby", (leader.id,))


def climb_drafts(
    drafts: Sequence[Draft], merit_of: MeritFunction, merit_and_gradient: MeritWithGradient, space: SearchSpace
) -> list[Draft]:
    """Return the drafts with the highest merits, PARENTS_PER_ROUND of them, after a climb along the merit's gradient.

    Only genes with an order move. Each draft ends at the best point of its way.
    """
    units = np.stack([np.asarray(draft.units, dtype=np.float64) for draft in drafts])
    climbers = np.argsort(-merit_of(move_to_cell_centres(space, units)), kind="stable")[:KEPT_PER_ROUND]
    points = units[climbers]
    merit, gradient = merit_and_gradient(points)
    max_slopes_so_far, inverse_curvature = np.abs(gradient), np.zeros((*points.shape, points.shape[1]))
    max_moves = np.full(len(points), FIRST_CLIMB_MOVE)
    for _ in range(CLIMB_STEPS):
        at_bound = (points <= 0.0) & (gradient < 0.0) | (points >= 1.0) & (gradient > 0.0)
        stays = at_bound | (max_slopes_so_far < MIN_SLOPE_SHARE * max_slopes_so_far.max(axis=1, keepdims=True))
        rising = np.where(stays, 0.0, gradient)
        # The gradient times the inverse curvature, where it is known, or as long as is allowed.
        has_curvature = np.asarray(inverse_curvature.any(axis=(1, 2)))
        step = np.where(has_curvature[:, None], np.einsum("pij,pj->pi", inverse_curvature, rising), rising)
        step[rising == 0.0] = 0.0
        length = np.abs(step).max(axis=1)
        step *= np.where(has_curvature & (length <= max_moves), 1.0, max_moves / np.maximum(length, 1e-300))[:, None]
        new_points = np.clip(points + step, 0.0, 1.0)
        new_merit, new_gradient = merit_and_gradient(new_points)
        max_slopes_so_far = np.maximum(max_slopes_so_far, np.abs(new_gradient))
        _update_curvature(inverse_curvature, new_points - points, gradient - new_gradient)
        higher = new_merit > merit
        length = np.maximum(np.abs(new_points - points).max(axis=1), 1e-9)
        max_moves = np.where(higher, np.minimum(2.0 * max_moves, MAX_CLIMB_MOVE), 0.25 * length)
        points = np.where(higher[:, None], new_points, points)
        gradient, merit = np.where(higher[:, None], new_gradient, gradient), np.where(higher, new_merit, merit)
    return [Draft(row, "climbed", drafts[index].parents) for row, index in zip(points, climbers.tolist(), strict=True)]


def _update_curvature(inverse_curvature: np.ndarray, step: np.ndarray, change: np.ndarray) -> None:
    """Update inverse curvatures in place from a step, unless it shows none (Nocedal & Wright, equation 6.17).

    Args:
        inverse_curvature: Inverse of the negative second derivatives, 0 where nothing is known. Shape (points, genes,
            genes).
        step: Difference of the points. Shape (points, genes).
        change: Gradient before the step minus gradient after it. Shape (points, genes).
    """
    product = (step * change).sum(axis=1)
    shows_curvature = np.asarray(product > 1e-12 * np.sqrt((step**2).sum(axis=1) * (change**2).sum(axis=1)))
    if not shows_curvature.any():
        return
    step, change, product = step[shows_curvature], change[shows_curvature], product[shows_curvature][:, None, None]
    old = inverse_curvature[shows_curvature]
    is_first = ~np.asarray(old.any(axis=(1, 2)))
    squares = (change[is_first] ** 2).sum(axis=1)[:, None, None]
    old[is_first] = product[is_first] / squares * np.eye(step.shape[1])
    inverse_times_change = np.einsum("pij,pj->pi", old, change)
    step_by_product = step[:, :, None] * inverse_times_change[:, None, :]
    step_outer = step[:, :, None] * step[:, None, :]
    curvature_ratio = (change * inverse_times_change).sum(axis=1)[:, None, None] / product
    inverse_curvature[shows_curvature] = (
        old
        - (step_by_product + step_by_product.transpose(0, 2, 1)) / product
        + (1.0 + curvature_ratio) * step_outer / product
    )


def propose_rare_value(
    novelty: Novelty, drafts: Iterable[Draft], probability: float, rng: np.random.Generator, success: Feasibility | None
) -> Proposal | None:
    """Return a proposal with the rarest value of the genes without order, if the search has stalled.

    A gene on which other genes depend divides the space into branches, and these are tried from the start.

    The best genes under one value need not be the best under another. The models know most about the surroundings of
    the best genome, so they reject a value after two trials at a bad place. When the search has stalled, a Gaussian
    process of the rarest value's own results looks for an improvement on the best of these.

    Args:
        novelty: Test for new genomes.
        drafts: Candidates; the first ones are used, with the rare value.
        probability: Probability of such a proposal in a stalled search. Nothing is drawn from `rng` otherwise.
        rng: The only source of randomness.
        success: Probability that a training succeeds; None if none has failed.

    Returns:
        A proposal; None while results improve, if each value is sufficiently tried, or if trainings with the value
        probably fail. Also None with several objectives: their weights differ for each proposal, so no trial stays the
        best.
    """
    history = novelty.history
    if probability == 0.0 or history.best is None or len(history.objectives) > 1:
        return None
    sizes = category_counts(history.space)
    eligible = np.isin(np.arange(len(sizes)), history.space.branching) | _has_stalled(history)
    recent_features = encode_features(np.stack(history.proposed_units[-MAX_RECENT_TRIALS:]), sizes)
    # Of each value: its trials times the number of the gene's values, a random number that breaks ties, and its place.
    rows = []
    for index in np.flatnonzero(np.where(eligible, sizes, 0)).tolist():
        counts = np.bincount(recent_features[:, index].astype(int), minlength=int(sizes[index])).tolist()
        values = [(count * len(counts), rng.random(), count, index, value) for value, count in enumerate(counts)]
        behind = _values_behind(history, index, len(counts)) if index in history.space.branching else set()
        rows += [
            row for row in values if row[-1] not in behind or row[2] < BEHIND_FACTOR * math.sqrt(len(recent_features))
        ]
    if not rows:
        return None
    _, _, count, gene, value = min(rows)
    if count >= SUFFICIENT_TRIALS_FACTOR * math.sqrt(len(recent_features)) or rng.random() >= probability:
        return None
    new = list(novelty.filter_new(_drafts_with_value(history, drafts, gene, (value + 0.5) / sizes[gene], rng)))
    units = np.array([row for _, row in new]).reshape(-1, len(sizes))
    points = encode_features(units, sizes)
    kept = np.flatnonzero(points[:, gene] == value)  # a repair may have changed the value
    if not len(kept):
        return None
    merits = _merits_within_value(history, gene, value, points[kept], sizes, recent_features)
    if success is not None:
        probabilities = success.probabilities(units[kept])
        if probabilities.max() < LEAST_SUCCESS:
            return None
        merits = np.where(probabilities >= SUCCESS_SHARE * probabilities.max(), merits, -np.inf)
    return new[int(kept[np.argmax(merits)])][0]


def _values_behind(history: History, gene: int, size: int) -> set[int]:
    """Return the values of a gene whose best result is far behind all results of the best value."""
    units = np.array([history.proposed_units[trial.id][gene] for trial in history.ranking])
    values, losses = np.minimum(units * size, size - 1).astype(int), history.scaled_losses() / 2.0
    results = [losses[values == value] for value in range(size)]
    best, worst = np.min(results[values[0]]), np.max(results[values[0]])
    return {
        value
        for value, own in enumerate(results)
        if len(own) >= RESULTS_TO_JUDGE and np.min(own) - best > FAR_BEHIND * (worst - best)
    }


def _has_stalled(history: History) -> bool:
    """Return whether the latest results have not improved the best loss, or by less than MIN_PROGRESS_SHARE."""
    # Trials before this one have more than that many results after them.
    first_late = len(history.trials) - 1 - max(RESULTS_UNTIL_STALLED, len(history.pending))
    early_ranks = (rank for rank, trial in enumerate(history.ranking) if trial.reported_order < first_late)
    best_early_rank = next(early_ranks, None)
    if not best_early_rank:  # the best of all trials is early, or none is
        return best_early_rank == 0
    halved_losses = history.scaled_losses() / 2.0  # the difference of two losses themselves may overflow
    best, best_early = halved_losses[0], halved_losses[best_early_rank]
    if np.isnan(best_early) or np.isnan(best):
        return False
    return bool(best_early - best < MIN_PROGRESS_SHARE * (np.nanmedian(halved_losses) - best))


def _drafts_with_value(
    history: History, drafts: Iterable[Draft], gene: int, unit_coordinate: float, rng: np.random.Generator
) -> Iterator[Draft]:
    """Yield drafts with a unit coordinate of a gene: variants of its best trials, changed drafts, random ones."""
    units = history.proposed_units
    ids = [trial.id for trial in history.ranking[:MAX_RECENT_TRIALS]]
    ids = [id for id in ids if abs(units[id][gene] - unit_coordinate) < SMALLEST_DIFFERENCE][:RARE_PARENTS]
    if ids:
        repeated = np.stack([units[id] for id in ids]).repeat(VARIANTS_PER_PARENT, 0)
        for index, row in enumerate(_mutate_units(repeated, history.space, rng, FIRST_STEP_DEVIATION)):
            yield Draft(row, "chance", (ids[index // VARIANTS_PER_PARENT],))
    for draft in islice(drafts, RARE_BRED_DRAFTS):
        row = np.array(draft.units, dtype=np.float64)
        row[gene] = unit_coordinate
        yield Draft(row, "chance", draft.parents)
    for row in rng.random((RARE_RANDOM_DRAFTS, len(history.space.genes))):
        row[gene] = unit_coordinate
        yield Draft(row, "chance")


def _merits_within_value(
    history: History, gene: int, value: int, points: np.ndarray, sizes: np.ndarray, recent_features: np.ndarray
) -> np.ndarray:
    """Return the merits of candidates from the results of their value alone. Shape (candidates,).

    With fewer than two results of the value, the merit is the squared distance from the nearest trial with the value,
    or from the nearest of all trials if there are none.

    Args:
        history: History of the run.
        gene: Index of the gene.
        value: Index of the value, which all candidates have.
        points: Features of the candidates. Shape (candidates, genes).
        sizes: See `category_counts`.
        recent_features: Features of the latest trials. Shape (trials, genes).
    """

    def features_with_value(trials: Sequence[Trial] | Sequence[Candidate]) -> np.ndarray:
        features = encode_features(units_of(history, trials), sizes)
        return np.asarray(features[features[:, gene] == value])

    ranked_features = features_with_value(history.ranking[:MAX_RECENT_TRIALS])[:MAX_FIT_POINTS]
    failed = features_with_value(history.failed[-MAX_RECENT_TRIALS:])[-MAX_FIT_POINTS:]
    pending = features_with_value(history.pending[-MAX_RECENT_TRIALS:])
    results = np.concatenate([ranked_features, failed])
    if len(results) < 2:
        known_features = np.concatenate([results, pending])
        differences = np.abs(points[:, None] - (known_features if len(known_features) else recent_features)[None])
        differences[:, :, sizes > 0] = differences[:, :, sizes > 0] > 0
        return np.asarray((differences**2).sum(axis=2).min(axis=1))
    failure_rank = len(ranked_features) + (len(failed) + 1) / 2  # failures share the mean of the last ranks
    ranks = np.append(np.arange(1.0, len(ranked_features) + 1), np.full(len(failed), failure_rank))
    scores = normal_scores(ranks, len(ranks))
    process = GaussianProcess.fit(results, scores, sizes > 0)
    mean, variance = (process.with_pending(pending) if len(pending) else process).predict(points)
    return log_expected_improvement(mean, np.sqrt(variance), float(scores.max()))
