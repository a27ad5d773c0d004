"""Promotions to a larger budget: asynchronous successive halving, with a guard.

`Rungs` holds the genomes at each rung. It is the state of a fold in `ruled`, which updates it with each result. Two
rules choose the genome to promote next. Both promote so many that the eventual best one is probably among them:

- `Rungs.next_promotion` compares genomes by their results at a rung, for any strategy.
- `next_model_promotion` compares them by the strategy's own model of (genome, share of a training), for strategies that
  declare `scores`. The model also says how far early results can be trusted.

`fidelity` says how many genomes that takes. Nothing here proposes a new genome.

Sources: Swersky, Snoek & Adams, Freeze-thaw Bayesian optimization (2014); Wistuba, Kadra & Grabocka, Supervising the
multi-fidelity race of hyperparameter configurations (NeurIPS 2022), who also learn a model but use another rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evo_tune.genome.history import GrowingArray, History
from evo_tune.genome.importance import ranks
from evo_tune.genome.trial import PROMOTION, Proposal, Trial
from evo_tune.genome.view import GenomeTrials, genome_table
from evo_tune.plugins.strategy import GenomeResults, Prospects, Strategy
from evo_tune.rules.fidelity import PROMOTION_MARGIN, rank_trust, share_to_keep

LEADER_COUNT = 3
"""Number of fully trained leaders whose early ranks set the minimum promoted share."""

MIN_MODEL_SHARE = 0.6
"""Minimum share promoted by a model, as a fraction of the budgets' ratio: it may be more selective than halving."""

MAX_MODEL_GENOMES = 96
"""Maximum number of genomes at a rung for which the model predicts; it bounds the cost of a proposal."""


class Rungs:
    """The genomes with a value at each rung, and their promotions. Genomes are numbered by their first results.

    Args:
        budgets: Budgets of the rungs, increasing to 1.
        objectives: Number of objectives.
    """

    def __init__(self, budgets: Sequence[float], objectives: int) -> None:
        self.budgets = tuple(budgets)
        self._rung_by_budget = {budget: _Rung(budget, objectives) for budget in self.budgets}
        self._number_by_key: dict[str, int] = {}

    def update(self, genome: GenomeTrials) -> None:
        """Update a genome with all of its results."""
        number = self._number_by_key.setdefault(genome.key, len(self._number_by_key))
        for budget, next_budget in pairwise((*self.budgets, math.inf)):  # the last rung has no next one
            self._rung_by_budget[budget].update(genome, number, next_budget)

    def next_promotion(self, pending: set[tuple[str, float]], audits: Iterable[str]) -> Proposal | None:
        """Return the promotion that is due, or None.

        Audits come first, then the highest rung. The best genomes at a rung are promoted. Their share is the ratio
        of the budgets, or more if early results predict full results poorly.

        Args:
            pending: Keys and budgets of pending promotions.
            audits: Keys of the genomes that are always trained in full, to check the early results.
        """
        audit = self.next_audit(pending, audits)
        if audit is not None:
            return audit
        for budget, next_budget in reversed(list(pairwise(self.budgets))):
            rung = self._rung_by_budget[budget]
            rows = rung.rows_best_first()
            count = math.floor(max(budget / next_budget, self._share(budget)) * len(rows))
            for genome in rung.not_promoted(rows[:count]):
                if (genome.key, next_budget) not in pending:
                    return promotion_of(genome, next_budget)
        return None

    def next_audit(self, pending: set[tuple[str, float]], audits: Iterable[str]) -> Proposal | None:
        """Return the promotion of an audit that is due, or None, the oldest first; see `next_promotion`."""
        for budget, next_budget in pairwise(self.budgets):
            rung = self._rung_by_budget[budget]
            keys = sorted((key for key in audits if key in rung.rows), key=self._number_by_key.__getitem__)
            for genome in (rung.genomes[rung.rows[key]] for key in keys):
                if next_budget not in genome.trial_by_budget and (genome.key, next_budget) not in pending:
                    return promotion_of(genome, next_budget)
        return None

    def cost(self) -> float:
        """Return the mean cost of a genome so far, promotions included, in full trainings."""
        count = len(self._rung_by_budget[self.budgets[0]].genomes)
        if len(self.budgets) == 1 or not count:
            return 1.0
        steps = pairwise((0.0, *self.budgets))
        return sum((high - low) * len(self._rung_by_budget[high].genomes) for low, high in steps) / count

    def number(self, genome: GenomeTrials) -> int:
        """Return the number of a genome."""
        return self._number_by_key[genome.key]

    def numbers_best_first(self, budget: float) -> np.ndarray:
        """Return the numbers of the genomes with a value at a rung, best first. Shape (genomes,)."""
        return self._rung_by_budget[budget].numbers_best_first()

    def not_promoted(self, budget: float, most: int) -> list[GenomeTrials]:
        """Return at most `most` genomes that were not trained beyond a rung, best first."""
        rung = self._rung_by_budget[budget]
        return rung.not_promoted(rung.rows_best_first())[:most]

    def _share(self, budget: float) -> float:
        """Return the share of the genomes at a rung to promote, measured on the fully trained genomes.

        The share includes at least the ranks that the present leaders had at this rung.
        """
        early_numbers, full_numbers = self.numbers_best_first(budget), self.numbers_best_first(1.0)
        early_rank_by_number = np.zeros(len(self._number_by_key), dtype=int)  # 0 without a result at the rung
        early_rank_by_number[early_numbers] = np.arange(1, len(early_numbers) + 1)
        early_ranks = early_rank_by_number[full_numbers]  # in the order of the full results
        early_ranks = early_ranks[early_ranks > 0]
        trust = rank_trust(early_ranks, np.arange(len(early_ranks)))
        worst_leader_rank, count = int(early_ranks[:LEADER_COUNT].max(initial=0)), max(1, len(early_numbers))
        return max(share_to_keep(trust, count, PROMOTION_MARGIN), worst_leader_rank / count)


