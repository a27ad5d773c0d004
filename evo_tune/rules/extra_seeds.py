"""Extra seeds: which genome is trained with one more seed, by one of two rules.

`LeaderRanking`: the genome with the best mean over its seeds, until it has had a fixed number. One lucky seed can bring
a genome to the top; extra seeds must confirm it.

`SeedGains`: the genome whose extra seed has the highest expected gain, as long as that exceeds the gain of a new
genome. The gain is the expected fall of the best genome's predicted loss once the result is known
(`genome.seeds`).

Both are states of a fold over the history. Nothing here proposes a new genome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeAlias

import numpy as np

from evo_tune.genome.history import GrowingArray
from evo_tune.genome.kernel import encode_features, unordered_sizes
from evo_tune.genome.seeds import SeedModel, Trainings, choose_genomes, fit_seed_model, seeds_change_nothing
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Trial
from evo_tune.genome.values import genome_key, mean_of
from evo_tune.genome.view import GenomeTrials

Place: TypeAlias = tuple[float, tuple[float, ...], int]
"""Violation of constraints, mean losses, id of the first trial; the lowest leads."""

ENOUGH = 8
"""Minimum number of genomes with a loss for the model."""

TRIED = 6
"""Number of genomes with the lowest predicted losses that are considered for an extra seed."""

PRICE = 0.5
"""Factor on the expected gain of a new genome, because the largest of many predictions is too optimistic."""

LEFT = 24
"""Maximum number of genomes that were not promoted and enter the model with the worst loss. Promoted genomes were
selected; from these alone the model would predict that genomes elsewhere are as good."""

OTHERS = 64
"""Number of candidates for a new genome: variants of the best, and a quarter as many anywhere."""

WIDTH = 0.2
"""Standard deviation of a variant's steps, in unit coordinates."""

GROWTH = 1.1
"""Factor of growth in trainings after which the model is fitted again, which bounds its cost. It is also fitted after
each extra seed, because these results are few and say most about the noise."""


