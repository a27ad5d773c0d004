"""The trials of each genome, and the history that a strategy sees if genomes may have several trials.

A run with rungs, pruning, extra seeds or constraints may train a genome several times. Its losses at different budgets,
or of pruned trials, have no common scale. So a strategy does not see the trials of the run, but a `RankedHistory`: each
genome as one full training whose loss is its rank. `scaled_losses` returns the losses that do have one scale.

`trials_by_genome` and `genome_table` keep the data of the genomes between proposals, because each proposal makes a new
`RankedHistory` and reads little of it. Nothing here promotes, prunes or proposes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from evo_tune.genome.history import GrowingArray, History, LazySequence, RankingTable, RunHistory
from evo_tune.genome.trial import Candidate, Constraint, Objective, Trial
from evo_tune.genome.values import Genome, genome_key, mean_of, ranks


@dataclass
class GenomeTrials:
    """A genome and its reported results.

    Args:
        key: Identity of the genome.
        first_candidate: First candidate that was proposed with it.
        trial_by_budget: Its trials with the run's first seed, by budget.
        extra_seed_trials: Its trials with extra seeds.
        curve: Points of its learning curve, from all of its results: (fraction, metrics).
    """

    key: str
    first_candidate: Candidate
    trial_by_budget: dict[float, Trial] = field(default_factory=dict)
    extra_seed_trials: list[Trial] = field(default_factory=list)
    curve: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @property
    def latest_trial(self) -> Trial:
        """Its trial with the largest budget and the first seed."""
        return self.trial_by_budget[max(self.trial_by_budget)]

    @property
    def failed(self) -> bool:
        """Whether its latest trial has no losses and was not pruned."""
        return not self.latest_trial.ok and self.latest_trial.outcome.status != "pruned"

    def losses(self, budget: float) -> tuple[float, ...] | None:
        """Return its losses at a budget; at the full budget the mean over seeds.

        Returns:
            None if it has none; one infinity if it was pruned: it is worse than others by an unknown amount.
        """
        trial = self.trial_by_budget.get(budget)
        if trial is None or (trial.losses is None and trial.outcome.status != "pruned"):
            return None
        if trial.losses is None:
            return (math.inf,)
        if budget < 1.0 or not self.extra_seed_trials:
            return trial.losses
        seeds = [seed_trial.losses for seed_trial in (trial, *self.extra_seed_trials) if seed_trial.losses]
        return tuple(map(float, mean_of(seeds)))


def average_trials(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> Trial:
    """Return the first of a genome's trials, with the mean of each metric that all of them have; all must be ok."""
    first = trials[0]
    if len(trials) == 1:
        return first
    names = [name for name in first.outcome.metrics if all(name in trial.outcome.metrics for trial in trials)]
    metrics = {name: float(mean_of([trial.outcome.metrics[name] for trial in trials])) for name in names}
    outcome = replace(first.outcome, metrics=metrics)
    return Trial.of(first.candidate, outcome, first.reported_order, objectives, constraints)


def trials_by_genome(history: History) -> dict[str, GenomeTrials]:
    """Return every genome with a reported result by key, in the order of the first reports."""

    def step(genomes: dict[str, GenomeTrials], trial: Trial) -> dict[str, GenomeTrials]:
        key = genome_key(trial.genome)
        genome = genomes.setdefault(key, GenomeTrials(key, trial.candidate))
        if trial.candidate.extra_seed:
            genome.extra_seed_trials.append(trial)
        else:
            genome.trial_by_budget[trial.candidate.budget] = trial
            genome.curve.extend(trial.outcome.curve)
        return genomes

    return history.fold(__name__, dict, step)


def ranks_by_rung(losses_by_rung: Sequence[np.ndarray] | np.ndarray) -> Iterator[np.ndarray]:
    """Yield, for each rung, the ranks of genomes by the results up to it, shape (genomes,); see `GenomeTable.ranks`.

    Args:
        losses_by_rung: Losses at each rung, lowest first, NaN without a result, each of shape (genomes,).
    """
    ranked = np.ones(len(losses_by_rung[0]))
    for number, losses in enumerate(losses_by_rung):
        reached = np.flatnonzero(~np.isnan(losses))
        if len(reached):
            order = np.arange(1.0, len(reached) + 1)
            ranked[reached] = np.interp(ranks(losses[reached]), order, _ranks_of(ranked, reached) if number else order)
        yield ranked.copy()


