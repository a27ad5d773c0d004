"""The trials of each genome, and the history for a strategy if genomes may have several trials.

`trials_by_genome` groups the trials of each genome: rungs and extra seeds. A `RankedHistory` shows each genome as
proposed once and trained in full. Each proposal makes a view, and reads little of it. So a `GenomeTable` keeps its data
between proposals, and a trial is made when it is read.

Losses at different budgets, or of pruned trials, have no common scale, so a view shows their places (ranks).
`scaled_losses` returns the losses that have one scale. Nothing here promotes, prunes or proposes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from evo_tune.genome.history import GrowingArray, History, LazySequence
from evo_tune.genome.importance import ranks
from evo_tune.genome.trial import Candidate, Constraint, Objective, Trial
from evo_tune.genome.values import Genome, genome_key, mean_of


@dataclass
class GenomeTrials:
    """A genome and its reported results.

    Args:
        key: Identity of the genome.
        birth: First candidate that was proposed with it.
        results: Its trials with the run's first seed, by budget.
        repeats: Its trials with extra seeds.
        curve: Points of its learning curve, from all of its results: (fraction, metrics).
    """

    key: str
    first_candidate: Candidate
    trial_by_budget: dict[float, Trial] = field(default_factory=dict)
    repeats: list[Trial] = field(default_factory=list)
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
        if budget < 1.0 or not self.repeats:
            return trial.losses
        return tuple(map(float, mean_of([one.losses for one in (trial, *self.repeats) if one.losses])))


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

    def step(found: dict[str, GenomeTrials], trial: Trial) -> dict[str, GenomeTrials]:
        key = genome_key(trial.genome)
        entry = found.setdefault(key, GenomeTrials(key, trial.candidate))
        if trial.candidate.extra_seed:
            entry.repeats.append(trial)
        else:
            entry.trial_by_budget[trial.candidate.budget] = trial
            entry.curve.extend(trial.outcome.curve)
        return found

    return history.fold(__name__, dict, step)


def ranks_by_rung(known: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield, for each rung, the places of genomes by the results up to it, shape (genomes,); see `GenomeTable.places`.

    Args:
        known: Losses at each rung, lowest first, NaN without a result, each of shape (genomes,).
    """
    found = np.ones(len(known[0]))
    for number, losses in enumerate(known):
        group = np.flatnonzero(~np.isnan(losses))
        if len(group):
            order = ranks(losses[group])
            seats = _seats(found, group) if number else np.arange(1.0, len(group) + 1)
            found[group] = np.interp(order, np.arange(1.0, len(group) + 1), seats)
        yield found.copy()


