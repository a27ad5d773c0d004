"""The contract of a strategy: a pure function from the history of completed trials to the next proposal.

A strategy is a frozen dataclass. Its fields are its options (`-s name=value`), declared as the recipe's are and saved
in the manifest. It holds no state, knows no limits and writes nothing, so a run is resumed by reading its journal.
It must not know of slots, stores or time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from evo_tune.genome.history import History
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective, Proposal
from evo_tune.options.declare import Options, option


@dataclass(frozen=True)
class GenomeResults:
    """Results of the genomes of a run after partial and full trainings.

    Args:
        shares: Shares of a full training, increasing to 1.
        places: Rank of each genome by its results after each share, 1 being the best, of shape (genomes, shares). NaN
            where a genome has no result. Failed genomes rank behind all others, in the last column.
        ids: Id of the first trial of each genome, shape (genomes,).
        units: Unit coordinates of all trials, by id.
    """

    shares: Sequence[float]
    places: np.ndarray
    ids: np.ndarray
    units: Sequence[np.ndarray]

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Return the unit coordinates of some genomes, shape (rows, genes)."""
        return np.stack([self.units[id] for id in self.ids[rows].astype(int).tolist()])


class Prospects(Protocol):
    """Predictions that a strategy makes from partial trainings."""

    def trust(self, share: float) -> float:
        """Return the correlation of results after a share of the training with final results, 0 to 1."""
        ...

    def worth(self, rows: np.ndarray) -> np.ndarray:
        """Return how promising a full training of some genomes is, higher being better. Shape (rows,)."""
        ...


@dataclass(frozen=True)
class Strategy(Options, ABC):
    """Base of every strategy. Lists print the first line of a subclass's docstring.

    A subclass declares its options as fields with `option(default, bounds=…, help=…)`, and overrides `check` to refuse
    combinations of them.
    """

    population: int = option(12, bounds="[2, inf)", help="Number of surviving trials, and of trials in a generation.")

    # Whether it can optimise more than one objective.
    several_objectives: ClassVar[bool] = False

    # Whether it reads `history.lessons`, the results of earlier runs. Others are refused with --learn-from.
    learns: ClassVar[bool] = False

    # Whether it predicts full trainings from partial ones: it defines `learn`. In a run with `--fidelity`,
    # these predictions then decide which trials are promoted, and `propose_learned` may use them.
    scores: ClassVar[bool] = False

    # Whether it decides itself on budgets, continuations or extra seeds. Runs with rules for these (`--fidelity`,
    # `--prune`, `--seeds-per-trial`, `--subject-to`) refuse it.
    own_trials: ClassVar[bool] = False

    # Whether ranges of genes may become wider during its run. Unit coordinates then change for all trials.
    widens: ClassVar[bool] = True

    # Packages that evo-tune does not install and that it imports inside its functions; for each, what pip installs.
    needs: ClassVar[Mapping[str, str]] = {}

    def learn(self, seen: GenomeResults, space: SearchSpace) -> Prospects | None:
        """Return predictions from partial trainings, a pure function of the arguments; None with too few results."""
        del seen, space
        return None

    def propose_learned(self, history: History, prospects: Any, rng: np.random.Generator) -> Proposal | None:
        """Return the next proposal, as `propose` does, given the predictions that `learn` returned."""
        del prospects
        return self.propose(history, rng)

    def unsuited(self, space: SearchSpace, objectives: Sequence[Objective]) -> str:
        """Return why it cannot search this space for these objectives and what to change; '' if it can."""
        if len(objectives) > 1 and not self.several_objectives:
            metrics = ", ".join(objective.metric for objective in objectives)
            return f"optimises one objective, and {len(objectives)} were given ({metrics}): give one --objective"
        return ""

    def status(self, history: History) -> str:
        """Return one line about the progress of the search, shown during a run and at its end; '' for none."""
        del history
        return ""

    @abstractmethod
    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        """Return the next proposal.

        Args:
            history: Completed and pending trials. The first trial is the default genome; warm starts follow it. The
                strategy is not asked for these.
            rng: New generator for each call, and the only source of randomness.

        Returns:
            A proposal whose genome is snapped and was not proposed before with this budget and extra seed. None means
            that results are needed first; None without a pending trial ends the run.
        """

    def survivors(self, history: History) -> Sequence[int]:
        """Return the ids of at most `population` trials that it would breed from now. Pure, as `propose` is.

        By default the best trials; this also suits strategies that do not breed.
        """
        return [trial.id for trial in history.ranking[: self.population]]