def _ranks_of(ranked: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the ranks of a group, ascending, shape (group,); equal ranks are spread over the ranks they share."""
    group_ranks = np.sort(ranked[group])
    if (group_ranks[1:] != group_ranks[:-1]).all():
        return np.asarray(group_ranks)
    values, counts = np.unique(group_ranks, return_counts=True)
    shared = set(values[counts > 1].tolist())
    ascending = np.sort(ranked)
    for rank in values.tolist():
        equal = group_ranks == rank
        if rank in shared and (count := int(equal.sum())) > 1:
            reach = (int(np.searchsorted(ascending, rank, "right") - np.searchsorted(ascending, rank)) - 1) / 2
            group_ranks[equal] = np.linspace(rank - reach, rank + reach, count)
            shared.update(group_ranks[equal].tolist())  # one of them may equal another rank
    return np.asarray(np.sort(group_ranks))


@dataclass
class GenomeTable:
    """The reported results as arrays with one row per genome; the state of a fold over the trials of a run.

    Args:
        objectives: Number of objectives.
        constraints: Constraints of the run.
        excesses: Amount beyond the bound of each constraint, by the genome's latest trial.
        row_by_key: Row of each genome by key, in the order of first reports.
        not_failed: 1 if the genome's latest trial has losses or was pruned, else 0.
        violation: Amount by which the genome breaks the constraints.
        first_ids: Id of the first candidate of each genome.
    """

    objectives: int
    constraints: tuple[Constraint, ...]
    excesses: GrowingArray
    row_by_key: dict[str, int] = field(default_factory=dict)
    not_failed: GrowingArray = field(default_factory=lambda: GrowingArray(0.0))
    violation: GrowingArray = field(default_factory=lambda: GrowingArray(0.0))
    first_ids: GrowingArray = field(default_factory=lambda: GrowingArray(0.0))
    _losses: dict[float, GrowingArray] = field(default_factory=dict)

    def update(self, genome: GenomeTrials) -> None:
        """Update the row of a genome from all of its results."""
        row = self.row_by_key.setdefault(genome.key, len(self.row_by_key))
        latest = genome.latest_trial
        self.first_ids.set(row, genome.first_candidate.id)
        self.not_failed.set(row, not genome.failed)
        self.violation.set(row, latest.violation)
        self.excesses.set(row, [constraint.excess(latest.outcome.metrics) for constraint in self.constraints])
        for budget in genome.trial_by_budget:
            losses = genome.losses(budget)
            if losses is not None and len(losses) < self.objectives:  # the one infinity of a pruned trial
                losses = losses * self.objectives
            missing = [math.nan] * self.objectives
            self._losses.setdefault(budget, GrowingArray(*missing)).set(row, missing if losses is None else losses)

    def losses(self, count: int, budget: float) -> np.ndarray:
        """Return the losses of the first `count` genomes at a budget, NaN if it has none. Shape (count, objectives)."""
        return self._losses.get(budget, GrowingArray(*[math.nan] * self.objectives)).first_rows(count)

    def ranks(self, count: int, rungs: Sequence[float], objective: int = 0, constrained: bool = True) -> np.ndarray:
        """Return the rank of each genome by the results up to each rung, from 1, shape (genomes, rungs).

        The results of the lowest rung order all genomes. Genomes that reached the next rung keep their ranks as a
        group, and its results order them within the group. This is repeated up to the full training run. So two
        genomes are always compared at a budget that both had. A result at a higher rung overrules one at a lower rung.
        No genome falls only because another one was trained longer.

        Genomes that break a constraint follow all others, ordered by violation (Deb, 2000). NaN for failed genomes.

        Args:
            count: Number of genomes, the first ones reported.
            rungs: Budgets of the run, increasing to 1.
            objective: Index of the objective.
            constrained: Whether genomes that break a constraint follow all others.
        """
        not_failed = self.not_failed.first_column(count) > 0.0
        violation = self.violation.first_column(count) if constrained else np.zeros(count)
        feasible, infeasible = (np.flatnonzero(not_failed & met) for met in (violation == 0.0, violation > 0.0))
        ranked = np.full((count, len(rungs)), math.nan)
        ranked[infeasible] = (len(feasible) + ranks(violation[infeasible]))[:, None]
        if len(feasible):
            losses = np.stack([self.losses(count, rung)[feasible, objective] for rung in rungs], axis=1)
            ranked[feasible] = np.stack(list(ranks_by_rung(losses.T)), axis=1)
        return ranked


def genome_table(history: History) -> GenomeTable:
    """Return the table of a history's genomes; its rows are in the order of `trials_by_genome`."""
    genomes = trials_by_genome(history)

    def step(table: GenomeTable, trial: Trial) -> GenomeTable:
        table.update(genomes[genome_key(trial.genome)])
        return table

    def begin() -> GenomeTable:
        excesses = GrowingArray(*[math.nan] * len(history.constraints))
        return GenomeTable(len(history.objectives), history.constraints, excesses)

    return history.fold((__name__, "table"), begin, step)


class RankedHistory(History):
    """A run as its strategy sees it: each genome trained once and in full, with its ranks as losses.

    Args:
        history: History of the run.
        rungs: Budgets of the run, increasing to 1.
        excluded: Function that returns whether a genome is known to break a constraint; it then counts as seen.
        expected: Expected loss by genome key, for one objective. The ranks of these genomes are redistributed among
            them in this order, lowest first. Empty: measured losses decide all ranks.
    """

    def __init__(
        self,
        history: History,
        rungs: Sequence[float],
        excluded: Callable[[Genome], bool],
        expected: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(history.space, history.objectives, history.constraints, history.lessons)
        self._excluded = excluded
        self._genomes = list(trials_by_genome(history).values())

        def begin() -> tuple[RunHistory, dict[int, int]]:
            return RunHistory(history.space, history.objectives), {}

        def add(state: tuple[RunHistory, dict[int, int]], candidate: Candidate) -> tuple[RunHistory, dict[int, int]]:
            """Add a genome as if it were proposed in full, with an id that counts genomes only."""
            shown, shown_ids = state
            id = shown_ids[candidate.id] = len(shown_ids)
            parents = tuple(shown_ids[parent] for parent in candidate.parents if parent in shown_ids)
            shown.add_candidate(replace(candidate, id=id, parents=parents, budget=1.0, stop_if=()))
            return state

        shown, self._shown_ids = history.fold_proposals((__name__, "shown"), begin, add)
        # Ids of the candidates in the run, by their id in this history.
        self.ids = list(self._shown_ids)
        self.fresh_proposals, self.proposed_units = shown.fresh_proposals, shown.proposed_units
        self._proposals = shown._proposals
        pending = sorted(self._shown_ids[candidate.id] for candidate in history.pending if candidate.fresh)
        self._pending = {id: self.fresh_proposals[id] for id in pending}
        table, count = genome_table(history), len(self._genomes)

        def ranks_of(constrained: bool) -> np.ndarray:  # by full trainings, shape (genomes, objectives)
            objectives = range(len(history.objectives))
            return np.stack([table.ranks(count, rungs, number, constrained)[:, -1] for number in objectives], axis=1)

        self._ranks = ranks_of(constrained=True)
        bare_ranks = ranks_of(constrained=False) if history.constraints else self._ranks
        scaled_losses = np.full(count, math.nan)
        if len(rungs) == 1 and not expected:
            losses = table.losses(count, 1.0)[:, 0]
            not_failed = table.not_failed.first_column(count) > 0.0
            scaled_losses = np.where(not_failed & np.isfinite(losses), losses, math.nan)
        if expected:
            rows = [table.row_by_key[key] for key in expected]
            for ranked in (self._ranks, *([bare_ranks] if history.constraints else [])):
                ranked[rows, 0] = np.sort(ranked[rows, 0])
            if len(rungs) == 1:
                scaled_losses[rows] = list(expected.values())
        self.trials = trials = LazySequence[Trial](count, self._make_trial)
        has_ranks = np.isfinite(self._ranks).all(axis=1)
        ranked_rows, failed_rows = np.flatnonzero(has_ranks), np.flatnonzero(~has_ranks).tolist()
        ids = table.first_ids.first_column(count)[ranked_rows]  # same order as the shown ids
        order = ranked_rows[np.lexsort((ids, *reversed(self._ranks[ranked_rows].T)))].tolist()
        self.ranking = LazySequence[Trial](len(order), lambda place: trials[order[place]])
        self.failed = LazySequence[Trial](len(failed_rows), lambda place: trials[failed_rows[place]])
        columns = self._ranks, bare_ranks, scaled_losses, table.excesses.first_rows(count)
        self._table = RankingTable(*(column[order] for column in columns))

    def _make_trial(self, row: int) -> Trial:
        """Return a genome as a trial: its latest outcome, ok unless it failed, with ranks in place of the losses."""
        genome, ranked = self._genomes[row], self._ranks[row]
        outcome = genome.latest_trial.outcome
        if not math.isnan(ranked[0]):
            pairs = zip(self.objectives, ranked.tolist(), strict=True)
            metrics = {objective.metric: objective.value(rank) for objective, rank in pairs}
            outcome = replace(outcome, status="ok", metrics={**outcome.metrics, **metrics}, curve=(), error=None)
        candidate = self.fresh_proposals[self._shown_ids[genome.first_candidate.id]]
        return Trial.of(candidate, outcome, row, self.objectives)

    def seen(self, genome: Genome, budget: float = 1.0, extra_seed: int = 0) -> bool:
        return super().seen(genome, budget, extra_seed) or self._excluded(genome)
