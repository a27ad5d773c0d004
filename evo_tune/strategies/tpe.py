"""Bayesian optimisation through Optuna: the tree-structured Parzen estimator, or a Gaussian process.

Every birth replays the history into a fresh study in memory, with a fresh sampler seeded by the birth:
Optuna keeps nothing from one birth to the next, so neither is there anything to save. Only samplers that
read all they know from the trials can work so. Optuna's CMA-ES and quasi-Monte-Carlo samplers cannot:
they keep a state of their own in the study (`cma` is ours of the first, `staged` begins with points as
evenly spread as the second's).

Sources: Bergstra et al., Algorithms for hyper-parameter optimization (NeurIPS 2011); Akiba et al., Optuna
(KDD 2019).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.genome.values import Genome, Value
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies._proposals import fresh

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = ["TPE", "distribution_of", "value_of"]

ATTEMPTS = 8
"""Points asked for before a random genome is taken; those that were born before count as running meanwhile."""

LARGEST = 1e60
"""Losses are cut to this size: with several objectives their differences are multiplied."""


@dataclass(frozen=True)
class TPE(Strategy):
    """Tree-structured Parzen estimator through Optuna; with sampler=gp a Gaussian process.

    Pending trials are running ones for Optuna, so proposals made together do not crowd; failed trials are failed ones.
    Partial trainings are left out, because their losses are on another scale.
    """

    sampler: Literal["tpe", "gp"] = option(
        "tpe", help="Optuna's sampler. 'gp' takes seconds a proposal and loads torch in the run's main process."
    )
    first: int = option(10, bounds="[1, inf)", help="Random trials before the model is used.")

    several_objectives: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {"optuna": "evo-tune[optuna]", "scipy": "evo-tune[optuna]"}

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        with _silence():
            return fresh(history, rng, self._asked(history, self._study(history, int(rng.integers(2**31)))))

    def _asked(self, history: History, study: Study) -> Iterator[Proposal]:
        genes = history.space.genes
        distributions = {name: distribution_of(gene) for name, gene in genes.items()}
        for _ in range(ATTEMPTS):
            asked = study.ask(distributions).params
            genome = {name: value_of(gene, asked[name]) for name, gene in genes.items()}
            yield Proposal(history.space.check(genome), self.sampler)

    def _study(self, history: History, seed: int) -> Study:
        """Return a study that holds all births, in their order."""
        import optuna

        study = optuna.create_study(directions=["minimize"] * len(history.objectives), sampler=self._sampler(seed))
        told: dict[int, FrozenTrial] = history.fold(__name__, dict, lambda trials, trial: _told(trials, trial, history))
        born = {**told, **{one.id: _frozen(history, one.genome, "RUNNING", None) for one in history.out}}
        study.add_trials(born[id] for id in sorted(born))
        return study

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler, TPESampler

        if self.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=self.first)
        return TPESampler(seed=seed, n_startup_trials=self.first, constant_liar=True)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what Optuna logs, and its warnings of what is experimental, off the terminal; its level is put back."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def distribution_of(gene: Gene) -> BaseDistribution:
    """Return a gene as Optuna has it. Values of a Choice go by their index: True and 1 are equal for Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(gene, Float):
        return FloatDistribution(gene.low, gene.high, log=gene.log)
    if isinstance(gene, Int):
        return IntDistribution(gene.low, gene.high, log=gene.log, step=gene.step)
    assert isinstance(gene, Choice)
    return IntDistribution(0, gene.size - 1) if gene.ordered else CategoricalDistribution(range(gene.size))


def value_of(gene: Gene, parameter: Any) -> Value:
    """Return the value that a parameter of Optuna stands for."""
    return gene.values[parameter] if isinstance(gene, Choice) else gene.check(parameter)


def parameter_of(gene: Gene, value: Value) -> Any:
    return int(gene.encode(value) * gene.size) if isinstance(gene, Choice) else value


def _told(trials: dict[int, FrozenTrial], trial: Trial, history: History) -> dict[int, FrozenTrial]:
    """Add a told trial: the step of a fold, so each is made once."""
    if trial.rankable and trial.losses is not None:
        values = [min(max(loss, -LARGEST), LARGEST) for loss in trial.losses]
        trials[trial.id] = _frozen(history, trial.genome, "COMPLETE", values)
    elif not trial.ok:
        trials[trial.id] = _frozen(history, trial.genome, "FAIL", None)
    return trials


def _frozen(history: History, genome: Genome, state: str, values: list[float] | None) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    genes = history.space.genes
    return create_trial(
        state=TrialState[state],
        values=values,
        params={name: parameter_of(gene, genome[name]) for name, gene in genes.items()},
        distributions={name: distribution_of(gene) for name, gene in genes.items()},
    )
