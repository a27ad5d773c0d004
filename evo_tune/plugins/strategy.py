"""The contract of a strategy: a pure function from history to the next birth.

A strategy is a frozen dataclass; its fields are its options (`-s name=value`), fixed in the manifest.
It holds no state, sees no limits and writes nothing, so resuming a run is reading its journal.
It must not know of slots, stores or time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from evo_tune.errors import OptionError
from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective, Proposal

__all__ = ["Prospects", "Seen", "Strategy"]


@dataclass(frozen=True)
class Seen:
    """What the genomes of a run have shown after shares of a training.

    Args:
        shares: Of a training, increasing to 1.
        places: The place of each genome by what was known after each share, the best 1. Shape (genomes, shares); NaN
            where it has no result. What failed has one behind all others, after the whole.
        ids: The id of the birth of each genome.
        units: Unit coordinates of births, by id.
    """

    shares: Sequence[float]
    places: np.ndarray
    ids: np.ndarray
    units: Sequence[np.ndarray]

    def encoded(self, rows: np.ndarray) -> np.ndarray:
        """Return the unit coordinates of some genomes, shape (rows, genes)."""
        return np.stack([self.units[id] for id in self.ids[rows].astype(int).tolist()])


class Prospects(Protocol):
    """What a strategy has learned of the genomes that were seen."""

    def trust(self, share: float) -> float:
        """Return how results after a share of the training and the last ones are correlated, 0 to 1."""
        ...

    def worth(self, rows: np.ndarray) -> np.ndarray:
        """Return what genomes that were seen promise, trained in full, more being better. Shape (rows,)."""
        ...


@dataclass(frozen=True)
class Strategy(ABC):
    """Base of every strategy. The first line of a subclass's docstring is what lists print.

    Args:
        population: Number of trials that survive, and of births in a generation.
    """

    population: int = 12

    several_objectives: ClassVar[bool] = False
    """Whether it can optimise more than one objective."""

    learns: ClassVar[bool] = False
    """Whether it reads `history.lessons`, what earlier runs found; others are refused --learn-from."""

    needs: ClassVar[Mapping[str, str]] = {}
    """Packages that it imports, inside its functions, and that evo-tune does not bring; for each, what pip installs."""
    own_trials: ClassVar[bool] = False
    """Whether it decides itself on budgets, continuations or replicates. Runs with rules for these (`--fidelity`,
    `--prune`, `--replicates`, `--subject-to`) refuse it."""

    @property
    def scores(self) -> bool:
        """Whether it learns what genomes trained in part will come to: it defines `learn` and `propose_learned`.

        Then it says, in a run with `--fidelity`, who goes on.
        """
        return False

    def learn(self, seen: Seen, space: SearchSpace) -> Prospects | None:
        """Return what it learns of what was seen, a pure function of it; None while that is too little."""
        del seen, space
        return None

    def propose_learned(self, history: History, prospects: Any, rng: np.random.Generator) -> Proposal | None:
        """Return the next birth, as `propose` does, by what `learn` returned."""
        del prospects
        return self.propose(history, rng)

    def __post_init__(self) -> None:
        if self.population < 2:
            raise OptionError(f"population={self.population} is not allowed: expected 2 or more")

    def unsuited(self, space: SearchSpace, objectives: Sequence[Objective]) -> str:
        """Return why it cannot search this space for these objectives and what to change; '' if it can."""
        if len(objectives) > 1 and not self.several_objectives:
            metrics = ", ".join(objective.metric for objective in objectives)
            return f"optimises one objective, and {len(objectives)} were given ({metrics}): give one --objective"
        return ""

    def status(self, history: History) -> str:
        """Return, in a line, where the search stands: for people, in the table and at the end; '' for nothing."""
        del history
        return ""

    @abstractmethod
    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        """Return the next birth.

        Args:
            history: Told trials and candidates out; the default genome was born first, outside the
                strategy, and warm starts right after it.
            rng: Fresh for each call; the only source of randomness.

        Returns:
            A proposal whose genome is snapped and was never born with this budget and replicate.
            None says "tell me more first"; None with nothing out ends the run.
        """

    def survivors(self, history: History) -> Sequence[int]:
        """Return the ids of the trials from which it would breed now, at most `population`; pure as well.

        By default the best: also where nothing is bred, for they are what a strategy that breeds would go on from.
        """
        return [trial.id for trial in history.ranking[: self.population]]
