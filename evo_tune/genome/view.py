"""The history as a strategy is shown it where genomes may have several trials: each born once, trained in full.

A view is made for one birth, and most of it is never looked at: what a run of thousands of trials has of it is kept
between births (`Ledger`), and a trial is made when somebody reads it. Ranks say all that is known of losses at
different budgets, or of pruned trials, which have no common scale; those that have one are told beside them
(`scaled_losses`). Nothing here promotes, prunes or proposes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from evo_tune.genome.history import Grown, History, Made
from evo_tune.genome.importance import ranks
from evo_tune.genome.standing import Entry, entries, placed_by_rung
from evo_tune.genome.trial import Candidate, Trial
from evo_tune.genome.values import Genome, genome_key

__all__ = ["Ledger", "View", "ledger_of"]


@dataclass
class Ledger:
    """What every view of a run is made of, and what rules look up, kept while the run goes on: the state of a fold.

    Args:
        objectives: Number of them.
        rows: Key of a genome to its place in the order in which genomes were first told.
        alive: Whether a genome's latest trial gave a value or was pruned.
        violation: By how much it breaks constraints.
        losses: By budget, the losses of each genome there; NaN where it has none.
        births: Id of the birth of each genome.
    """

    objectives: int
    rows: dict[str, int] = field(default_factory=dict)
    alive: Grown = field(default_factory=lambda: Grown(0.0))
    violation: Grown = field(default_factory=lambda: Grown(0.0))
    losses: dict[float, Grown] = field(default_factory=dict)
    births: Grown = field(default_factory=lambda: Grown(0.0))
    _by_rung: dict[int, tuple[np.ndarray, list[np.ndarray]]] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """Note what was told of a genome, all of it."""
        row = self.rows.setdefault(entry.key, len(self.rows))
        self.births.set(row, entry.birth.id)
        self.alive.set(row, not entry.failed)
        self.violation.set(row, entry.latest.violation)
        for budget in entry.results:
            rows = self.losses.setdefault(budget, Grown(*[math.nan] * self.objectives))
            rows.set(row, self._row(entry.losses(budget)))

    def _row(self, losses: Sequence[float] | None) -> np.ndarray:
        """Return losses as a row; of what was pruned there is one infinity, whatever the number of objectives."""
        if losses is None:
            return np.full(self.objectives, math.nan)
        return np.array(losses) if len(losses) == self.objectives else np.full(self.objectives, math.inf)

    def scaled_losses(self, count: int) -> np.ndarray:
        """Return the first losses of what was trained in full and keeps to constraints, shape (genomes,); else NaN."""
        losses = self.losses.get(1.0, Grown(*[math.nan] * self.objectives)).get(count)[:, 0]
        counts = (self.alive.get(count)[:, 0] > 0.0) & (self.violation.get(count)[:, 0] == 0.0) & np.isfinite(losses)
        return np.where(counts, losses, math.nan)

    def by_rung(self, losses: np.ndarray, objective: int) -> list[np.ndarray]:
        """Return what `standing.placed_by_rung` yields, kept while they stay the same.

        Args:
            losses: Of genomes at each rung, shape (genomes, rungs).
            objective: Whose they are.
        """
        known = self._by_rung.get(objective)
        if known is None or not np.array_equal(known[0], losses, equal_nan=True):
            known = self._by_rung[objective] = losses.copy(), list(placed_by_rung(list(losses.T)))
        return known[1]

    def places(self, count: int, rungs: Sequence[float]) -> np.ndarray:
        """Return what `standing.places` says, shape (genomes, objectives); NaN for failed genomes."""
        alive, violation = self.alive.get(count)[:, 0] > 0.0, self.violation.get(count)[:, 0]
        good, bad = np.flatnonzero(alive & (violation == 0.0)), np.flatnonzero(alive & (violation > 0.0))
        found = np.full((count, self.objectives), math.nan)
        found[bad] = (len(good) + ranks(violation[bad]))[:, None]
        if len(good):
            nothing = Grown(*[math.nan] * self.objectives)
            at = [self.losses.get(rung, nothing).get(count)[good] for rung in rungs]
            for objective in range(self.objectives):
                found[good, objective] = self.by_rung(np.stack([rows[:, objective] for rows in at], 1), objective)[-1]
        return found


@dataclass
class _Births:
    """The fresh births of a run as views show them, in their order: they only grow.

    Args:
        ids: By the view's id, the run's.
        number: By the run's id, the view's.
        shown: The candidates.
        units: Their unit coordinates.
        seen: Genomes, as `History` keeps them.
    """

    ids: list[int] = field(default_factory=list)
    number: dict[int, int] = field(default_factory=dict)
    shown: list[Candidate] = field(default_factory=list)
    units: list[np.ndarray] = field(default_factory=list)
    seen: dict[tuple[str, float, int], int] = field(default_factory=dict)

    def take(self, one: Candidate, units: np.ndarray) -> _Births:
        """Note a birth that counts."""
        number = len(self.ids)
        self.ids.append(one.id)
        self.number[one.id] = number
        parents = tuple(self.number[parent] for parent in one.parents if parent in self.number)
        self.shown.append(replace(one, id=number, parents=parents, budget=1.0, stop_if=()))
        self.units.append(units)
        self.seen.setdefault((genome_key(one.genome), 1.0, one.replicate), number)
        return self


class View(History):
    """A run as its strategy sees it under rules: each genome trained once and in full, its losses its places.

    Args:
        history: History of the run.
        rungs: Budgets of the run, increasing to 1.
        barred: Returns whether a genome is known to break a constraint; such a genome counts as seen.
        expected: Expected loss by genome key, where genomes are shown by that and not by what was measured: the places
            that these genomes have are given out among them in this order, least first. For one objective.
    """

    def __init__(
        self,
        history: History,
        rungs: Sequence[float],
        barred: Callable[[Genome], bool],
        expected: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(history.space, history.objectives, lessons=history.lessons)
        self._barred = barred
        self._entries = list(entries(history).values())
        self._births: _Births = history.fold_births(
            (__name__, "births"), _Births, lambda births, one: births.take(one, history.born_units[one.id])
        )
        numbers = [self._births.number[one.id] for one in history.out if one.fresh]
        self._out = [self._births.shown[number] for number in sorted(numbers)]
        ledger, count = ledger_of(history), len(self._entries)
        self._places = ledger.places(count, rungs)
        self._scaled = np.full(count, math.nan)
        if len(rungs) == 1 and not expected:
            self._scaled = ledger.scaled_losses(count)
        if expected:
            mine = [ledger.rows[key] for key in expected]
            self._places[mine, 0] = np.sort(self._places[mine, 0])
            if len(rungs) == 1:
                self._scaled[mine] = list(expected.values())
        self._trials: Made[Trial] = Made(count, self._made)
        known = np.isfinite(self._places).all(axis=1)
        rows = np.flatnonzero(known)
        ids = ledger.births.get(count)[rows, 0]  # in the order of the view's own
        self._order = rows[np.lexsort((ids, *reversed(self._places[rows].T)))].tolist()
        self._lost = np.flatnonzero(~known).tolist()

    def _made(self, row: int) -> Trial:
        entry, place = self._entries[row], self._places[row]
        outcome = entry.latest.outcome
        if not math.isnan(place[0]):
            goals = zip(self.objectives, place.tolist(), strict=True)
            shown = {goal.metric: goal.value(loss) for goal, loss in goals}
            outcome = replace(outcome, status="ok", metrics={**outcome.metrics, **shown}, curve=(), error=None)
        return Trial.of(self._births.shown[self._births.number[entry.birth.id]], outcome, row, self.objectives)

    @property
    def ids(self) -> Sequence[int]:
        """Ids of the candidates in the run, by their id in this view."""
        return self._births.ids

    @property
    def trials(self) -> Sequence[Trial]:
        return self._trials

    @property
    def out(self) -> Sequence[Candidate]:
        return self._out

    @property
    def fresh_births(self) -> Sequence[Candidate]:
        return self._births.shown

    @property
    def born_units(self) -> Sequence[np.ndarray]:
        return self._births.units

    @property
    def failed(self) -> Sequence[Trial]:
        return Made(len(self._lost), lambda place: self._trials[self._lost[place]])

    @property
    def ranking(self) -> Sequence[Trial]:
        return Made(len(self._order), lambda place: self._trials[self._order[place]])

    def ranked_losses(self) -> np.ndarray:
        return np.asarray(self._places[self._order])

    def scaled_losses(self) -> np.ndarray:
        """Return the first losses of `ranking`: means over seeds, or the expected losses by which genomes are shown.

        NaN where budgets differ, since those losses have no common scale.
        """
        return np.asarray(self._scaled[self._order])

    def seen(self, genome: Genome, budget: float = 1.0, replicate: int = 0) -> bool:
        return (genome_key(genome), budget, replicate) in self._births.seen or self._barred(genome)


def ledger_of(history: History) -> Ledger:
    """Return the ledger of a history; its rows are those of `standing.entries`."""
    told = entries(history)

    def step(ledger: Ledger, trial: Trial) -> Ledger:
        ledger.take(told[genome_key(trial.genome)])
        return ledger

    return history.fold((__name__, "ledger"), lambda: Ledger(len(history.objectives)), step)
