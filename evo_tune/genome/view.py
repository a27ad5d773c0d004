"""The history as a strategy is shown it where genomes may have several trials: each born once, trained in full.

A view is made for one birth, and most of it is never looked at: what a run of thousands of trials has of it is kept
between births (`_Ledger`), and a trial is made when somebody reads it. Ranks say all that is known: losses at different
budgets, or of pruned trials, have no common scale. Nothing here promotes, prunes or proposes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evo_tune.genome.history import History, Made
from evo_tune.genome.importance import ranks
from evo_tune.genome.standing import Entry, as_from_scratch, entries, placed
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.genome.values import Genome, genome_key

__all__ = ["View"]


class _Grown:
    """An array of rows that grows: a row is set without copying the others.

    Args:
        fill: What a row holds that was never set; an item of it, or as many as the array has columns.
    """

    def __init__(self, *fill: float) -> None:
        self._fill = np.array(fill)
        self._rows = np.tile(self._fill, (64, 1))

    def set(self, row: int, values: Sequence[float] | np.ndarray | float) -> None:
        """Set a row."""
        if row >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.tile(self._fill, (len(self._rows), 1))])
        self._rows[row] = values

    def get(self, count: int) -> np.ndarray:
        """Return the first rows, shape (count, columns)."""
        while count > len(self._rows):
            self.set(len(self._rows), self._fill)
        return self._rows[:count]


@dataclass
class _Ledger:
    """What every view of a run is made of, kept while the run goes on: the state of a fold.

    Args:
        objectives: Number of them.
        rows: Key of a genome to its place in the order in which genomes were first told.
        alive: Whether a genome's latest trial gave a value or was pruned.
        violation: By how much it breaks constraints.
        losses: By budget, the losses of each genome there; NaN where it has none.
        heirs: Number of genomes that inherited.
    """

    objectives: int
    rows: dict[str, int] = field(default_factory=dict)
    alive: _Grown = field(default_factory=lambda: _Grown(0.0))
    violation: _Grown = field(default_factory=lambda: _Grown(0.0))
    losses: dict[float, _Grown] = field(default_factory=dict)
    heirs: int = 0

    def take(self, entry: Entry) -> None:
        """Note what was told of a genome, all of it."""
        row = self.rows.setdefault(entry.key, len(self.rows))
        self.heirs += entry.heir is not None
        self.alive.set(row, not entry.failed)
        self.violation.set(row, entry.latest.violation)
        for budget in entry.results:
            rows = self.losses.setdefault(budget, _Grown(*[math.nan] * self.objectives))
            rows.set(row, self._row(entry.losses(budget)))

    def _row(self, losses: Sequence[float] | None) -> np.ndarray:
        """Return losses as a row; of what was pruned there is one infinity, whatever the number of objectives."""
        if losses is None:
            return np.full(self.objectives, math.nan)
        return np.array(losses) if len(losses) == self.objectives else np.full(self.objectives, math.inf)

    def places(self, told: Sequence[Entry], rungs: Sequence[float]) -> np.ndarray:
        """Return what `standing.places` says, shape (genomes, objectives); NaN for failed genomes."""
        count = len(told)
        alive, violation = self.alive.get(count)[:, 0] > 0.0, self.violation.get(count)[:, 0]
        good, bad = np.flatnonzero(alive & (violation == 0.0)), np.flatnonzero(alive & (violation > 0.0))
        found = np.full((count, self.objectives), math.nan)
        found[bad] = (len(good) + ranks(violation[bad]))[:, None]
        if len(good):
            nothing = _Grown(*[math.nan] * self.objectives)
            at = [self.losses.get(rung, nothing).get(count)[good] for rung in rungs]
            if self.heirs:
                standing = [told[row] for row in good.tolist()]
                full = as_from_scratch(standing)
                at[-1] = np.stack([self._row(full.get(one.key)) for one in standing])
            for objective in range(self.objectives):
                found[good, objective] = placed([losses[:, objective] for losses in at])
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
        self.shown.append(replace(one, id=number, parents=parents, budget=1.0, stop_if=(), inherits=None))
        self.units.append(units)
        self.seen.setdefault((genome_key(one.genome), 1.0, one.replicate), number)
        return self


class View(History):
    """The history as a strategy is shown it: each genome born once, trained in full, its losses its places.

    Args:
        history: The run's.
        rungs: Its budgets.
        barred: Says of a genome that it is known to break a constraint; it counts as seen.
    """

    def __init__(self, history: History, rungs: Sequence[float], barred: Callable[[Genome], bool]) -> None:
        super().__init__(history.space, history.objectives, lessons=history.lessons)
        self._barred = barred
        told = entries(history)
        ledger = history.fold((__name__, "ledger"), lambda: _Ledger(len(history.objectives)), _step_of(told))
        births = history.fold_births(
            (__name__, "births"), _Births, lambda births, one: births.take(one, history.born_units[one.id])
        )
        self.ids = births.ids
        """By the view's id, the run's id of the birth."""
        self._units, self._seen, self._fresh = births.units, births.seen, len(births.ids)
        self._born = births.shown
        self._out = {births.number[one.id]: births.shown[births.number[one.id]] for one in history.out if one.fresh}
        self._entries = list(told.values())
        self._births = births
        self._places = ledger.places(self._entries, rungs)
        self._trials = Made(len(self._entries), self._made)
        known = np.isfinite(self._places).all(axis=1)
        rows = np.flatnonzero(known)
        ids = np.array([births.number[self._entries[row].birth.id] for row in rows.tolist()], dtype=int)
        order = np.lexsort((ids, *reversed(self._places[rows].T)))
        self._order = rows[order].tolist()
        self._failed = Made(int((~known).sum()), lambda place: self._trials[int(np.flatnonzero(~known)[place])])

    def _made(self, row: int) -> Trial:
        entry = self._entries[row]
        outcome = self._shown(entry, self._places[row])
        return Trial.of(self._births.shown[self._births.number[entry.birth.id]], outcome, row, self.objectives)

    def _shown(self, entry: Entry, place: np.ndarray) -> Outcome:
        outcome = entry.latest.outcome
        if math.isnan(place[0]):
            return outcome
        shown = {goal.metric: goal.value(loss) for goal, loss in zip(self.objectives, place.tolist(), strict=True)}
        return replace(outcome, status="ok", metrics={**outcome.metrics, **shown}, curve=(), error=None)

    @property
    def ranking(self) -> Sequence[Trial]:
        return Made(len(self._order), lambda place: self._trials[self._order[place]])

    def ranked(self) -> list[Trial]:
        return list(self.ranking)

    def ranked_losses(self) -> np.ndarray:
        return np.asarray(self._places[self._order])

    @property
    def best(self) -> Trial | None:
        return self._trials[self._order[0]] if self._order else None

    def seen(self, genome: Genome, budget: float = 1.0, replicate: int = 0) -> bool:
        return super().seen(genome, budget, replicate) or self._barred(genome)


def _step_of(told: dict[str, Entry]) -> Callable[[_Ledger, Trial], _Ledger]:
    def step(ledger: _Ledger, trial: Trial) -> _Ledger:
        ledger.take(told[genome_key(trial.genome)])
        return ledger

    return step
