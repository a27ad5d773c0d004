"""Random search: the baseline of all strategies."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import unseen


@dataclass(frozen=True)
class Random(Strategy):
    """Random search without repetition: uniform over every gene's scale; nothing is learned."""

    several_objectives: ClassVar[bool] = True

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        return unseen(history, rng)
