"""Hill climbing, the shortest useful strategy."""

from dataclasses import dataclass

import numpy as np

from evo_tune import History, Proposal, Strategy, Trial, option
from evo_tune.strategies import fresh, unseen


@dataclass(frozen=True)
class HillClimb(Strategy):
    """Hill climbing: change up to two genes of the best genome, and sometimes start anywhere."""

    scale: float = option(0.15, bounds="(0, 1]", help="Size of a change, as a share of a gene's range.")
    restarts: float = option(0.1, bounds="[0, 1]", help="Share of random proposals.")

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        best = history.best
        if best is None or rng.random() < self.restarts:
            return unseen(history, rng)
        return fresh(history, rng, (self._step(best, history, rng) for _ in range(8)))

    def _step(self, best: Trial, history: History, rng: np.random.Generator) -> Proposal:
        units = history.space.encode(best.genome)
        genes = list(history.space.genes.values())
        for place in rng.choice(len(genes), size=min(2, len(genes)), replace=False):
            units[place] = genes[place].mutate(units[place], rng, self.scale)
        return Proposal(history.space.snap(units), "step", parents=(best.id,))
