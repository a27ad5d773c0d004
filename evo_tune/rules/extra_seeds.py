"""Which genome is trained with a further seed, by one of two rules.

`Leader`: the one that leads by the mean over its seeds, until it has had so many. One lucky draw brings a genome to the
top, where it must prove itself before it stays.

`Doubt`: the one whose further seed is worth most, while that is worth more than a new genome: by how much the loss that
is expected of the best falls, on the average, once the result is known (`genome.models.seeds`).

Both are the state of a fold, kept while the run goes on; nothing here proposes a new genome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeAlias

import numpy as np

from evo_tune.genome.history import Grown
from evo_tune.genome.models.gaussian import features_of, sizes_of
from evo_tune.genome.models.seeds import Belief, Trainings, fitted, selected
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.standing import Entry
from evo_tune.genome.trial import Candidate, Trial
from evo_tune.genome.values import genome_key, mean_of

__all__ = ["Doubt", "Leader"]

Place: TypeAlias = tuple[float, tuple[float, ...], int]
"""Violation, mean losses, id of the birth: the least leads."""

ENOUGH = 8
"""Genomes with a loss from which anything is believed."""

TRIED = 6
"""Genomes, those of which the least loss is expected, that are considered for a further seed."""

PRICE = 0.5
"""What a new genome's promise counts for. It is that of the best of many candidates, as a model sees them that is
wrong here and there: whoever takes the largest of many predictions takes its errors too."""

LEFT = 24
"""Genomes, at most, that did not go on from a part of a training, and are taken to be as bad as the worst. Those that
went on were chosen: of these alone it would seem that genomes elsewhere are as good as they are on the average."""

OTHERS = 64
"""Candidates by which a new genome is judged: variants of the best, and a quarter as many anywhere."""

WIDTH = 0.2
"""Standard deviation of a variant's steps, in unit coordinates."""

GROWTH = 1.1
"""The model is fitted anew when so many times the trainings are there, and not for each: that bounds its cost. Results
of further seeds are few, and tell more of the noise than all others: it is for each of these too."""