class _Rung:
    """Ranking of the genomes at one rung: by violation, then by loss or number of dominating genomes, then by age.

    Args:
        budget: Budget of the rung.
        objectives: Number of objectives.
    """

    def __init__(self, budget: float, objectives: int) -> None:
        self._budget, self._multi_objective = budget, objectives > 1
        self._trials: dict[str, Trial] = {}
        self.genomes: list[GenomeTrials] = []
        self.rows: dict[str, int] = {}
        # Columns by row of the genome.
        self._losses, self._dominating = GrowingArray(*[0.0] * objectives), GrowingArray(0.0)
        self._violation, self._first_ids, self._numbers = GrowingArray(0.0), GrowingArray(0.0), GrowingArray(0.0)
        self._awaits_promotion = GrowingArray(0.0)  # 1 without a result at the next rung, else 0
        self._order: np.ndarray | None = None

    def update(self, genome: GenomeTrials, number: int, next_budget: float) -> None:
        """Update a genome with its results.

        Args:
            genome: The genome with all of its results.
            number: Number of the genome, in the order of first results.
            next_budget: Budget of the next rung.
        """
        trial, previous = genome.trial_by_budget.get(self._budget), self._trials.get(genome.key)
        if trial is None:
            return
        self._trials[genome.key] = trial
        if previous is not None and previous is not trial and previous.ok:  # trained again
            self._remove(genome.key)
        if trial.ok and genome.key not in self.rows:
            self._add(genome, trial, number)
        if genome.key in self.rows:
            self._awaits_promotion.set(self.rows[genome.key], next_budget not in genome.trial_by_budget)

    def _add(self, genome: GenomeTrials, trial: Trial, number: int) -> None:
        row = len(self.genomes)
        self.rows[genome.key] = row
        self.genomes.append(genome)
        assert trial.losses is not None
        new, existing = np.array(trial.losses), self._losses.get(row)
        if self._multi_objective:  # Fonseca & Fleming, 1993
            dominated = (existing >= new).all(axis=1) & (existing > new).any(axis=1)
            self._dominating.column(row)[dominated] += 1.0
            self._dominating.set(row, ((existing <= new).all(axis=1) & (existing < new).any(axis=1)).sum())
        self._losses.set(row, new)
        self._violation.set(row, trial.violation)
        self._first_ids.set(row, genome.first_candidate.id)
        self._numbers.set(row, number)
        self._order = None

    def _remove(self, key: str) -> None:
        """Rebuild the ranking without one genome, whose repeated training replaces its value. This is rare."""
        genomes, count = self.genomes, len(self.genomes)
        numbers, awaits = self._numbers.column(count).copy(), self._awaits_promotion.column(count).copy()
        self.genomes, self.rows = [], {}
        self._dominating = GrowingArray(0.0)  # it accumulates; the other columns are overwritten
        for genome, number, waits in zip(genomes, numbers.tolist(), awaits.tolist(), strict=True):
            if genome.key != key:
                self._add(genome, self._trials[genome.key], int(number))
                self._awaits_promotion.set(self.rows[genome.key], waits)
        self._order = None

    def rows_best_first(self) -> np.ndarray:
        """Return the rows of the genomes, best first. Shape (genomes,)."""
        if self._order is None:
            count = len(self.genomes)
            score = (self._dominating if self._multi_objective else self._losses).column(count)
            # Ids and violations are nearly sorted already, so two of the three sorts are cheap.
            self._order = np.lexsort((self._first_ids.column(count), score, self._violation.column(count)))
        return self._order

    def numbers_best_first(self) -> np.ndarray:
        """Return the numbers of the genomes, best first. Shape (genomes,)."""
        return np.asarray(self._numbers.column(len(self.genomes))[self.rows_best_first()], dtype=int)

    def not_promoted(self, rows: np.ndarray) -> list[GenomeTrials]:
        """Return those of some genomes that have no result at the next rung."""
        waits = self._awaits_promotion.column(len(self.genomes))[rows] > 0.0
        return [self.genomes[row] for row in rows[waits].tolist()]


