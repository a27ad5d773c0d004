"""Use a strategy as a sampler of Optuna.

    study = optuna.create_study(sampler=StrategySampler(seed=1))
    study.optimize(objective, n_trials=40)

The study has all that the sampler knows, so several processes can share one storage, and a study continues with a new
sampler. Importing this module imports optuna.
"""

import contextlib
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from evo_tune.errors import SpaceError, UsageError, require_extra
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import DEFAULT, WARM_START, Proposal, Status
from evo_tune.genome.values import Value, space_error_prefix
from evo_tune.loop.external import ExternalTrial, gene_name, make_external_strategy, propose_external, space_of_genes
from evo_tune.store.manifest import Finite

with require_extra("evo_tune.integrations.optuna", "optuna"):
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
    from optuna.study import Study, StudyDirection
    from optuna.trial import FrozenTrial, TrialState

# System attribute of a trial with its operator, parents and proposed parameters.
ATTRIBUTE = "evo_tune"

# Maximum number of proposals for a trial, where other processes propose the same.
ATTEMPTS = 4

# Held from reading the trials to saving a proposal, so that the threads of a study see each other's proposals.
LOCK = threading.Lock()

STATUSES: dict[TrialState, Status | None] = {
    TrialState.RUNNING: None,
    TrialState.COMPLETE: "ok",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class StrategySampler(BaseSampler):
    """Sampler of Optuna that asks a strategy of evo-tune.

    The first trial is the middle of each range, or the first enqueued trial. The space has every parameter that the
    study has seen. A parameter that depends on a category is recognised as conditional. One that was never suggested
    before is drawn at random. Where a strategy has no new genome, parameters are drawn at random too.

    Args:
        strategy: Name or path of a strategy.
        options: Options of the strategy by name.
        priors: Value that is believed to be good and its spread, by parameter; see docs/strategies.md.
        seed: Seed (int ≥ 0). The same study and seed give the same proposals. By default a random one.
        constraints_func: Function that takes a completed trial and returns how much it exceeds each constraint, as for
            Optuna's samplers. Optuna 5 warns, as its own samplers do: call `trial.set_constraint` in the objective.

    Raises:
        UsageError: The strategy is unknown or decides on budgets itself, or an argument is wrong. Later, in a study:
            the strategy is not suited to its space or objectives.
    """

    def __init__(
        self,
        strategy: str = "saea",
        *,
        options: Mapping[str, Any] | None = None,
        priors: Mapping[str, tuple[Value, float]] | None = None,
        seed: int | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        self._strategy, self._seed = make_external_strategy(strategy, options, seed)
        self._priors = dict(priors or {})
        # Saves the constraints of a trial as Optuna's samplers do; only they have a public way to it.
        self._constraint_saver = constraints_func and NSGAIISampler(constraints_func=constraints_func)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return each parameter of the study that a gene can represent, with the widest range that it ever had."""
        ranges: dict[str, BaseDistribution] = {}
        for earlier in self._trials(study, trial):
            for name, distribution in earlier.distributions.items():
                ranges[name] = _widest(ranges[name], distribution) if name in ranges else distribution
        return {name: ranges[name] for name in sorted(ranges) if _gene(ranges[name]) is not None}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._check_objectives(study)
        if not search_space:
            return {}
        with LOCK:
            for _ in range(ATTEMPTS):
                params = self._propose(study, trial, search_space)
                proposed = {name: search_space[name].to_internal_repr(value) for name, value in params.items()}
                copies = [copy for copy in self._trials(study, trial) if _origin(copy).params == proposed]
                if all(copy.state == TrialState.RUNNING and copy.number > trial.number for copy in copies):
                    break  # else another process has proposed the same at the same moment
        return params

    def _propose(
        self, study: Study, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next proposal, which the trial now has as an attribute."""
        trials = self._trials(study, trial)
        space = self._space(distributions, trials)
        external_trials = [_external_trial(earlier, space, distributions) for earlier in trials]
        directions = ["min" if direction == StudyDirection.MINIMIZE else "max" for direction in study.directions]
        rng = np.random.default_rng([self._seed, 0, trial.number])
        proposal = propose_external(self._strategy, space, directions, external_trials, rng)
        if proposal is None:  # Optuna cannot wait, and repeats configurations of a small space
            proposal = Proposal(space.sample(rng), "random")
        genome = proposal.genome
        params = {name: _to_parameter(distributions[name], genome[gene_name(name)]) for name in distributions}
        origin: Any = {
            "operator": proposal.operator,
            "parents": list(proposal.parents),
            "params": {name: distributions[name].to_internal_repr(value) for name, value in params.items()},
        }
        # Optuna has no public way for a sampler to save data with a trial; its own samplers use this one as well.
        study._storage.set_trial_system_attr(trial._trial_id, ATTRIBUTE, origin)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value of a parameter that is no part of the proposal, or whose proposed value is out of range."""
        self._check_objectives(study)
        gene = _gene(param_distribution)
        proposed = _origin(trial).params.get(param_name)
        if gene is not None and proposed is not None:
            return _to_parameter(param_distribution, _to_value(param_distribution, gene, proposed))
        if gene is not None and trial.number == 0:
            return _to_parameter(param_distribution, self._with_prior(param_name, param_distribution, gene).middle())
        seed = np.random.SeedSequence([self._seed, 1, trial.number, zlib.crc32(param_name.encode())])
        random = RandomSampler(seed=int(seed.generate_state(1)[0]))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if self._constraint_saver is not None:
            self._constraint_saver.after_trial(study, trial, state, values)

    def _check_objectives(self, study: Study) -> None:
        if len(study.directions) > 1 and not self._strategy.several_objectives:
            name, count = type(self._strategy).__name__, len(study.directions)
            # Optuna's own samplers raise this class, and its contract tests expect it.
            raise ValueError(f"strategy {name} optimises one objective, and the study has {count}: take saea or nsga2")

    def _trials(self, study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """Return the other trials of a study that have parameters or a proposal, by number."""
        trials = study.get_trials(deepcopy=False, states=tuple(STATUSES))
        with_proposal = [stored for stored in trials if stored.params or ATTRIBUTE in stored.system_attrs]
        return sorted(
            (stored for stored in with_proposal if stored.number != trial.number), key=lambda stored: stored.number
        )

    def _space(self, distributions: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]) -> SearchSpace:
        """Return the space of some parameters; the defaults are the values of the first trial, if it has them."""
        if unused := ", ".join(sorted(self._priors.keys() - distributions.keys())):
            warnings.warn(f"priors: no trial has suggested {unused} so far", stacklevel=2)
        genes: dict[str, Gene] = {}
        for name, distribution in distributions.items():
            gene = _gene(distribution)
            if gene is None:
                raise UsageError(f"{name}: {distribution} is no range of numbers or categories that a gene can have")
            gene = self._with_prior(name, distribution, gene)
            if trials and trials[0].number == 0 and name in trials[0].params:
                first_value = distribution.to_internal_repr(trials[0].params[name])
                gene = replace(gene, default=_to_value(distribution, gene, first_value))  # type: ignore[type-var]
            genes[name] = gene
        conditions = _conditions(genes, distributions, trials)
        genes = {name: replace(gene, when=conditions.get(name)) for name, gene in genes.items()}  # type: ignore[type-var]
        return space_of_genes(genes)

    def _with_prior(self, name: str, distribution: BaseDistribution, gene: Gene) -> Gene:
        """Return a gene with the user's prior of its parameter, if there is one."""
        if name not in self._priors:
            return gene
        with space_error_prefix(f"priors[{name!r}]"):
            try:
                value, spread = self._priors[name]
                value = distribution.to_internal_repr(value)
                if isinstance(distribution, FloatDistribution | IntDistribution):  # it may depend on the trial
                    is_inside = distribution.low <= value <= distribution.high
                    if not is_inside:
                        warnings.warn(f"priors[{name!r}]: {value} is not in {distribution}", stacklevel=2)
                if isinstance(distribution, FloatDistribution) and distribution.step is not None:
                    spread = spread / distribution.step  # the gene counts steps
            except (TypeError, ValueError):
                raise SpaceError(f"{self._priors[name]!r}: expected (value, spread) in the range") from None
            return replace(gene, prior=_to_value(distribution, gene, value), spread=spread)  # type: ignore[type-var]


def _gene(distribution: BaseDistribution) -> Gene | None:
    """Return the gene of a distribution: the index of a value for categories and stepped floats; None if impossible."""
    try:
        if distribution.single():
            return None
        if isinstance(distribution, CategoricalDistribution):
            return Choice(tuple(range(len(distribution.choices))))
        if isinstance(distribution, IntDistribution):
            return Int(distribution.low, distribution.high, log=distribution.log, step=distribution.step)
        assert isinstance(distribution, FloatDistribution)
        if distribution.step is not None:
            return Int(0, round((distribution.high - distribution.low) / distribution.step))
        return Float(distribution.low, distribution.high, log=distribution.log)
    except SpaceError:
        return None


def _to_value(distribution: BaseDistribution, gene: Gene, parameter: float) -> Value:
    """Return the value of a gene that is nearest to a parameter in Optuna's internal representation."""
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        parameter = (parameter - distribution.low) / distribution.step
    low, high = gene.decode(0.0), gene.decode(1.0)
    if isinstance(gene, Float):
        return gene.check(min(max(parameter, gene.low), gene.high))
    step = gene.step if isinstance(gene, Int) else 1
    assert isinstance(low, int)
    assert isinstance(high, int)
    return min(max(low + step * round((parameter - low) / step), low), high)


def _to_parameter(distribution: BaseDistribution, value: Value) -> Any:
    """Return the parameter of Optuna for a value of a gene."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(value)]
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return min(distribution.low + int(value) * distribution.step, distribution.high)
    return value


def _widest(first: BaseDistribution, second: BaseDistribution) -> BaseDistribution:
    """Return the distribution of all values of two, which the same parameter has in different trials."""
    if first == second or isinstance(second, CategoricalDistribution):
        return second
    assert isinstance(first, FloatDistribution | IntDistribution)
    assert isinstance(second, FloatDistribution | IntDistribution)
    low, high = min(first.low, second.low), max(first.high, second.high)
    if isinstance(second, FloatDistribution):
        step = second.step if first.step == second.step else None
        return FloatDistribution(low, high, log=second.log, step=step)
    whole_step = int(second.step) if first.step == second.step and (first.low - second.low) % second.step == 0 else 1
    return IntDistribution(int(low), int(high), log=second.log, step=whole_step)


# Most values of a whole number on which other parameters may depend.
MAX_BRANCHES = 64


def _conditions(
    genes: Mapping[str, Gene], distributions: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]
) -> dict[str, dict[str, list[Value]]]:
    """Return the conditions of parameters, inferred from the trials that have them.

    A parameter depends on another one if that has other values in each trial that lacks it. Values that were never
    tried count as met.
    """
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    numbers = {name: {trial.number for trial in finished if name in trial.params} for name in genes}
    branching = [name for name, gene in genes.items() if not isinstance(gene, Float) and gene.size <= MAX_BRANCHES]

    def values(name: str, trial_numbers: set[int]) -> set[Value]:
        params = (trial.params[name] for trial in finished if trial.number in trial_numbers)
        return {_to_value(distributions[name], genes[name], distributions[name].to_internal_repr(p)) for p in params}

    conditions: dict[str, dict[str, list[Value]]] = {}
    for name in (name for name in genes if len(numbers[name]) < len(finished)):
        wider = [parent for parent in branching if numbers[parent] > numbers[name]]
        for parent in sorted(wider, key=lambda parent: len(numbers[parent])):  # the innermost condition first
            unmet = values(parent, numbers[parent] - numbers[name])
            if not unmet & values(parent, numbers[name]):
                gene = genes[parent]
                cells = int(gene.size)
                every = dict.fromkeys(gene.decode((cell + 0.5) / cells) for cell in range(cells))
                conditions[name] = {gene_name(parent): [value for value in every if value not in unmet]}
                break
    return conditions


def _external_trial(
    trial: FrozenTrial, space: SearchSpace, distributions: Mapping[str, BaseDistribution]
) -> ExternalTrial:
    """Return a trial of Optuna as a trial of the space; a parameter that it lacks has its default."""
    origin = _origin(trial)
    internal: dict[str, float] = dict(origin.params) if trial.state == TrialState.RUNNING else {}
    for name, value in trial.params.items():
        if name in distributions:
            internal[name] = distributions[name].to_internal_repr(value)
    genome = {
        gene_name(name): _to_value(distributions[name], space.genes[gene_name(name)], value)
        for name, value in internal.items()
        if name in distributions
    }
    operator = origin.operator or (WARM_START if trial.number else DEFAULT)
    proposal = Proposal(space.check(genome, fill_defaults=True), operator, origin.parents)
    values = trial.values if trial.state == TrialState.COMPLETE else ()
    return ExternalTrial(trial.number, proposal, STATUSES[trial.state], values, _excesses(trial))


class _Origin(msgspec.Struct):
    """What the sampler saves with a trial; of a trial of others, the defaults."""

    operator: str = ""
    parents: tuple[int, ...] = ()
    params: dict[str, Finite] = {}


def _origin(trial: FrozenTrial) -> _Origin:
    """Return operator, parents and proposed parameters of a trial, which another program may have written."""
    origin = _Origin()
    with contextlib.suppress(msgspec.ValidationError):
        origin = msgspec.convert(trial.system_attrs.get(ATTRIBUTE), _Origin)
    return origin


def _excesses(trial: FrozenTrial) -> dict[str, float]:
    """Return the constraints of a trial by name: those of `constraints_func`, and those that the objective has set."""
    by_position = trial.system_attrs.get("constraints")
    stored = enumerate(by_position if isinstance(by_position, list | tuple) else ())
    named = {name: value for name, value in trial.system_attrs.items() if name.startswith("constraints:")}
    excesses = {**{f"constraint {position}": value for position, value in stored}, **named}
    return {name: value for name, value in excesses.items() if isinstance(value, int | float)}