def _seats(found: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the places of a group, ascending, shape (group,); equal places are spread over the ranks they share."""
    seats = np.sort(found[group])
    if (seats[1:] != seats[:-1]).all():
        return np.asarray(seats)
    values, counts = np.unique(seats, return_counts=True)
    shared = set(values[counts > 1].tolist())
    among = np.sort(found)
    for place in values.tolist():
        mine = seats == place if place in shared else None
        if mine is not None and (count := int(mine.sum())) > 1:
            reach = (int(np.searchsorted(among, place, "right") - np.searchsorted(among, place)) - 1) / 2
            seats[mine] = np.linspace(place - reach, place + reach, count)
            shared.update(seats[mine].tolist())  # one of them may equal another place
    return np.asarray(np.sort(seats))


@dataclass
class GenomeTable:
    """Table of genomes for the views and rules of a run; the state of a fold over its trials.

    Args:
        objectives: Number of objectives.
        rows: Row of each genome by key, in the order of first reports.
        alive: Whether a genome's latest trial has losses or was pruned.
        violation: Amount by which a genome breaks the constraints.
        losses: Losses of each genome by budget; NaN if it has none.
        births: Id of the first candidate of each genome.
        constraints: Constraints of the run.
        excesses: Amount beyond the bound of each constraint, by its latest trial.
    """

    objectives: int
    rows: dict[str, int] = field(default_factory=dict)
    alive: GrowingArray = field(default_factory=lambda: GrowingArray(0.0))
    violation: GrowingArray = field(default_factory=lambda: GrowingArray(0.0))
    losses: dict[float, GrowingArray] = field(default_factory=dict)
    births: GrowingArray = field(default_factory=lambda: GrowingArray(0.0))
    constraints: tuple[Constraint, ...] = ()
    excesses: GrowingArray = field(default_factory=GrowingArray)
    _by_rung: dict[tuple[int, bool], tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=dict)

    def update(self, entry: GenomeTrials) -> None:
        """Update the row of a genome from all of its results."""
        row = self.rows.setdefault(entry.key, len(self.rows))
        self.births.set(row, entry.first_candidate.id)
        self.alive.set(row, not entry.failed)
        self.violation.set(row, entry.latest_trial.violation)
        self.excesses.set(row, [one.excess(entry.latest_trial.outcome.metrics) for one in self.constraints])
        for budget in entry.trial_by_budget:
            rows = self.losses.setdefault(budget, GrowingArray(*[math.nan] * self.objectives))
            rows.set(row, self._row(entry.losses(budget)))

    def _row(self, losses: Sequence[float] | None) -> np.ndarray:
        """Return losses as a row, shape (objectives,); the one infinity of a pruned trial fills it."""
        if losses is None:
            return np.full(self.objectives, math.nan)
        return np.array(losses) if len(losses) == self.objectives else np.full(self.objectives, math.inf)

    def scaled_losses(self, count: int) -> np.ndarray:
        """Return the first losses of the first `count` genomes, shape (count,).

        NaN for genomes that were not fully trained, or that failed.
        """
        losses = self.losses.get(1.0, GrowingArray(*[math.nan] * self.objectives)).get(count)[:, 0]
        counts = (self.alive.get(count)[:, 0] > 0.0) & np.isfinite(losses)
        return np.where(counts, losses, math.nan)

    def by_rung(self, losses: np.ndarray, objective: int, constrained: bool = True) -> list[np.ndarray]:
        """Return the list that `ranks_by_rung` yields, cached while the losses stay the same.

        Args:
            losses: Losses at each rung, shape (genomes, rungs).
            objective: Index of the objective.
            constrained: See `places`.
        """
        known = self._by_rung.get((objective, constrained))
        if known is None or not np.array_equal(known[0], losses, equal_nan=True):
            known = self._by_rung[objective, constrained] = losses.copy(), list(ranks_by_rung(list(losses.T)))
        return known[1]

    def places(self, count: int, rungs: Sequence[float], constrained: bool = True) -> np.ndarray:
        """Return the place of each genome in the order of each objective, from 1, shape (genomes, objectives).

        The results of the lowest rung order all genomes. Genomes that reached the next rung keep their places as a
        group, and its results order them within the group. This is repeated up to the full training run. So two
        genomes are always compared at a budget that both had. A result at a higher rung overrules one at a lower rung.
        No genome loses a place only because another one was trained longer.

        Genomes that break a constraint follow all others in every objective, ordered by violation (Deb, 2000). NaN
        for failed genomes.

        Args:
            count: Number of genomes, the first ones reported.
            rungs: Budgets of the run, increasing to 1.
            constrained: Whether genomes that break a constraint follow all others.
        """
        alive = self.alive.get(count)[:, 0] > 0.0
        violation = self.violation.get(count)[:, 0] if constrained else np.zeros(count)
        good, bad = np.flatnonzero(alive & (violation == 0.0)), np.flatnonzero(alive & (violation > 0.0))
        found = np.full((count, self.objectives), math.nan)
        found[bad] = (len(good) + ranks(violation[bad]))[:, None]
        if len(good):
            nothing = GrowingArray(*[math.nan] * self.objectives)
            at = [self.losses.get(rung, nothing).get(count)[good] for rung in rungs]
            for objective in range(self.objectives):
                found[good, objective] = self.by_rung(
                    np.stack([rows[:, objective] for rows in at], 1), objective, constrained
                )[-1]
        return found


@dataclass
class _Births:
    """The first candidates of a run's genomes, as views show them, in order of proposal; the lists only grow.

    Args:
        ids: Id in the run of each candidate.
        number: Id in the view by id in the run.
        shown: Candidates with the view's ids.
        units: Unit coordinates of each candidate, shape (genes,).
        seen: Id in the view by (genome key, budget, extra_seed).
    """

    ids: list[int] = field(default_factory=list)
    number: dict[int, int] = field(default_factory=dict)
    shown: list[Candidate] = field(default_factory=list)
    units: list[np.ndarray] = field(default_factory=list)
    seen: dict[tuple[str, float, int], int] = field(default_factory=dict)

    def update(self, one: Candidate, units: np.ndarray) -> _Births:
        """Add a fresh candidate and its unit coordinates, shape (genes,)."""
        number = len(self.ids)
        self.ids.append(one.id)
        self.number[one.id] = number
        parents = tuple(self.number[parent] for parent in one.parents if parent in self.number)
        self.shown.append(replace(one, id=number, parents=parents, budget=1.0, stop_if=()))
        self.units.append(units)
        self.seen.setdefault((genome_key(one.genome), 1.0, one.extra_seed), number)
        return self


class RankedHistory(History):
    """A run for its strategy, with places instead of losses: each genome is shown as trained once and in full.

    Args:
        history: History of the run.
        rungs: Budgets of the run, increasing to 1.
        barred: Function that returns whether a genome is known to break a constraint; it then counts as seen.
        expected: Expected loss by genome key, for one objective. The places of these genomes are redistributed among
            them in this order, lowest first. Empty: measured losses decide all places.
    """

    def __init__(
        self,
        history: History,
        rungs: Sequence[float],
        barred: Callable[[Genome], bool],
        expected: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(history.space, history.objectives, history.constraints, history.lessons)
        self._barred = barred
        self._entries = list(trials_by_genome(history).values())
        self._births: _Births = history.fold_proposals(
            (__name__, "births"), _Births, lambda births, one: births.update(one, history.proposed_units[one.id])
        )
        numbers = [self._births.number[one.id] for one in history.pending if one.fresh]
        self._out = [self._births.shown[number] for number in sorted(numbers)]
        ledger, count = genome_table(history), len(self._entries)
        self._places = ledger.places(count, rungs)
        self._bare = ledger.places(count, rungs, constrained=False) if history.constraints else self._places
        self._excesses = ledger.excesses.get(count)
        self._scaled = np.full(count, math.nan)
        if len(rungs) == 1 and not expected:
            self._scaled = ledger.scaled_losses(count)
        if expected:
            mine = [ledger.rows[key] for key in expected]
            for places in (self._places, *([self._bare] if history.constraints else [])):
                places[mine, 0] = np.sort(places[mine, 0])
            if len(rungs) == 1:
                self._scaled[mine] = list(expected.values())
        self._trials: LazySequence[Trial] = LazySequence(count, self._made)
        known = np.isfinite(self._places).all(axis=1)
        rows = np.flatnonzero(known)
        ids = ledger.births.get(count)[rows, 0]  # same order as the view's ids
        self._order = rows[np.lexsort((ids, *reversed(self._places[rows].T)))].tolist()
        self._lost = np.flatnonzero(~known).tolist()

    def _made(self, row: int) -> Trial:
        entry, place = self._entries[row], self._places[row]
        outcome = entry.latest_trial.outcome
        if not math.isnan(place[0]):
            goals = zip(self.objectives, place.tolist(), strict=True)
            shown = {goal.metric: goal.value(loss) for goal, loss in goals}
            outcome = replace(outcome, status="ok", metrics={**outcome.metrics, **shown}, curve=(), error=None)
        return Trial.of(
            self._births.shown[self._births.number[entry.first_candidate.id]], outcome, row, self.objectives
        )

    @property
    def ids(self) -> Sequence[int]:
        """Ids of the candidates in the run, by their id in this view."""
        return self._births.ids

    @property
    def trials(self) -> Sequence[Trial]:
        return self._trials

    @property
    def pending(self) -> Sequence[Candidate]:
        return self._out

    @property
    def fresh_proposals(self) -> Sequence[Candidate]:
        return self._births.shown

    @property
    def proposed_units(self) -> Sequence[np.ndarray]:
        return self._births.units

    @property
    def failed(self) -> Sequence[Trial]:
        return LazySequence(len(self._lost), lambda place: self._trials[self._lost[place]])

    @property
    def ranking(self) -> Sequence[Trial]:
        return LazySequence(len(self._order), lambda place: self._trials[self._order[place]])

    def ranked_losses(self) -> np.ndarray:
        return np.asarray(self._places[self._order])

    def bare_losses(self) -> np.ndarray:
        return np.asarray(self._bare[self._order])

    def excesses(self) -> np.ndarray:
        return np.asarray(self._excesses[self._order])

    def scaled_losses(self) -> np.ndarray:
        """Return the first losses of `ranking`: means over seeds, or expected losses if genomes are ranked by them.

        NaN in a run with several rungs, since its losses have no common scale.
        """
        return np.asarray(self._scaled[self._order])

    def seen(self, genome: Genome, budget: float = 1.0, extra_seed: int = 0) -> bool:
        return (genome_key(genome), budget, extra_seed) in self._births.seen or self._barred(genome)


def genome_table(history: History) -> GenomeTable:
    """Return the ledger of a history; its rows are those of `trials_by_genome`."""
    told = trials_by_genome(history)

    def step(ledger: GenomeTable, trial: Trial) -> GenomeTable:
        ledger.update(told[genome_key(trial.genome)])
        return ledger

    def begin() -> GenomeTable:
        excesses = GrowingArray(*[math.nan] * len(history.constraints))
        return GenomeTable(len(history.objectives), constraints=history.constraints, excesses=excesses)

    return history.fold((__name__, "ledger"), begin, step)
