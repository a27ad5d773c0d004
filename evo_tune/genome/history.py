"""What a strategy may see: the told trials in told order, and the candidates that are still out.

A strategy is a pure function of this (law 1), so everything here is derived from the sequence of
births and told results and from nothing else: no clock, no limits, no results that were recorded
but not told. It knows nothing of stores, slots or torch.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from evo_tune.genome.constraint import Constraint
from evo_tune.genome.lessons import Lesson
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Objective, Outcome, Trial
from evo_tune.genome.values import Genome, genome_key

__all__ = ["History", "Made"]

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
        self._fresh = 0
        self._folds: dict[Hashable, tuple[int, Any]] = {}

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
        losses = [row[1] for row in self._ranked]
        return np.array(losses, dtype=np.float64).reshape(len(losses), len(self.objectives))

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

    def tell(self, id: int, outcome: Outcome) -> Trial:
        """Note the result of a candidate that is out, and return it as a trial."""
        trial = Trial.of(self._out.pop(id), outcome, len(self._trials), self.objectives, self.constraints)
        self._told.append(trial)
        if not trial.ok:
            self._lost.append(trial)
        if trial.rankable and trial.losses is not None:
            insort(self._ranked, (trial.violation, trial.losses, trial.id, trial), key=lambda row: row[:3])
        return trial
