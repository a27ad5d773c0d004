"""What a strategy may see: the told trials in told order, and the candidates that are still out.

A strategy is a pure function of this (law 1), so everything here is derived from the sequence of
births and told results and from nothing else: no clock, no limits, no results that were recorded
but not told. It knows nothing of stores, slots or torch.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from evo_tune.genome.constraint import Constraint
from evo_tune.genome.lessons import Lesson
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Objective, Outcome, Trial
from evo_tune.genome.values import Genome, genome_key

__all__ = ["Grown", "History", "Made"]

State = TypeVar("State")


Item = TypeVar("Item")


class Made(Sequence[Item]):
    """A sequence whose items are made when they are read, each once.

    Args:
        count: How many there are.
        make: Makes the item of a place, from 0.
    """

    def __init__(self, count: int, make: Callable[[int], Item]) -> None:
        self._items: list[Item | None] = [None] * count
        self._make = make

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        item = self._items[place]
        if item is None:
            item = self._items[place] = self._make(place % len(self))
        return item


class Grown:
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

    def insert(self, row: int, values: Sequence[float], count: int) -> None:
        """Set a row of so many, those from it on having moved by one."""
        self.set(count, self._fill)
        self._rows[row + 1 : count + 1] = self._rows[row:count]
        self._rows[row] = values

    def get(self, count: int) -> np.ndarray:
        """Return the first rows, shape (count, columns)."""
        while count > len(self._rows):
            self.set(len(self._rows), self._fill)
        return self._rows[:count]


class History:
    """Told trials and candidates out, with indexes that are memos of them.

    Strategies read it. Only the loop (and a replay) calls `born` and `tell`.

    Args:
        space: The search space, repair included.
        objectives: What is optimised, in order of importance.
        constraints: What a trial must keep to; those that do not rank behind those that do.
        lessons: What earlier runs found, of which nothing counts as born or told.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        lessons: Sequence[Lesson] = (),
    ) -> None:
        self.lessons = tuple(lessons)
        self.space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self._told: list[Trial] = []
        self._trials: Sequence[Trial] = self._told
        self._out: dict[int, Candidate] = {}
        self._seen: dict[tuple[str, float, int], int] = {}
        self._units: list[np.ndarray] = []
        self._born: list[Candidate] = []
        self._lost: list[Trial] = []
        self._failed: Sequence[Trial] = self._lost
        self._ranked: list[tuple[float, tuple[float, ...], int, Trial]] = []
        self._losses = Grown(*[0.0] * len(self.objectives))
        self._fresh = 0
        self._folds: dict[Hashable, tuple[int, Any]] = {}
        self._early: frozenset[str] = frozenset()

    @property
    def trials(self) -> Sequence[Trial]:
        """All told trials, in told order."""
        return self._trials

    @property
    def out(self) -> Sequence[Candidate]:
        """Candidates born whose results are not told, in order of birth."""
        return [self._out[id] for id in sorted(self._out)]

    @property
    def born_count(self) -> int:
        """Number of candidates born: the id of the next one."""
        return len(self._units)

    @property
    def fresh_count(self) -> int:
        """Number of births that count: of genomes, not of further trials of theirs."""
        return self._fresh

    @property
    def fresh_births(self) -> Sequence[Candidate]:
        """The births that count, in their order."""
        return self._born

    @property
    def born_units(self) -> Sequence[np.ndarray]:
        """Unit coordinates of every candidate born, told or out, by id; each of shape (genes,)."""
        return self._units

    def ranked(self) -> list[Trial]:
        """Return the trials that are ok and fully trained, best losses first (feasible ones before), ties by age."""
        return [row[-1] for row in self._ranked]

    @property
    def ranking(self) -> Sequence[Trial]:
        """The same as a sequence whose items are looked up when they are read: in a long run few of them are."""
        return Made(len(self._ranked), lambda place: self._ranked[place][-1])

    def ranked_losses(self) -> np.ndarray:
        """Return the losses of `ranked`, shape (trials, objectives)."""
        return np.array(self._losses.get(len(self._ranked)))

    def scaled_losses(self) -> np.ndarray:
        """Return the first losses of `ranked` where they have one scale, shape (trials,).

        They rise with the place; NaN for trials that break a constraint, which are not ranked by losses.
        """
        found = np.array(self._losses.get(len(self._ranked))[:, 0])
        found[bisect(self._ranked, 0.0, key=lambda row: row[0]) :] = np.nan
        return found

    @property
    def failed(self) -> Sequence[Trial]:
        """The told trials that have no losses, in told order."""
        return self._failed

    @property
    def best(self) -> Trial | None:
        """The first of `ranked`, if any."""
        return self._ranked[0][-1] if self._ranked else None

    def seen(self, genome: Genome, budget: float = 1.0, replicate: int = 0) -> bool:
        """Say whether this was born already, told or out: a duplicate wastes a training."""
        return (genome_key(genome), budget, replicate) in self._seen

    def kept(self, genome: Genome) -> bool:
        """Say whether this was born before the space was widened: its values are rounded as that space had them."""
        return genome_key(genome) in self._early

    def fold(self, key: Hashable, initial: Callable[[], State], step: Callable[[State, Trial], State]) -> State:
        """Return the left fold of `step` over the told trials in told order.

        The running state is kept, so a call costs only the trials told since the last one. It stays a
        memo of history: same trials, same state.

        Args:
            key: Names the fold; the same key must always come with the same `initial` and `step`.
            initial: Makes the state before the first trial.
            step: Takes the state and the next trial and returns the next state (it may reuse the object).
        """
        count, state = self._folds[key] if key in self._folds else (0, initial())
        for trial in self._trials[count:]:
            state = step(state, trial)
        self._folds[key] = (len(self._trials), state)
        return state

    def fold_births(
        self, key: Hashable, initial: Callable[[], State], step: Callable[[State, Candidate], State]
    ) -> State:
        """Return the left fold of `step` over the births that count, in their order; see `fold`."""
        count, state = self._folds[key] if key in self._folds else (0, initial())
        for candidate in self._born[count:]:
            state = step(state, candidate)
        self._folds[key] = (len(self._born), state)
        return state

    def born(self, candidate: Candidate, units: np.ndarray | None = None) -> None:
        """Note a birth; ids come in order.

        Args:
            candidate: It.
            units: Its unit coordinates, shape (genes,), where they are known already.
        """
        if candidate.id != self.born_count:
            raise ValueError(f"candidate {candidate.id} is born out of order: expected {self.born_count}")
        # First: it raises if the space has changed.
        self._units.append(self.space.encode(candidate.genome) if units is None else units)
        self._out[candidate.id] = candidate
        self._fresh += candidate.fresh
        if candidate.fresh:
            self._born.append(candidate)
        self._seen.setdefault((genome_key(candidate.genome), candidate.budget, candidate.replicate), candidate.id)

    def widen(self, space: SearchSpace, lessons: Sequence[Lesson] = ()) -> None:
        """Go on in a wider space: whatever was born keeps its genome, and has its unit coordinates there.

        Args:
            space: Has every value that the one before had.
            lessons: What earlier runs found, in the coordinates of this space.
        """
        genomes = {one.id: one.genome for one in (*self._out.values(), *(trial.candidate for trial in self._told))}
        self.space, self.lessons = space, tuple(lessons)
        self._units = [space.encode(genomes[id]) for id in range(len(genomes))]
        self._early = frozenset(map(genome_key, genomes.values()))
        self._folds.clear()  # they are functions of the coordinates too

    def tell(self, id: int, outcome: Outcome) -> Trial:
        """Note the result of a candidate that is out, and return it as a trial."""
        trial = Trial.of(self._out.pop(id), outcome, len(self._trials), self.objectives, self.constraints)
        self._told.append(trial)
        if not trial.ok:
            self._lost.append(trial)
        if trial.rankable and trial.losses is not None:
            mine = (trial.violation, trial.losses, trial.id, trial)
            place = bisect(self._ranked, mine[:3], key=lambda row: row[:3])
            self._losses.insert(place, trial.losses, len(self._ranked))
            self._ranked.insert(place, mine)
        return trial
