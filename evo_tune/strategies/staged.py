"""Tuning in stages, as by hand: sample the space, search a grid around the best, train the winners again.

1. *coarse*: genomes spread over the whole space.
2. *grid*: the best fifth of them spans a box. The genes that explain most of the losses get a few levels each inside
   it, the others keep the value of the best coarse genome; all combinations are trained.
3. *finalists*: the best few are trained again with other seeds. The cheapest of those within one standard error of the
   best mean wins (Breiman et al., Classification and regression trees, 1984).

The operator of a trial names its stage. A stage starts when all results of the one before are known, so slots wait
twice in a run, and the run ends by itself.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from evo_tune.errors import RecipeError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.history import History
from evo_tune.genome.trial import DEFAULT, WARM_START, Outcome, Proposal, Trial
from evo_tune.genome.values import Genome, genome_key, importance
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import spread

# Operators of the trials of the first stage.
COARSE = (DEFAULT, WARM_START, "coarse")

# Largest grid.
CELLS = 10_000

# Share of its width by which a box is larger than its elite.
WIDER = 0.1


@dataclass(frozen=True)
class Staged(Strategy):
    """Staged tuning: a spread-out sample, a grid among the best, extra seeds of the winners; then the run ends."""

    own_trials: ClassVar[bool] = True
    widens: ClassVar[bool] = False  # the cells of the grid would move, and be trained again

    # A run without limits has 5 generations: at this size they hold the first two stages of up to 13 genes.
    population: int = option(30, bounds="[2, inf)", help="Number of trials in a generation.")
    coarse: int | None = option(
        None, bounds="[2, inf)", help="Trials of the first stage; by default 5 for each gene, at least 30."
    )
    elite: float = option(0.2, bounds="(0, 1]", help="Share of the first stage whose genomes bound the grid.")
    genes: int = option(4, bounds="[1, inf)", help="Largest number of genes that vary in the grid.")
    levels: int = option(3, bounds="[2, inf)", help="Levels of each gene of the grid.")
    finalists: int = option(5, bounds="[0, inf)", help="Genomes trained again; 0 ends the run after the grid.")
    extra_seeds: int = option(3, bounds="[1, inf)", help="Extra seeds of each finalist.")
    cost: str = option(
        "params", help="Metric, or 'seconds', that chooses among equal finalists; 'none' takes the best mean."
    )

    def check(self) -> None:
        if self.levels**self.genes > CELLS:
            raise RecipeError("levels", self.levels, f"a grid of at most {CELLS} cells with genes={self.genes}")

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        coarse = [trial for trial in history.trials if trial.candidate.operator in COARSE]
        pending = sum(candidate.operator in COARSE for candidate in history.pending)
        good = sum(trial.rankable for trial in coarse)
        # If most trials fail, the stage goes on until there is an elite, or the space is used up.
        if len(coarse) + pending < self._coarse_count(history) or good + pending < self._elite_count(history):
            proposal = spread(history, rng)
            if proposal is not None:
                return replace(proposal, operator="coarse")
        if pending:
            return None
        cell = next((cell for cell in self.grid(history, coarse) if not history.seen(cell.genome)), None)
        if cell is not None or any(candidate.operator == "grid" for candidate in history.pending):
            return cell
        finalists = self._finalist_proposals(history)
        unseen = (trial for trial in finalists if not history.seen(trial.genome, 1.0, trial.extra_seed))
        return next(unseen, None)

    def survivors(self, history: History) -> Sequence[int]:
        winner = self.winner(history)
        if winner is None:
            return super().survivors(history)
        key = genome_key(winner)
        return [trial.id for trial in history.ranked() if genome_key(trial.genome) == key][: self.population]

    def grid(self, history: History, coarse: Sequence[Trial]) -> list[Proposal]:
        """Return the cells of the second stage, nearest to the best coarse genome first.

        Args:
            history: History of the run.
            coarse: Completed trials of the first stage.
        """
        space = history.space
        ranked = sorted((t for t in coarse if t.rankable), key=lambda trial: (trial.losses or (), trial.id))
        if not ranked:
            return []
        units = np.stack([history.proposed_units[trial.id] for trial in ranked])
        losses = np.array([trial.losses[0] for trial in ranked if trial.losses])
        elite = units[: self._elite_count(history)]
        levels = [_levels(gene, elite[:, index], self.levels) for index, gene in enumerate(space.genes.values())]
        columns = zip(levels, units.T, space.unordered.tolist(), strict=True)
        importances = [importance(u, losses, unordered) if len(few) > 1 else -1.0 for few, u, unordered in columns]
        most_important = np.argsort(-np.array(importances), kind="stable")[: self.genes]
        varied = [index for index in most_important if importances[index] >= 0]
        values = list(itertools.product(*(levels[index] for index in varied)))
        cells = np.tile(units[0], (len(values), 1))
        cells[:, varied] = values
        nearest_first = sorted(cells, key=lambda cell: float(np.abs(cell - units[0]).sum()))
        return [Proposal(space.snap(cell), "grid", (ranked[0].id,)) for cell in nearest_first]

    def winner(self, history: History) -> Genome | None:
        """Return the genome that the third stage chose; None until all its results are known."""
        trials = [trial for trial in history.trials if trial.candidate.operator == "finalist"]
        if not trials or len(trials) < len(self._finalist_proposals(history)):
            return None
        seeds: dict[str, list[Trial]] = {}
        for trial in trials:
            if trial.rankable:
                seeds.setdefault(genome_key(trial.genome), []).append(trial)
        winner = one_standard_error(list(seeds.values()), self.cost)
        return winner[0].genome if winner else None

    def _coarse_count(self, history: History) -> int:
        return self.coarse or max(30, 5 * len(history.space.genes))

    def _elite_count(self, history: History) -> int:
        return math.ceil(self.elite * self._coarse_count(history))

    def _finalist_proposals(self, history: History) -> list[Proposal]:
        """Return the proposals of the third stage."""
        finalists = [trial for trial in history.ranked() if trial.candidate.extra_seed == 0][: self.finalists]
        pairs = itertools.product(range(1, self.extra_seeds + 1), finalists)
        return [Proposal(trial.genome, "finalist", (trial.id,), extra_seed=number) for number, trial in pairs]


def one_standard_error(contenders: Sequence[Sequence[Trial]], cost: str) -> Sequence[Trial]:
    """Return the cheapest contender whose mean loss is within one standard error of the best mean.

    Args:
        contenders: Successful trials of each genome over seeds, at least one for each.
        cost: Metric that measures cost, or 'seconds'. If a trial lacks it, the best mean wins.

    Returns:
        The trials of the chosen genome; empty without contenders.
    """
    if not contenders:
        return []
    losses = [np.array([trial.losses[0] for trial in trials if trial.losses]) for trials in contenders]
    means = np.array([values.mean() for values in losses])

    def cost_of(outcome: Outcome) -> float:
        return outcome.seconds if cost == "seconds" else outcome.metrics.get(cost, math.nan)

    costs = np.array([np.mean([cost_of(trial.outcome) for trial in trials]) for trials in contenders])
    best = int(np.argmin(means))
    values = losses[best]
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    if np.isnan(costs).any():
        return contenders[best]
    return contenders[min(np.flatnonzero(means <= means[best] + error).tolist(), key=lambda i: (costs[i], means[i]))]


def _levels(gene: Gene, elite: np.ndarray, count: int) -> list[float]:
    """Return the coordinates of the levels of a gene, which have different values.

    Args:
        gene: Gene. If it has an order, its scale is divided evenly; else the levels are its values in the elite.
        elite: Coordinates of the elite, best first, shape (elite,).
        count: Largest number of levels.
    """
    if isinstance(gene, Choice) and not gene.ordered:
        return list(dict.fromkeys(elite.tolist()))[:count]
    low, high = float(elite.min()), float(elite.max())
    margin = WIDER * (high - low) / 2
    levels = np.linspace(max(0.0, low - margin), min(1.0, high + margin), count)
    return list(dict.fromkeys(gene.encode(gene.decode(u)) for u in levels))