class LeaderRanking:
    """Ranking of the fully trained genomes by the mean over their seeds."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._heap: list[tuple[Place, str]] = []
        self._entries: dict[str, GenomeTrials] = {}

    def update(self, entry: GenomeTrials) -> None:
        """Update a genome with all of its results."""
        trial = entry.trial_by_budget.get(1.0)
        losses = entry.losses(1.0)
        if trial is None or not trial.ok or losses is None:
            self._places.pop(entry.key, None)
            return
        self._entries[entry.key] = entry
        self._places[entry.key] = trial.violation, losses, entry.first_candidate.id
        heappush(self._heap, (self._places[entry.key], entry.key))

    def first(self) -> GenomeTrials | None:
        """Return the leading genome; None if no genome was fully trained."""
        while self._heap and self._places.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)  # outdated: the genome has another place now
        return self._entries[self._heap[0][1]] if self._heap else None


@dataclass
class GenomeLosses:
    """A genome with full or partial trainings.

    Args:
        birth: First candidate with the genome.
        losses: Losses by number of the seed; empty if the result of the first seed does not count.
        repeats: Number of reported extra seeds, with any outcome.
        began: Whether a partial training gave a value.
    """

    first_candidate: Candidate
    losses: dict[int, float] = field(default_factory=dict)
    repeats: int = 0
    began: bool = False

    def update(self, trial: Trial) -> None:
        """Add a result."""
        self.repeats += trial.candidate.extra_seed > 0
        if trial.feasible and trial.losses is not None:
            self.losses[trial.candidate.extra_seed] = trial.losses[0]
        elif not trial.candidate.extra_seed:
            self.losses.clear()


class SeedGains:
    """Fully trained genomes within the constraints, and the expected gain of an extra seed of each.

    Args:
        space: Space of the run.
        cap: Maximum number of seeds per genome.
        shared: Whether all genomes share their seeds.
    """

    def __init__(self, space: SearchSpace, cap: int, shared: bool = True) -> None:
        self._cap, self._shared = cap, shared
        self._sizes = unordered_sizes(space)
        self._rows: dict[str, int] = {}
        self._known: list[GenomeLosses] = []
        self._means, self._counts = GrowingArray(math.inf), GrowingArray(0.0)
        self._units = GrowingArray(*[0.0] * len(self._sizes))
        self._told, self._due = 0, ENOUGH
        self._alike: bool | None = None  # whether no extra seed changed a loss so far; None before the first one
        self._learned: Trainings | None = None
        self._logs: np.ndarray | None = None
        self._memo: tuple[tuple[int, set[str]], tuple[np.ndarray, SeedModel] | None] = ((0, set()), None)
        """Number of results and keys of running promotions, and the model that follows from both."""

    def update(self, trial: Trial, units: np.ndarray) -> None:
        """Add a result, in the order of the history: the number of results decides when the model is fitted.

        Args:
            trial: Completed trial.
            units: Unit coordinates of its genome. Shape (genes,).
        """
        if not trial.candidate.whole and not trial.ok:
            return
        row = self._rows.setdefault(genome_key(trial.genome), len(self._rows))
        if row == len(self._known):
            self._known.append(GenomeLosses(trial.candidate))
            self._units.set(row, units)
        known = self._known[row]
        if not trial.candidate.whole:
            known.began = True
            return
        known.update(trial)
        self._means.set(row, float(mean_of(list(known.losses.values()))) if known.losses else math.inf)
        self._counts.set(row, len(known.losses))
        if len(known.losses) > 1:
            self._alike = self._alike is not False and len(set(known.losses.values())) == 1
        self._told += 1
        tells = self._told >= self._due or (trial.candidate.extra_seed > 0 and self._learned is not None)
        if tells and len(rows := self._selected()) >= ENOUGH:
            self._due = math.ceil(GROWTH * self._told)
            self._learned, self._logs = self._trainings(np.append(rows, self._left(set()))), None

    def best_extra_seed(self, out: Sequence[Candidate], cost: float = 1.0) -> Candidate | None:
        """Return the first candidate of the genome whose extra seed gains most; None if a new genome gains more.

        If extra seeds change no loss, and that is no chance, there are no more.

        Args:
            out: Pending candidates. A genome with a pending seed is left out. At most a quarter of the pending
                candidates are extra seeds, because the results of the new genomes are not known yet.
            cost: Cost of a new genome, in full trainings; an extra seed costs one.
        """
        waiting = {genome_key(one.genome) for one in out if one.extra_seed}
        believed = self._believed(out)
        if believed is None or 4 * len(waiting) > len(out):
            return None
        rows, belief = believed
        known: list[GenomeLosses] = [self._known[row] for row in rows]
        order = np.argsort(belief.expected, kind="stable")
        worth = {
            place: belief.gain_of_seed(place, 1 + known[place].repeats)
            for place in order[:TRIED].tolist()
            if known[place].losses
            and known[place].repeats < self._cap - 1
            and genome_key(known[place].first_candidate.genome) not in waiting
        }
        most: int | None = max(worth, key=lambda place: worth[place], default=None)
        if most is None or cost * worth[most] <= PRICE * belief.gain_of_new(self._others(rows[order])):
            return None
        return known[most].first_candidate

    def expected_losses(self, out: Sequence[Candidate]) -> dict[str, float]:
        """Return the predicted loss by genome key, lowest first: of the best few genomes and of some others.

        The result is empty without a model: with too few genomes, or if seeds do not change the loss.

        Args:
            out: Pending candidates.
        """
        believed = self._believed(out)
        if believed is None:
            return {}
        rows, belief = believed
        order = np.argsort(belief.expected, kind="stable").tolist()
        found = [(self._known[rows[at]], float(belief.expected[at])) for at in order]
        return {genome_key(one.first_candidate.genome): loss for one, loss in found if one.losses}

    def _believed(self, out: Sequence[Candidate]) -> tuple[np.ndarray, SeedModel] | None:
        """Return the rows of the model and its predictions for their genomes; None without a model."""
        going = {genome_key(one.genome) for one in out if one.resumes is not None}
        if self._memo[0] != (self._told, going):
            self._memo = (self._told, going), self._belief(going)
        return self._memo[1]

    def _belief(self, going: set[str]) -> tuple[np.ndarray, SeedModel] | None:
        if self._learned is None or (self._alike and seeds_change_nothing([one.losses for one in self._known])):
            return None
        rows = np.append(self._selected(), self._left(going))
        given = self._trainings(rows)
        if np.ptp(given.losses) == 0.0:
            return None
        if self._logs is None:
            self._logs = fit_seed_model(self._learned)
        return rows, SeedModel(given, self._logs)

    def repeats(self, birth: Candidate) -> int:
        """Return the number of reported extra seeds of a genome."""
        return self._known[self._rows[genome_key(birth.genome)]].repeats

    def _selected(self) -> np.ndarray:
        """Return the rows of the genomes that the model uses, not sorted by predicted loss."""
        means = self._means.get(len(self._known))[:, 0]
        alive = np.flatnonzero(np.isfinite(means))
        return np.asarray(alive[choose_genomes(means[alive], self._counts.get(len(self._known))[alive, 0])])

    def _left(self, going: set[str]) -> np.ndarray:
        """Return the rows of at most LEFT genomes that were not promoted, spread evenly over the run.

        Args:
            going: Keys of genomes with a running promotion. They are excluded because they were selected.
        """
        on = {self._rows[key] for key in going if key in self._rows}
        rows = [row for row, one in enumerate(self._known) if one.began and not one.losses and row not in on]
        steps = np.linspace(0, max(0, len(rows) - 1), min(LEFT, len(rows)))
        return np.asarray(np.array(rows, dtype=int)[np.unique(steps.astype(int))])

    def _trainings(self, rows: np.ndarray) -> Trainings:
        worst = {0: max(max(self._known[row].losses.values(), default=-math.inf) for row in rows)}
        known = [(place, *one) for place, row in enumerate(rows) for one in (self._known[row].losses or worst).items()]
        numbers, seeds, losses = (np.array(column) for column in zip(*known, strict=True))
        points = encode_features(self._units.get(len(self._known))[rows], self._sizes)
        return Trainings(points, numbers, seeds, losses, self._sizes > 0, self._shared)

    def _others(self, rows: np.ndarray) -> np.ndarray:
        """Return features of genomes that a strategy might propose. The seed of the draw follows from the history."""
        rng = np.random.default_rng([self._told, len(self._known)])
        best = self._units.get(len(self._known))[rows[:TRIED]]
        near = best[np.arange(OTHERS) % len(best)]
        struck = rng.random(near.shape) < 1.5 / near.shape[1]
        struck[np.arange(OTHERS), rng.integers(near.shape[1], size=OTHERS)] = True
        moved = np.abs(near + WIDTH * rng.normal(size=near.shape)) % 2.0
        moved = np.where(moved > 1.0, 2.0 - moved, moved)  # reflected at the bounds
        moved = np.where(self._sizes > 0, rng.random(near.shape), moved)
        anywhere = rng.random((OTHERS // 4, near.shape[1]))
        return encode_features(np.concatenate([np.where(struck, moved, near), anywhere]), self._sizes)
