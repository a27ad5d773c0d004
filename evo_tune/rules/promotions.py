"""Promotions to a larger budget: asynchronous successive halving that promotes more genomes if early results mislead.

`Rungs` holds the genomes at each rung. It is kept by `rules/ruled.py`, which updates it with each result. Two
rules choose the genome to promote next. Both promote so many that the eventual best one is probably among them:

- `Rungs.next_promotion` compares genomes by their results at a rung, for any strategy.
- `next_model_promotion` compares them by the strategy's own model of (genome, share of a training), for strategies that
  declare `scores`. The model also says how far early results can be trusted.

`fidelity` says how many genomes that takes. Nothing here proposes a new genome.

Sources: Swersky, Snoek & Adams, Freeze-thaw Bayesian optimization (2014); Wistuba, Kadra & Grabocka, Supervising the
multi-fidelity race of hyperparameter configurations (NeurIPS 2022), who also learn a model but use another rule.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from evo_tune.genome.history import GrowingArray, History
from evo_tune.genome.trial import PROMOTION, Proposal
from evo_tune.genome.view import GenomeTrials, genome_table
from evo_tune.plugins.strategy import GenomeResults, Prospects, Strategy
from evo_tune.rules.fidelity import PROMOTION_MARGIN, rank_trust, share_to_keep

# Number of fully trained leaders whose early ranks set the minimum promoted share.
LEADER_COUNT = 3

# Minimum share promoted by a model, as a fraction of the share that halving promotes, budget / next budget.
MIN_MODEL_SHARE = 0.6

# Maximum number of genomes at a rung for which the model predicts; it bounds the cost of a proposal.
MAX_MODEL_GENOMES = 96


class Rungs:
    """The genomes with a value at each rung, and their promotions. The number of a genome counts first results, from 0.

    Args:
        budgets: Budgets of the rungs, increasing to 1.
        objectives: Number of objectives.
    """

    def __init__(self, budgets: Sequence[float], objectives: int) -> None:
        self.budgets, self._objectives = tuple(budgets), objectives
        self.genomes: list[GenomeTrials] = []
        self._number_by_key: dict[str, int] = {}
        # Columns by number of the genome, for each budget; losses are NaN without a value.
        self._first_ids = GrowingArray(0.0)
        self._losses = {budget: GrowingArray(*[math.nan] * objectives) for budget in self.budgets}
        self._violation = {budget: GrowingArray(0.0) for budget in self.budgets}
        self._dominator_counts = {budget: GrowingArray(0.0) for budget in self.budgets}
        self._order_by_budget: dict[float, np.ndarray] = {}

    def update(self, genome: GenomeTrials) -> None:
        """Update a genome with all of its results."""
        number = self._number_by_key.setdefault(genome.key, len(self.genomes))
        if number == len(self.genomes):
            self.genomes.append(genome)
            self._first_ids.set(number, genome.first_candidate.id)
        for budget in self.budgets:
            trial = genome.trial_by_budget.get(budget)
            if trial is not None:
                losses = np.array(trial.losses or [math.nan] * self._objectives)
                if self._objectives > 1:
                    self._update_dominator_counts(budget, number, losses)
                self._losses[budget].set(number, losses)
                self._violation[budget].set(number, trial.violation)
        self._order_by_budget.clear()

    def _update_dominator_counts(self, budget: float, number: int, new_losses: np.ndarray) -> None:
        """Update the number of genomes that dominate each (Fonseca & Fleming, 1993) before losses of one change.

        Args:
            budget: Budget of the rung.
            number: Number of the genome.
            new_losses: New losses, NaN without a value. Shape (objectives,).
        """
        losses = self._losses[budget].first_rows(len(self.genomes))
        dominator_counts = self._dominator_counts[budget].first_column(len(self.genomes))
        for values, change in ((losses[number].copy(), -1.0), (new_losses, 1.0)):  # NaN dominates nothing
            dominator_counts[(losses >= values).all(axis=1) & (losses > values).any(axis=1)] += change
        dominator_counts[number] = ((losses <= new_losses).all(axis=1) & (losses < new_losses).any(axis=1)).sum()

    def numbers_best_first(self, budget: float) -> np.ndarray:
        """Return the numbers of the genomes with a value at a rung, shape (genomes,).

        They are ordered by violation, then by loss or number of dominating genomes, then by age.
        """
        if budget not in self._order_by_budget:
            count = len(self.genomes)
            numbers = np.flatnonzero(~np.isnan(self._losses[budget].first_column(count)))
            score = (self._dominator_counts if self._objectives > 1 else self._losses)[budget].first_column(count)
            # Ids and violations are nearly sorted already, so two of the three sorts are cheap.
            keys = self._first_ids.first_column(count), score, self._violation[budget].first_column(count)
            self._order_by_budget[budget] = numbers[np.lexsort([key[numbers] for key in keys])]
        return self._order_by_budget[budget]

    def next_promotion(self, pending: set[tuple[str, float]]) -> Proposal | None:
        """Return the promotion that is due, or None; those of audits come before it.

        The highest rung comes first. The best genomes at a rung are promoted. Their share is the ratio
        of the budgets, or more if early results predict full results poorly.

        Args:
            pending: Keys and budgets of pending promotions.
        """
        for budget, next_budget in reversed(list(pairwise(self.budgets))):
            numbers = self.numbers_best_first(budget)
            count = math.floor(max(budget / next_budget, self._share_to_promote(budget)) * len(numbers))
            waiting = self.unpromoted_genomes(numbers[:count], next_budget, pending)
            if waiting:
                return promotion_of(self.genomes[waiting[0]], next_budget)
        return None

    def next_audit(self, pending: set[tuple[str, float]], audits: Iterable[str]) -> Proposal | None:
        """Return the promotion of an audit that is due, or None, the oldest first.

        Args:
            pending: Keys and budgets of pending promotions.
            audits: Keys of the genomes that are always trained in full, to check the early results.
        """
        audit_numbers = [self._number_by_key[key] for key in audits if key in self._number_by_key]
        for budget, next_budget in pairwise(self.budgets):
            numbers = np.intersect1d(audit_numbers, self.numbers_best_first(budget)).astype(int)
            waiting = self.unpromoted_genomes(numbers, next_budget, pending)
            if waiting:
                return promotion_of(self.genomes[waiting[0]], next_budget)
        return None

    def mean_genome_cost(self) -> float:
        """Return the mean cost of a genome so far, promotions included, in full trainings."""
        count = len(self.numbers_best_first(self.budgets[0]))
        if len(self.budgets) == 1 or not count:
            return 1.0
        steps = pairwise((0.0, *self.budgets))  # each is paid by the genomes that reached its end
        return sum((high - low) * len(self.numbers_best_first(high)) for low, high in steps) / count

    def unpromoted_genomes(self, numbers: np.ndarray, budget: float, pending: set[tuple[str, float]]) -> list[int]:
        """Return the numbers of those of some genomes without a result or a pending promotion at a budget."""
        genomes = ((number, self.genomes[number]) for number in numbers.tolist())
        waiting = ((number, genome) for number, genome in genomes if budget not in genome.trial_by_budget)
        return [number for number, genome in waiting if (genome.key, budget) not in pending]

    def _share_to_promote(self, budget: float) -> float:
        """Return the share of the genomes at a rung to promote, measured on the fully trained genomes.

        The share includes at least the ranks that the present leaders had at this rung.
        """
        early_numbers, full_numbers = self.numbers_best_first(budget), self.numbers_best_first(1.0)
        early_rank_by_number = np.zeros(len(self.genomes), dtype=int)  # 0 without a result at the rung
        early_rank_by_number[early_numbers] = np.arange(1, len(early_numbers) + 1)
        # Early ranks of the fully trained genomes, best full result first.
        early_ranks = early_rank_by_number[full_numbers]
        early_ranks = early_ranks[early_ranks > 0]
        trust = rank_trust(early_ranks, np.arange(len(early_ranks)))
        worst_leader_rank = int(early_ranks[:LEADER_COUNT].max(initial=0))
        count = max(1, len(early_numbers))
        return max(share_to_keep(trust, count, PROMOTION_MARGIN), worst_leader_rank / count)


def promotion_of(genome: GenomeTrials, budget: float) -> Proposal:
    """Return the proposal to continue the latest training of a genome to a budget."""
    latest = genome.latest_trial
    return Proposal(latest.genome, PROMOTION, latest.candidate.parents, budget, resumes=latest.id)


def fit_prospects(history: History, rungs: Sequence[float], strategy: Strategy) -> Prospects | None:
    """Return the strategy's model of a run, or None without one; fitted at most once per result."""
    # A new result makes the model outdated, so each step of the fold starts with an empty cache.
    cache: dict[str, Prospects | None] = history.fold((__name__, strategy, tuple(rungs)), dict, lambda cache, trial: {})
    if "prospects" not in cache:
        results = partial_results(history, rungs)
        cache["prospects"] = None if results is None else strategy.learn(results, history.space)
    return cache["prospects"]


