"""The history that a strategy may read: completed trials that were reported to it, and pending ones.

A strategy is a pure function of a `History` (law 1). A history follows only from the sequence of proposed candidates
and reported results. It has no clock, no limits and no results that are recorded but not yet reported. This module
knows nothing of stores, slots or torch.
"""

import hashlib
import json
from bisect import bisect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Constraint, Objective, Outcome, Trial, with_genes
from evo_tune.genome.values import Genome, Value, genome_key, is_number


@dataclass(frozen=True)
class Lesson:
    """The results of one earlier run, used as a prior.

    Args:
        name: Name of the run.
        shared: Indices of the genes that the run has too, shape (shared,).
        units: Unit coordinates of its genomes, shape (trials, genes). Genes that it lacks have their defaults.
        losses: Losses of its genomes, shape (trials,).
        memo: Cache for values computed from the other fields alone.
    """

    name: str
    shared: np.ndarray
    units: np.ndarray
    losses: np.ndarray
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, genomes: Sequence[Genome], losses: Sequence[float], space: SearchSpace) -> "Lesson":
        """Return the lesson of a run's trials in a space; values out of range move to the nearest allowed value.

        Genomes with a category that the space does not have are left out.
        """
        shared = [index for index, gene in enumerate(space.genes) if any(gene in genome for genome in genomes)]
        units, usable_losses = [], []
        for genome, loss in zip(genomes, losses, strict=True):
            moved = {name: _nearest_value(gene, genome[name]) for name, gene in space.genes.items() if name in genome}
            if None not in moved.values():
                units.append(space.encode(space.check({**space.default(), **moved})))
                usable_losses.append(loss)
        shape = (-1, len(space.genes))
        return cls(name, np.array(shared, dtype=int), np.array(units).reshape(shape), np.array(usable_losses))


def _nearest_value(gene: Gene, value: Value) -> Value | None:
    """Return the gene's value that is nearest to a value of another run; None if it has no comparable value."""
    try:
        return gene.check(value)
    except SpaceError:
        pass
    if not is_number(value):
        return None
    if isinstance(gene, Choice):
        numbers = [mine for mine in gene.values if is_number(mine)] if gene.ordered else []
        return min(numbers, key=lambda mine: abs(float(mine) - float(value)), default=None)
    low, high = gene.decode(0.0), gene.decode(1.0)
    if not float(low) < float(value) < float(high):
        return low if float(value) <= float(low) else high
    return gene.decode(gene.encode(round(float(value)) if isinstance(low, int) else value))


