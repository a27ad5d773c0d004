"""Local search with restarts: the simplest method that works, and a baseline that is seldom reported.

A climb starts at a random genome and moves to the first better neighbour. A gene with an order has two neighbours at
each size of step, and the sizes halve; the neighbours of a gene without an order are all of its other values. A climb
without untried neighbours is at its top, and another one starts elsewhere.

Several climbs may run at the same time, because slots do not wait: the best one with an untried neighbour continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from evo_tune.errors import RecipeError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import spread


@dataclass(frozen=True)
class Hill(Strategy):
    """Hill climbing with restarts: the first better neighbour, in ever smaller steps."""

    step: float = option(0.2, bounds="(0, 1]", unit="share of a gene's range", help="Largest step.")
    min_step: float = option(0.02, bounds="(0, 1]", unit="share of a gene's range", help="Smallest step.")

    def check(self) -> None:
        if self.min_step > self.step:
            raise RecipeError("min_step", self.min_step, f"at most step={self.step}")

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        climbs = history.fold((__name__, self), Climbs, Climbs.add)
        luck = int(rng.integers(2**63))
        for top in climbs.under_way():
            # A generator for each climb: a look at a finished climb must not change the others.
            for proposal in self._neighbours(history, np.random.default_rng([luck, top.id]), top):
                if not history.seen(proposal.genome):
                    return proposal
            climbs.finished.add(top.id)
        start = spread(history, rng)
        return None if start is None else replace(start, operator="start")

    def _neighbours(self, history: History, rng: np.random.Generator, top: Trial) -> Iterator[Proposal]:
        """Yield the neighbours of a trial, large steps first, those of one size in random order."""
        start, size = history.proposed_units[top.id], self.step
        while size >= self.min_step:
            genes = enumerate(history.space.genes.values())
            moves = [(place, u) for place, gene in genes for u in _moves(gene, float(start[place]), size)]
            for place, u in (moves[index] for index in rng.permutation(len(moves))):
                units = start.copy()
                units[place] = u
                yield Proposal(history.space.snap(units), "neighbour", (top.id,))
            size /= 2


def _moves(gene: Gene, u: float, size: float) -> list[float]:
    """Return the coordinates one step away; one cell away if the step is smaller than a cell."""
    if isinstance(gene, Choice) and not gene.ordered:
        return gene.neighbours(u)
    value = gene.decode(u)
    moves = [v for v in (u - size, u + size) if 0.0 <= v <= 1.0 and gene.decode(v) != value]
    return moves or gene.neighbours(u)


@dataclass
class Climbs:
    """The best trial of each climb: the state of a fold. The finished climbs follow from the history alone."""

    start_of: dict[int, int] = field(default_factory=dict)
    best: dict[int, Trial] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)

    def add(self, trial: Trial) -> Climbs:
        """Add a trial to the climb of its parent, or as the start of a climb."""
        parents = trial.candidate.parents
        start = self.start_of[trial.id] = self.start_of[parents[0]] if parents else trial.id
        if trial.rankable and trial.losses is not None:
            best = self.best.get(start)
            if best is None or best.losses is None or trial.losses < best.losses:
                self.best[start] = trial
        return self

    def under_way(self) -> list[Trial]:
        """Return the best trial of each climb that may have an untried neighbour, the best climb first."""
        tops = [trial for trial in self.best.values() if trial.id not in self.finished]
        return sorted(tops, key=lambda trial: (trial.losses or (), trial.id))
