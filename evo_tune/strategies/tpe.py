"""Bayesian optimisation through Optuna: the tree-structured Parzen estimator, or a Gaussian process.

Each proposal replays the history into a new study in memory, with a new sampler seeded from its generator. So nothing
is kept between two proposals, and there is nothing to save. This works only for samplers that read all they know from
the trials. Optuna's CMA-ES and quasi-Monte-Carlo samplers keep a state of their own in the study (`cma` is our version
of the first, and `staged` starts with points as evenly spread as those of the second).

Sources: Bergstra et al., Algorithms for hyper-parameter optimization (NeurIPS 2011); Akiba et al., Optuna
(KDD 2019).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.history import History
from evo_tune.genome.trial import Proposal, Trial
from evo_tune.genome.values import Genome, Value
from evo_tune.options.declare import option
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies import fresh

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# Points tried before a random genome is taken; those that were proposed before count as running.
ATTEMPTS = 8

# Largest size of a loss, because the differences of several objectives are multiplied.
LARGEST = 1e60


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
    needs: ClassVar[Mapping[str, str]] = {"optuna": "evo-tune[optuna]"}

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        import optuna

        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of experimental features
                return fresh(history, rng, self._ask_study(history, int(rng.integers(2**31))))
        finally:
            optuna.logging.set_verbosity(level)

    def _ask_study(self, history: History, seed: int) -> Iterator[Proposal]:
        """Yield what Optuna suggests after all completed and pending trials, in the order of their ids."""
        import optuna
        from optuna.samplers import GPSampler, TPESampler
        from optuna.trial import TrialState, create_trial

        if self.sampler == "gp":
            sampler: BaseSampler = GPSampler(seed=seed, n_startup_trials=self.first)
        else:
            sampler = TPESampler(seed=seed, n_startup_trials=self.first, constant_liar=True)
        study = optuna.create_study(directions=["minimize"] * len(history.objectives), sampler=sampler)
        genes = history.space.genes
        distributions = {name: distribution_of(gene) for name, gene in genes.items()}

        def freeze(genome: Genome, state: TrialState, values: list[float] | None = None) -> FrozenTrial:
            params = {name: parameter_of(gene, genome[name]) for name, gene in genes.items()}
            return create_trial(state=state, values=values, params=params, distributions=distributions)

        def add(frozen_trials: dict[int, FrozenTrial], trial: Trial) -> dict[int, FrozenTrial]:
            if trial.losses is None:
                frozen_trials[trial.id] = freeze(trial.genome, TrialState.FAIL)
            elif trial.rankable:
                values = [min(max(loss, -LARGEST), LARGEST) for loss in trial.losses]
                frozen_trials[trial.id] = freeze(trial.genome, TrialState.COMPLETE, values)
            return frozen_trials

        completed: dict[int, FrozenTrial] = history.fold(__name__, dict, add)  # each is converted once
        trials = completed | {trial.id: freeze(trial.genome, TrialState.RUNNING) for trial in history.pending}
        study.add_trials(trials[id] for id in sorted(trials))
        for _ in range(ATTEMPTS):
            parameters = study.ask(distributions).params
            genome = {name: value_of(gene, parameters[name]) for name, gene in genes.items()}
            yield Proposal(history.space.check(genome), self.sampler)


def distribution_of(gene: Gene) -> BaseDistribution:
    """Return the Optuna distribution of a gene. Choices use the index of a value: True and 1 are equal for Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(gene, Float):
        return FloatDistribution(gene.low, gene.high, log=gene.log)
    if isinstance(gene, Int):
        return IntDistribution(gene.low, gene.high, log=gene.log, step=gene.step)
    assert isinstance(gene, Choice)
    return IntDistribution(0, gene.size - 1) if gene.ordered else CategoricalDistribution(range(gene.size))


def value_of(gene: Gene, parameter: Any) -> Value:
    """Return the value of a gene for an Optuna parameter."""
    return gene.values[parameter] if isinstance(gene, Choice) else gene.check(parameter)


def parameter_of(gene: Gene, value: Value) -> Any:
    """Return the Optuna parameter for a value of a gene."""
    return int(gene.encode(value) * gene.size) if isinstance(gene, Choice) else value