class Leader:
    """The genomes that were trained in full, by the means over their seeds, and the first of them."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._heap: list[tuple[Place, str]] = []
        self._entries: dict[str, Entry] = {}

    def take(self, entry: Entry) -> None:
        """Note what was told of a genome, all of it."""
        trial = entry.results.get(1.0)
        losses = entry.losses(1.0)
        if trial is None or not trial.ok or losses is None:
            self._places.pop(entry.key, None)
            return
        self._entries[entry.key] = entry
        self._places[entry.key] = trial.violation, losses, entry.birth.id
        heappush(self._heap, (self._places[entry.key], entry.key))

    def first(self) -> Entry | None:
        """Return the genome that leads, if any."""
        while self._heap and self._places.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)  # a place that was taken from it since
        return self._entries[self._heap[0][1]] if self._heap else None


@dataclass
class Trained:
    """A genome that was trained, in full or in part.

    Args:
        birth: The candidate as which it was.
        losses: By number of the seed; empty where the first seed's result does not count.
        repeats: Further seeds that were told, whatever came of them.
        began: Whether a part of a training gave a value.
    """

    birth: Candidate
    losses: dict[int, float] = field(default_factory=dict)
    repeats: int = 0
    began: bool = False

    def take(self, trial: Trial) -> None:
        """Note a result."""
        self.repeats += trial.candidate.replicate > 0
        if trial.feasible and trial.losses is not None:
            self.losses[trial.candidate.replicate] = trial.losses[0]
        elif not trial.candidate.replicate:
            self.losses.clear()


class Doubt:
    """The genomes that were trained in full within the constraints, and what a further seed of each is worth.

    Args:
        space: The run's.
        cap: Seeds that a genome has at most.
        shared: Whether they are the same ones for all genomes.
    """

    def __init__(self, space: SearchSpace, cap: int, shared: bool = True) -> None:
        self._cap, self._shared = cap, shared
        self._sizes = sizes_of(space)
        self._rows: dict[str, int] = {}
        self._known: list[Trained] = []
        self._means, self._counts = Grown(math.inf), Grown(0.0)
        self._units = Grown(*[0.0] * len(self._sizes))
        self._told, self._due = 0, ENOUGH
        self._same: bool | None = None
        """Whether no further seed has changed a loss; None: there was none."""
        self._learned: Trainings | None = None
        self._logs: np.ndarray | None = None
        self._memo: tuple[tuple[int, set[str]], tuple[np.ndarray, Belief] | None] = ((0, set()), None)
        """How many results were told, whose training goes on, and what follows from both."""

    def take(self, trial: Trial, units: np.ndarray) -> None:
        """Note a result, in the order in which results are told: when the model is fitted follows from their number.

        Args:
            trial: It.
            units: Its genome's unit coordinates, shape (genes,).
        """
        if not trial.candidate.whole and not trial.ok:
            return
        row = self._rows.setdefault(genome_key(trial.genome), len(self._rows))
        if row == len(self._known):
            self._known.append(Trained(trial.candidate))
            self._units.set(row, units)
        known = self._known[row]
        if not trial.candidate.whole:
            known.began = True
            return
        known.take(trial)
        if trial.candidate.replicate and trial.candidate.replicate in known.losses:
            self._same = self._same is not False and len(set(known.losses.values())) == 1
        self._means.set(row, float(mean_of(list(known.losses.values()))) if known.losses else math.inf)
        self._counts.set(row, len(known.losses))
        self._told += 1
        tells = self._told >= self._due or (trial.candidate.replicate > 0 and self._learned is not None)
        if tells and len(rows := self._selected()) >= ENOUGH:
            self._due = math.ceil(GROWTH * self._told)
            self._learned, self._logs = self._trainings(np.append(rows, self._left(set()))), None

    def next(self, out: Sequence[Candidate], cost: float = 1.0) -> Candidate | None:
        """Return the birth of the genome whose next seed is worth most, and more than a new genome; or None.

        Where the first further seeds change nothing, there are no more.

        Args:
            out: What is in training. A genome is not judged while a seed of it is out, and at most a quarter of what is
                out are further seeds, since of what the new genomes among it will change nothing is known.
            cost: What a new genome takes, in full trainings; a further seed takes one.
        """
        waiting = {genome_key(one.genome) for one in out if one.replicate}
        believed = self._believed(out)
        if believed is None or 4 * len(waiting) > len(out):
            return None
        rows, belief = believed
        known: list[Trained] = [self._known[row] for row in rows]
        order = np.argsort(belief.expected, kind="stable")
        worth = {
            place: belief.of_seed(place, 1 + known[place].repeats)
            for place in order[:TRIED].tolist()
            if known[place].losses
            and known[place].repeats < self._cap - 1
            and genome_key(known[place].birth.genome) not in waiting
        }
        most: int | None = max(worth, key=lambda place: worth[place], default=None)
        if most is None or cost * worth[most] <= PRICE * belief.of_new(self._others(rows[order])):
            return None
        return known[most].birth

    def expected(self, out: Sequence[Candidate]) -> dict[str, float]:
        """Return by key the loss that is expected of the best few genomes, and of some others, the least first.

        Empty where nothing is believed: of few genomes, and where seeds change nothing.

        Args:
            out: What is in training.
        """
        believed = self._believed(out)
        if believed is None:
            return {}
        rows, belief = believed
        order = np.argsort(belief.expected, kind="stable").tolist()
        found = [(self._known[rows[at]], float(belief.expected[at])) for at in order]
        return {genome_key(one.birth.genome): loss for one, loss in found if one.losses}

    def _believed(self, out: Sequence[Candidate]) -> tuple[np.ndarray, Belief] | None:
        """Return rows and what is believed of their genomes."""
        going = {genome_key(one.genome) for one in out if one.resumes is not None}
        if self._memo[0] != (self._told, going):
            self._memo = (self._told, going), self._belief(going)
        return self._memo[1]

    def _belief(self, going: set[str]) -> tuple[np.ndarray, Belief] | None:
        if self._learned is None or self._same:
            return None
        rows = np.append(self._selected(), self._left(going))
        given = self._trainings(rows)
        if np.ptp(given.losses) == 0.0:
            return None
        if self._logs is None:
            self._logs = fitted(self._learned)
        return rows, Belief(given, self._logs)

    def repeats(self, birth: Candidate) -> int:
        """Return how many further seeds of a genome were told."""
        return self._known[self._rows[genome_key(birth.genome)]].repeats

    def _selected(self) -> np.ndarray:
        """Return the rows that the model rests on; not in their order by expected losses."""
        means = self._means.get(len(self._known))[:, 0]
        alive = np.flatnonzero(np.isfinite(means))
        return np.asarray(alive[selected(means[alive], self._counts.get(len(self._known))[alive, 0])])

    def _left(self, going: set[str]) -> np.ndarray:
        """Return the rows of some genomes that did not go on, spread over the run; at most LEFT.

        Args:
            going: Keys of genomes that are going on just now: who was promoted is no worse than others.
        """
        on = {self._rows[key] for key in going if key in self._rows}
        rows = [row for row, one in enumerate(self._known) if one.began and not one.losses and row not in on]
        steps = np.linspace(0, max(0, len(rows) - 1), min(LEFT, len(rows)))
        return np.asarray(np.array(rows, dtype=int)[np.unique(steps.astype(int))])

    def _trainings(self, rows: np.ndarray) -> Trainings:
        worst = {0: max(max(self._known[row].losses.values(), default=-math.inf) for row in rows)}
        known = [(place, *one) for place, row in enumerate(rows) for one in (self._known[row].losses or worst).items()]
        numbers, seeds, losses = (np.array(column) for column in zip(*known, strict=True))
        points = features_of(self._units.get(len(self._known))[rows], self._sizes)
        return Trainings(points, numbers, seeds, losses, self._sizes > 0, self._shared)

    def _others(self, rows: np.ndarray) -> np.ndarray:
        """Return features of genomes that a strategy might propose, drawn by a seed that follows from what was told."""
        rng = np.random.default_rng([self._told, len(self._known)])
        best = self._units.get(len(self._known))[rows[:TRIED]]
        near = best[np.arange(OTHERS) % len(best)]
        struck = rng.random(near.shape) < 1.5 / near.shape[1]
        struck[np.arange(OTHERS), rng.integers(near.shape[1], size=OTHERS)] = True
        moved = np.abs(near + WIDTH * rng.normal(size=near.shape)) % 2.0
        moved = np.where(moved > 1.0, 2.0 - moved, moved)  # reflected at the bounds
        moved = np.where(self._sizes > 0, rng.random(near.shape), moved)
        anywhere = rng.random((OTHERS // 4, near.shape[1]))
        return features_of(np.concatenate([np.where(struck, moved, near), anywhere]), self._sizes)
