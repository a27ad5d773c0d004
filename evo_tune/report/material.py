"""What the charts of a report are made of: one run, read once, each part worked out when it is first asked for.

Everything follows from the run; nothing here draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.trial import Objective, Trial
from evo_tune.report import summary
from evo_tune.report.calibration import is_default, recommended
from evo_tune.report.model import Model
from evo_tune.report.summary import Closing
from evo_tune.store.run import Run

__all__ = ["LARGEST", "Material", "is_unordered"]

LARGEST = 1e300
"""Values beyond this, in size, are left out of charts: sums of them are no numbers."""


class Material:
    """One run, read once.

    Args:
        run: It; as long as it goes on, what was asked for once stays as it was then.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.name = run.name
        self.genes: dict[str, Gene] = run.genes
        self._units: dict[int, list[float]] = {}

    @property
    def objective(self) -> Objective:
        """The first objective: what "better" means where only one can be shown."""
        return self.run.objectives[0]

    @property
    def metric(self) -> str:
        """The first objective's metric."""
        return self.objective.metric

    @property
    def better(self) -> str:
        """'lower' or 'higher', whichever is better."""
        return "lower" if self.objective.sign > 0 else "higher"

    @cached_property
    def trials(self) -> list[Trial]:
        """Every recorded result, by id."""
        return self.run.trials()

    @cached_property
    def by_id(self) -> dict[int, Trial]:
        """The same, by id."""
        return {trial.id: trial for trial in self.trials}

    @cached_property
    def ranked(self) -> list[Trial]:
        """The genomes with a full training of their own, best first (see `Run.ranked`); none with absurd values."""
        return [trial for trial in self.run.ranked() if max(map(abs, trial.losses or (math.inf,))) < LARGEST]

    @cached_property
    def losses(self) -> np.ndarray:
        """The first objective of `ranked`, to be minimised, shape (ranked,)."""
        return np.array([trial.losses[0] for trial in self.ranked if trial.losses], dtype=float)

    @cached_property
    def values(self) -> np.ndarray:
        """The first objective of `ranked` as its metric has it, shape (ranked,)."""
        return self.losses * self.objective.sign

    @cached_property
    def units(self) -> np.ndarray:
        """Unit coordinates of `ranked`, shape (ranked, genes)."""
        return self.encoded(self.ranked)

    def encoded(self, trials: Sequence[Trial]) -> np.ndarray:
        """Return the unit coordinates of some trials, shape (trials, genes)."""
        genes = self.genes.items()
        for trial in trials:
            if trial.id not in self._units:
                genome = trial.genome
                self._units[trial.id] = [gene.encode(genome[name]) for name, gene in genes]
        return np.array([self._units[trial.id] for trial in trials], dtype=float).reshape(len(trials), len(self.genes))

    @cached_property
    def best(self) -> Trial | None:
        """The trial to recommend; None if there is none."""
        return recommended(self.run)

    @cached_property
    def default(self) -> Trial | None:
        """The default genome's full training; None if it has no value."""
        if not self.run.candidates:
            return None
        return next((trial for trial in self.ranked if is_default(trial, self.run)), None)

    @cached_property
    def closing(self) -> Closing:
        """How the run ended up."""
        return summary.closing(self.run)

    @cached_property
    def costs(self) -> dict[int, float]:
        """What each candidate cost, in full trainings."""
        return summary.costs(self.run)

    @cached_property
    def model(self) -> Model | None:
        """What a forest learned from `ranked`; None for too few trials, or losses without any spread."""
        if len(self.ranked) < summary.ENOUGH or len(self.genes) > Model.MOST_GENES or np.ptp(self.losses) == 0:
            return None
        sizes = np.array([gene.size if is_unordered(gene) else 0 for gene in self.genes.values()], dtype=int)
        grids = [_grid(gene) for gene in self.genes.values()]
        return Model.fit(self.units, self.losses, sizes, grids, np.random.default_rng(0))

    @cached_property
    def by_importance(self) -> list[str]:
        """Names of the genes that have more than one value, the most important first where that is known."""
        names = [name for name, gene in self.genes.items() if gene.size > 1]
        if self.model is None:
            return names
        share = dict(zip(self.genes, self.model.anova.mean(axis=0), strict=True))
        return sorted(names, key=lambda name: -share[name])

    @cached_property
    def worst_shown(self) -> float:
        """Loss above which results are not told apart in charts: far beyond three quarters of all; NaN for none."""
        if not len(self.losses):
            return math.nan
        low, middle, high = np.quantile(self.losses, [0.0, 0.5, 0.75])
        return float(min(self.losses.max(), max(high + (high - low), middle)))


def is_unordered(gene: Gene) -> bool:
    """Whether a gene's values have no order."""
    return isinstance(gene, Choice) and not gene.ordered


CELLS = 48
"""Most points of a gene's grid."""


def _grid(gene: Gene) -> np.ndarray:
    """Return unit coordinates along a gene: each value of one that has few, else evenly spread. Shape (points,)."""
    count = int(min(gene.size, CELLS))
    points = (np.arange(count) + 0.5) / count
    if gene.size <= CELLS:
        values = [gene.decode(float(point)) for point in points]
        points = np.unique([gene.encode(value) for value in values])
    return np.asarray(points)