def results_digest(genomes: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> str:
    """Return the SHA-256 of genomes and losses, to check that two runs use the same earlier results."""
    return hashlib.sha256(json.dumps([list(genomes), list(losses)], sort_keys=True).encode()).hexdigest()


State = TypeVar("State")
Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence whose items are made when they are first read.

    Args:
        count: Number of items (int ≥ 0).
        make: Function that returns the item at an index from 0.
    """

    def __init__(self, count: int, make: Callable[[int], Item]) -> None:
        self._items: list[Item | None] = [None] * count
        self._make = make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        item = self._items[index]
        if item is None:
            item = self._items[index] = self._make(index % len(self))
        return item


class GrowingArray:
    """An array that grows by rows, with few copies of the earlier ones.

    Args:
        fill: Values of a row that was never set, one for each column.
    """

    def __init__(self, *fill: float) -> None:
        self._fill = np.array(fill)
        self._rows = np.tile(self._fill, (64, 1))

    def set(self, row: int, values: Sequence[float] | np.ndarray | float) -> None:
        """Set a row."""
        while row >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.tile(self._fill, (len(self._rows), 1))])
        self._rows[row] = values

    def first_rows(self, count: int) -> np.ndarray:
        """Return a view of the first `count` rows, shape (count, columns)."""
        while count > len(self._rows):
            self.set(len(self._rows), self._fill)
        return self._rows[:count]

    def first_column(self, count: int) -> np.ndarray:
        """Return a view of the first column of the first `count` rows, shape (count,)."""
        return self.first_rows(count)[:, 0]


@dataclass(frozen=True)
class Arrays:
    """A history as arrays of numbers, for models; features are those of `SearchSpace.to_features`.

    Args:
        x: Features of the fully trained trials with losses, in the order of `ranking`. Shape (trials, features).
        y: Their losses, lower is better; ranks in a run whose losses have no common scale (see
            docs/strategies.md). Shape (trials, objectives).
        failed: Features of the failed trials, in the order of `failed`. Shape (failed, features).
        pending: Features of the pending trials, in the order of `pending` of the history. Shape (pending, features).
    """

    x: np.ndarray
    y: np.ndarray
    failed: np.ndarray
    pending: np.ndarray


class RankingTable(NamedTuple):
    """The numbers of the trials of `History.ranking`, a row each; see the methods of `History` with these names."""

    ranked_losses: np.ndarray
    bare_losses: np.ndarray
    scaled_losses: np.ndarray
    excesses: np.ndarray


class History:
    """The trials that a strategy may use; read-only.

    Args:
        space: Search space, repair included.
        objectives: Objectives, in order of importance.
        constraints: Constraints; a trial that breaks one ranks behind those that meet all.
        lessons: Results of earlier runs, which do not count as trials.
    """

    # Completed trials, in the order of their reports.
    trials: Sequence[Trial]

    # The first candidate of each genome, in the order of proposal, without promotions and extra seeds.
    fresh_proposals: Sequence[Candidate]

    # Unit coordinates of every candidate, completed or pending, by id; each of shape (genes,).
    proposed_units: Sequence[np.ndarray]

    # Completed trials without losses, in the order of `trials`.
    failed: Sequence[Trial]

    # Fully trained trials with losses, best first; each may be made when it is read. Trials that meet the constraints
    # come first; equal trials are ordered by id.
    ranking: Sequence[Trial]

    # The numbers of the trials of `ranking`.
    _table: RankingTable

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        lessons: Sequence[Lesson] = (),
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.lessons = tuple(lessons)
        self._begin()

    def _begin(self) -> None:
        """Create what the two kinds of history fill; a subclass adds its own attributes."""
        self.trials, self.fresh_proposals, self.proposed_units, self.failed, self.ranking = [], [], [], [], []
        self._pending: dict[int, Candidate] = {}
        # Id of each proposal by genome key, budget and extra seed.
        self._proposals: dict[tuple[str, float, int], int] = {}
        self._folds: dict[Hashable, tuple[int, Any]] = {}

    @property
    def pending(self) -> Sequence[Candidate]:
        """Pending candidates, in the order of their proposal."""
        return list(self._pending.values())

    def ranked_losses(self) -> np.ndarray:
        """Return the losses of `ranking`, shape (trials, objectives)."""
        return np.array(self._table.ranked_losses)

    def bare_losses(self) -> np.ndarray:
        """Return the losses of `ranking` as if there were no constraints, shape (trials, objectives)."""
        return np.array(self._table.bare_losses)

    def scaled_losses(self) -> np.ndarray:
        """Return the first losses of `ranking` on one common scale, shape (trials,).

        They ascend among the trials that meet the constraints. NaN for trials whose loss has another scale.
        """
        return np.array(self._table.scaled_losses)

    def excesses(self) -> np.ndarray:
        """Return by how much the trials of `ranking` exceed each constraint, shape (trials, constraints).

        Negative where a constraint is met by a margin, NaN where a trial lacks the metric.
        """
        return np.array(self._table.excesses)

    def seen(self, genome: Genome, budget: float = 1.0, extra_seed: int = 0) -> bool:
        """Return whether this was proposed before; a duplicate would waste a training run."""
        return (genome_key(genome), budget, extra_seed) in self._proposals

    @property
    def proposed_count(self) -> int:
        """Number of candidates proposed: the id of the next one."""
        return len(self.proposed_units)

    @property
    def fresh_count(self) -> int:
        """Number of genomes proposed."""
        return len(self.fresh_proposals)

    def ranked(self) -> list[Trial]:
        """Return `ranking` as a list."""
        return list(self.ranking)

    @property
    def best(self) -> Trial | None:
        """The first of `ranking`; None if it is empty."""
        return self.ranking[0] if self.ranking else None

    def arrays(self) -> Arrays:
        """Return the history as arrays of numbers, for a model; new arrays at each call."""
        losses, scaled = self.ranked_losses(), self.scaled_losses()
        if len(self.objectives) == 1 and np.isfinite(scaled).all() and (self.excesses() <= 0.0).all():
            losses = scaled[:, None]
        trials = (self.ranking, self.failed, self.pending)
        x, failed, pending = (self.space.to_features(units_of(self, group)) for group in trials)
        return Arrays(x, losses, failed, pending)

    def fold(self, key: Hashable, initial: Callable[[], State], step: Callable[[State, Trial], State]) -> State:
        """Return the left fold of `step` over `trials`.

        The state is kept, so a call processes only the trials reported since the last one. It depends on the
        trials alone.

        Args:
            key: Name of the fold; a key must always be used with the same `initial` and `step`.
            initial: Function that returns the state before the first trial.
            step: Function that takes the state and the next trial and returns the next state, which may be the same
                object.
        """
        return self._update_fold(key, initial, step, self.trials)

    def fold_proposals(
        self, key: Hashable, initial: Callable[[], State], step: Callable[[State, Candidate], State]
    ) -> State:
        """Return the left fold of `step` over `fresh_proposals`; see `fold`."""
        return self._update_fold(key, initial, step, self.fresh_proposals)

    def _update_fold(
        self, key: Hashable, initial: Callable[[], State], step: Callable[[State, Item], State], items: Sequence[Item]
    ) -> State:
        count, state = self._folds[key] if key in self._folds else (0, initial())
        for item in items[count:]:
            state = step(state, item)
        self._folds[key] = (len(items), state)
        return state


def units_of(history: History, trials: Sequence[Trial] | Sequence[Candidate]) -> np.ndarray:
    """Return the unit coordinates of trials, shape (trials, genes)."""
    return np.array([history.proposed_units[trial.id] for trial in trials]).reshape(-1, len(history.space.genes))


class RunHistory(History):
    """The history of a run. The search loop or a replay adds candidates and results; strategies only read it.

    Args:
        space: See `History`.
        objectives: See `History`.
        constraints: See `History`.
        lessons: See `History`.
    """

    trials: list[Trial]
    fresh_proposals: list[Candidate]
    proposed_units: list[np.ndarray]
    failed: list[Trial]
    ranking: list[Trial]

    def _begin(self) -> None:
        super()._begin()
        # The space at first and after each widening.
        self.spaces = [self.space]
        losses = np.empty((0, len(self.objectives)))
        self._table = RankingTable(losses, losses, losses[:, 0], np.empty((0, len(self.constraints))))
        self._before_widening: frozenset[str] = frozenset()

    def predates_widening(self, genome: Genome) -> bool:
        """Return whether a genome was proposed before the space was widened, with the steps of the earlier space."""
        return genome_key(genome) in self._before_widening

    def add_candidate(self, candidate: Candidate) -> None:
        """Add a proposed candidate.

        Raises:
            ValueError: The candidate does not have the next id.
        """
        if candidate.id != self.proposed_count:
            raise ValueError(f"candidate {candidate.id} is out of order: expected {self.proposed_count}")
        genes = self.space.genes
        if candidate.genome.keys() > genes.keys():  # it has the defaults of genes that join the run later
            candidate = replace(candidate, genome={name: candidate.genome[name] for name in genes})
        # This line comes first because it raises if the space has changed.
        self.proposed_units.append(self.space.encode(candidate.genome))
        self._pending[candidate.id] = candidate
        if candidate.fresh:
            self.fresh_proposals.append(candidate)
        key = genome_key(candidate.genome), candidate.budget, candidate.extra_seed
        self._proposals.setdefault(key, candidate.id)

    def widen(self, space: SearchSpace, lessons: Sequence[Lesson] = ()) -> None:
        """Continue in a wider space: genomes stay the same, and their unit coordinates are computed again.

        Args:
            space: Space with all values of the current one. Earlier genomes have the defaults of its new genes.
            lessons: Results of earlier runs, in the coordinates of the wider space.
        """
        defaults = {name: gene.middle() for name, gene in space.genes.items() if name not in self.space.genes}
        trials, spaces = self.trials, [*self.spaces, space]
        candidates = (*self._pending.values(), *(trial.candidate for trial in trials))
        self.space, self.lessons = space, tuple(lessons)
        self._begin()  # all else depends on the genes or on the coordinates
        self.spaces = spaces
        for candidate in sorted(candidates, key=lambda candidate: candidate.id):
            self.add_candidate(with_genes(candidate, defaults))
        for trial in trials:
            self.tell(trial.id, trial.outcome)
        self._before_widening = frozenset(key for key, *_ in self._proposals)

    def tell(self, id: int, outcome: Outcome) -> Trial:
        """Report the result of a pending candidate; return the completed trial."""
        trial = Trial.of(self._pending.pop(id), outcome, len(self.trials), self.objectives, self.constraints)
        self.trials.append(trial)
        if not trial.ok:
            self.failed.append(trial)
        if trial.rankable and trial.losses is not None:
            row = bisect(self.ranking, _sort_key(trial), key=_sort_key)
            new_excesses = [constraint.excess(outcome.metrics) for constraint in self.constraints]
            losses = np.insert(self._table.ranked_losses, row, trial.losses, axis=0)
            excesses = np.insert(self._table.excesses, row, new_excesses, axis=0)
            self._table = RankingTable(losses, losses, losses[:, 0], excesses)
            self.ranking.insert(row, trial)
        return trial


def _sort_key(trial: Trial) -> tuple[float, tuple[float, ...], int]:
    """Return what `RunHistory.ranking` is sorted by: violation, losses, id."""
    return trial.violation, trial.losses or (), trial.id