def partial_results(history: History, rungs: Sequence[float]) -> GenomeResults | None:
    """Return the ranks of a run's genomes at each rung, in the order of `genome_table`. The run has one objective.

    Returns:
        The ranks; None before a genome was trained in full.
    """
    table = genome_table(history)
    count = len(table.row_by_key)
    losses = np.concatenate([table.losses(count, rung) for rung in rungs], axis=1)
    not_failed = table.not_failed.first_column(count) > 0.0
    if not np.isfinite(losses[not_failed, -1]).any():
        return None
    ranked = np.where(np.isnan(losses), math.nan, table.ranks(count, rungs))
    # Failures share the mean of the last ranks.
    ranked[~not_failed, -1] = not_failed.sum() + ((~not_failed).sum() + 1) / 2
    return GenomeResults(tuple(rungs), ranked, table.first_ids.first_column(count), history.proposed_units)


def next_model_promotion(rungs: Rungs, prospects: Prospects, pending: set[tuple[str, float]]) -> Proposal | None:
    """Return the promotion that is due, or None: the most promising genome at the highest rung with one.

    Args:
        rungs: Genomes at each rung.
        prospects: Predictions of the strategy's model for these genomes.
        pending: Keys and budgets of pending promotions.
    """
    full_numbers = rungs.numbers_best_first(1.0)
    for budget, next_budget in reversed(list(pairwise(rungs.budgets))):
        best_first = numbers = rungs.numbers_best_first(budget)
        # The place here, from 0, of the genome that leads after full training; empty without a result of it.
        leader_places = np.flatnonzero(numbers == full_numbers[0]) if len(full_numbers) else np.empty(0)
        leader_share = float((leader_places[0] + 1) / len(numbers)) if len(leader_places) else 0.0
        trusted_share = share_to_keep(prospects.trust(budget), max(1, len(numbers)), PROMOTION_MARGIN)
        share = max(MIN_MODEL_SHARE * budget / next_budget, trusted_share, leader_share)
        if len(numbers) > MAX_MODEL_GENOMES:  # a sample spread evenly over their ages
            numbers = np.sort(numbers)[np.linspace(0, len(numbers) - 1, MAX_MODEL_GENOMES).astype(int)]
        count = math.floor(share * len(numbers))
        waiting = rungs.unpromoted_genomes(best_first, next_budget, set())[:MAX_MODEL_GENOMES]
        waiting = [number for number in waiting if (rungs.genomes[number].key, next_budget) not in pending]
        if not count or not waiting:
            continue
        waiting_numbers = np.array(waiting)
        all_numbers = np.union1d(numbers, waiting_numbers)  # each once, so that a genome's two values are bit-identical
        worth = prospects.worth(all_numbers)  # a genome's number is its row in `genome_table`
        lowest_promoted_worth = np.sort(worth[np.searchsorted(all_numbers, numbers)])[-count]
        waiting_worth = worth[np.searchsorted(all_numbers, waiting_numbers)]
        if waiting_worth.max() >= lowest_promoted_worth:
            return promotion_of(rungs.genomes[waiting[int(np.argmax(waiting_worth))]], next_budget)
    return None
