"""Promotions to a larger budget: asynchronous successive halving, with a guard.

`Rungs` is the state of a fold over the history. `fidelity` says how far early results can be trusted. Nothing here
proposes a new genome.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from evo_tune.genome.history import GrowingArray
from evo_tune.genome.trial import PROMOTION, Proposal, Trial
from evo_tune.genome.view import GenomeTrials
from evo_tune.rules.fidelity import PROMOTION_MARGIN, rank_trust, share_to_keep

LEADERS = 3
"""Number of fully trained leaders whose early ranks set the minimum promoted share."""


class Rungs:
    """The genomes with a value at each rung, and their promotions.

    Args:
        budgets: Budgets of the rungs, increasing to 1.
        objectives: Number of objectives.
    """

    def __init__(self, budgets: Sequence[float], objectives: int) -> None:
        self.budgets = tuple(budgets)
        self._at = {low: _Rung(low, objectives) for low in self.budgets}
        self._number: dict[str, int] = {}

    def update(self, entry: GenomeTrials) -> None:
        """Update a genome with all of its results."""
        number = self._number.setdefault(entry.key, len(self._number))
        for low, high in pairwise((*self.budgets, math.inf)):
            self._at[low].update(entry, number, high)

    def next_known(self, promoted: set[tuple[str, float]], audits: Iterable[str]) -> Proposal | None:
        """Return the promotion that is due, or None.

        Audits come first, then the highest rung. The best genomes at a rung are promoted. Their share is the ratio
        of the budgets, or more if early results predict full results poorly.

        Args:
            promoted: Keys and budgets of pending promotions.
            audits: Keys of the genomes that are always trained in full.
        """
        if (due := self.next_audit(promoted, audits)) is not None:
            return due
        for low, high in reversed(list(pairwise(self.budgets))):
            rung, ranked = self._at[low], self._at[low].rows_best_first()
            best = ranked[: math.floor(max(low / high, self._share(low)) * len(ranked))]
            for row in best[rung.waits.get(len(ranked))[best, 0] > 0.0].tolist():
                if ((entry := rung.entries[row]).key, high) not in promoted:
                    return promotion_of(entry, high)
        return None

    def next_audit(self, promoted: set[tuple[str, float]], audits: Iterable[str]) -> Proposal | None:
        """Return the promotion of an audit that is due, or None; see `due`."""
        for low, high in pairwise(self.budgets):
            rung = self._at[low]
            for _, row in sorted((self._number[key], rung.rows[key]) for key in audits if key in rung.rows):
                if high not in (entry := rung.entries[row]).trial_by_budget and (entry.key, high) not in promoted:
                    return promotion_of(entry, high)
        return None

    def cost(self) -> float:
        """Return the mean cost of a genome so far, promotions included, in full trainings."""
        if len(self.budgets) == 1 or not (born := len(self._at[self.budgets[0]].entries)):
            return 1.0
        steps = zip((0.0, *self.budgets), self.budgets, strict=False)
        return sum((high - low) * len(self._at[high].entries) for low, high in steps) / born

    def number(self, entry: GenomeTrials) -> int:
        """Return the number of a genome, in the order of first results."""
        return self._number[entry.key]

    def numbers_best_first(self, low: float) -> np.ndarray:
        """Return the numbers of the genomes with a value at a rung, best first. Shape (genomes,)."""
        return self._at[low].numbers_best_first()

    def not_promoted(self, low: float, most: int) -> list[GenomeTrials]:
        """Return at most `most` genomes that were not trained beyond a rung, best first."""
        rung = self._at[low]
        ranked = rung.rows_best_first()
        return [rung.entries[row] for row in ranked[rung.waits.get(len(ranked))[ranked, 0] > 0.0][:most].tolist()]

    def _share(self, low: float) -> float:
        """Return the share of the genomes at a rung to promote, measured on the fully trained genomes.

        The share includes at least the ranks that the present leaders had at this rung.
        """
        early, late = self._at[low].numbers_best_first(), self._at[1.0].numbers_best_first()
        place = np.zeros(len(self._number), dtype=int)
        place[early] = np.arange(1, len(early) + 1)
        from_ = place[late][place[late] > 0]
        measured = rank_trust(from_, np.arange(len(from_)))
        depth = int(from_[:LEADERS].max(initial=0))
        return max(share_to_keep(measured, max(1, len(early)), PROMOTION_MARGIN), depth / max(1, len(early)))


class _Rung:
    """Ranking of the genomes at one rung: by violation, then by loss or number of dominating genomes, then by age.

    Args:
        budget: Budget of the rung.
        objectives: Number of objectives.
    """

    def __init__(self, budget: float, objectives: int) -> None:
        self._budget, self._several = budget, objectives > 1
        self._trials: dict[str, Trial] = {}
        self._losses, self._below = GrowingArray(*[0.0] * objectives), GrowingArray(0.0)
        self._violation, self._births, self._numbers = GrowingArray(0.0), GrowingArray(0.0), GrowingArray(0.0)
        self._ranked: np.ndarray | None = None
        self.entries: list[GenomeTrials] = []
        self.rows: dict[str, int] = {}
        self.waits = GrowingArray(0.0)
        """By row: 1 if the genome has no result at the next rung, else 0."""

    def update(self, entry: GenomeTrials, number: int, high: float) -> None:
        """Update a genome with its results.

        Args:
            entry: All results of the genome.
            number: Number of the genome, in the order of first results.
            high: Budget of the next rung.
        """
        trial, before = entry.trial_by_budget.get(self._budget), self._trials.get(entry.key)
        if trial is None:
            return
        self._trials[entry.key] = trial
        if before is not None and before is not trial and before.ok:
            self._again(entry.key)
        if trial.ok and entry.key not in self.rows:
            self._add(entry, trial, number)
        if entry.key in self.rows:
            self.waits.set(self.rows[entry.key], high not in entry.trial_by_budget)

    def _add(self, entry: GenomeTrials, trial: Trial, number: int) -> None:
        count = len(self.entries)
        self.rows[entry.key] = count
        self.entries.append(entry)
        assert trial.losses is not None
        mine, losses = np.array(trial.losses), self._losses.get(count)
        if self._several:  # Fonseca & Fleming, 1993
            behind = (losses >= mine).all(axis=1) & (losses > mine).any(axis=1)
            self._below.get(count)[behind] += 1.0
            self._below.set(count, ((losses <= mine).all(axis=1) & (losses < mine).any(axis=1)).sum())
        self._losses.set(count, mine)
        self._violation.set(count, trial.violation)
        self._births.set(count, entry.first_candidate.id)
        self._numbers.set(count, number)
        self._ranked = None

    def _again(self, key: str) -> None:
        """Rebuild the ranking without one genome, whose repeated training replaces its value. This is rare."""
        old = [(one, int(self._numbers.get(row + 1)[row, 0])) for row, one in enumerate(self.entries) if one.key != key]
        waits = {one.key: float(self.waits.get(row + 1)[row, 0]) for row, one in enumerate(self.entries)}
        self.entries, self.rows = [], {}
        self._below = GrowingArray(0.0)
        for one, number in old:
            self._add(one, self._trials[one.key], number)
            self.waits.set(self.rows[one.key], waits[one.key])
        self._ranked = None

    def rows_best_first(self) -> np.ndarray:
        """Return the rows of the genomes, best first. Shape (genomes,)."""
        if self._ranked is None:
            count = len(self.entries)
            order = (self._below if self._several else self._losses).get(count)[:, 0]
            # Ids and violations are nearly sorted already, so two of the three sorts are cheap.
            self._ranked = np.lexsort((self._births.get(count)[:, 0], order, self._violation.get(count)[:, 0]))
        return self._ranked

    def numbers_best_first(self) -> np.ndarray:
        """Return the numbers of the genomes, best first. Shape (genomes,)."""
        return np.asarray(self._numbers.get(len(self.entries))[self.rows_best_first(), 0], dtype=int)


def promotion_of(entry: GenomeTrials, budget: float) -> Proposal:
    """Return the proposal to continue the latest training of a genome to a budget."""
    latest = entry.latest_trial
    return Proposal(latest.genome, PROMOTION, latest.candidate.parents, budget, resumes=latest.id)