def promotion_of(genome: GenomeTrials, budget: float) -> Proposal:
    """Return the proposal to continue the latest training of a genome to a budget."""
    latest = genome.latest_trial
    return Proposal(latest.genome, PROMOTION, latest.candidate.parents, budget, resumes=latest.id)


@dataclass
class _FittedModel:
    """The strategy's model of the results reported so far, fitted on first use; the state of a fold."""

    is_fitted: bool = False
    prospects: Prospects | None = None


def fit_prospects(history: History, rungs: Sequence[float], strategy: Strategy) -> Prospects | None:
    """Return the strategy's model of a run, or None without one; fitted at most once per result."""
    # A new result makes the model outdated, so each step of the fold starts anew.
    model = history.fold((__name__, strategy, tuple(rungs)), _FittedModel, lambda model, trial: _FittedModel())
    if not model.is_fitted:
        results, model.is_fitted = partial_results(history, rungs), True
        model.prospects = None if results is None else strategy.learn(results, history.space)
    return model.prospects


def partial_results(history: History, rungs: Sequence[float]) -> GenomeResults | None:
    """Return the ranks of a run's genomes at each rung, in the order of `genome_table`. The run has one objective.

    Returns:
        The ranks; None before a genome was trained in full.
    """
    table = genome_table(history)
    count = len(table.rows)
    losses = np.concatenate([table.losses(count, rung) for rung in rungs], axis=1)
    alive, violation = table.alive.column(count) > 0.0, table.violation.column(count)
    if not np.isfinite(losses[alive, -1]).any():
        return None
    feasible, infeasible = np.flatnonzero(alive & (violation == 0.0)), np.flatnonzero(alive & (violation > 0.0))
    ranked = np.full(losses.shape, math.nan)
    if len(feasible):
        ranked[feasible] = np.stack(table.ranks_by_rung(losses[feasible], 0), axis=1)
    ranked[infeasible] = (len(feasible) + ranks(violation[infeasible]))[:, None]
    ranked[np.isnan(losses)] = math.nan
    ranked[~alive] = math.nan
    ranked[~alive, -1] = alive.sum() + ((~alive).sum() + 1) / 2  # failures share the mean of the last ranks
    return GenomeResults(tuple(rungs), ranked, table.first_ids.column(count), history.proposed_units)


def next_model_promotion(rungs: Rungs, prospects: Prospects, pending: set[tuple[str, float]]) -> Proposal | None:
    """Return the promotion that is due, or None: the most promising genome at the highest rung with one.

    Args:
        rungs: Genomes at each rung.
        prospects: Predictions of the strategy's model for these genomes.
        pending: Keys and budgets of pending promotions.
    """
    full_numbers = rungs.numbers_best_first(1.0)
    for budget, next_budget in reversed(list(pairwise(rungs.budgets))):
        numbers = rungs.numbers_best_first(budget)
        # The rank here of the genome that leads after full training, as a share of the genomes.
        leader_rank = np.flatnonzero(numbers == full_numbers[0]) if len(full_numbers) else np.empty(0)
        leader_share = float((leader_rank[0] + 1) / len(numbers)) if len(leader_rank) else 0.0
        trusted_share = share_to_keep(prospects.trust(budget), max(1, len(numbers)), PROMOTION_MARGIN)
        share = max(MIN_MODEL_SHARE * budget / next_budget, trusted_share, leader_share)
        if len(numbers) > MAX_MODEL_GENOMES:
            numbers = np.sort(numbers)[np.linspace(0, len(numbers) - 1, MAX_MODEL_GENOMES).astype(int)]
        count = math.floor(share * len(numbers))
        waiting = rungs.not_promoted(budget, MAX_MODEL_GENOMES)
        waiting = [genome for genome in waiting if (genome.key, next_budget) not in pending]
        if not count or not waiting:
            continue
        waiting_numbers = np.array([rungs.number(genome) for genome in waiting])
        all_numbers = np.union1d(numbers, waiting_numbers)  # each once, so that a genome's two values are bit-identical
        worth = prospects.worth(all_numbers)
        bar = np.sort(worth[np.searchsorted(all_numbers, numbers)])[-count]
        waiting_worth = worth[np.searchsorted(all_numbers, waiting_numbers)]
        if waiting_worth.max() >= bar:
            return promotion_of(waiting[int(np.argmax(waiting_worth))], next_budget)
    return None
