"""Use a strategy as a search algorithm of Ray Tune.

    config = tune.TuneConfig(metric="loss", mode="min", num_samples=40, search_alg=StrategySearcher(seed=1))
    tune.Tuner(trainable, param_space={"lr": tune.loguniform(1e-5, 1e-1)}, tune_config=config).fit()

A trial that a scheduler stops is worse than every complete one. Importing this module imports Ray Tune.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np

from evo_tune.errors import SpaceError, StoreError, UsageError, require_extra
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import DEFAULT, WARM_START, Proposal, Status
from evo_tune.genome.values import Genome, Value, space_error_prefix
from evo_tune.loop.external import (
    ExternalTrial,
    gene_name,
    make_external_strategy,
    propose_external,
    space_of_genes,
)
from evo_tune.text import one_line

with require_extra("evo_tune.integrations.ray", "ray"):
    from ray.tune.search import Searcher, sample

# Key of a result with the number of results of its trial so far.
TRAINING_ITERATION = "training_iteration"

# Ray's distributions; half of their attributes have no types.
domains: Any = sample


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """A suggested trial, as it is saved; see `ExternalTrial` for the fields."""

    id: str
    genome: dict[str, bool | int | float | str]
    operator: str
    parents: list[int]
    status: Status | None = None
    values: list[float] = []
    # Step of its last result (int ≥ 0); None before.
    last_step: int | None = None
    # Whether a scheduler or a stopping rule ended it; else its function returned.
    stopped: bool = False

    @property
    def awaits_result(self) -> bool:
        """Whether a result may come: `Tuner.restore` with `resume_errored` repeats failed trials."""
        return self.status in (None, "failed")


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """What a searcher saves."""

    seed: Annotated[int, msgspec.Meta(ge=0)]
    records: list[_Record]


class StrategySearcher(Searcher):
    """Search algorithm of Ray Tune that asks a strategy of evo-tune.

    The first trials are `points_to_evaluate`, or else the middle of each range. Running trials are pending for the
    strategy. A choice may have dicts with ranges of their own, which are then conditional.

    Args:
        strategy: Name or path of a strategy.
        options: Options of the strategy by name.
        space: Search space, with conditions and priors if it has any; by default, the `param_space` of the Tuner.
        metric: Metric of the results, or several; by default, that of the TuneConfig.
        mode: 'min' or 'max', for each metric; by default, that of the TuneConfig.
        points_to_evaluate: Configurations to try first; values that are missing are the middle of their range.
        seed: Seed (int ≥ 0). By default a random one.

    Raises:
        UsageError: The strategy is unknown or decides on budgets itself, or an argument is wrong.
        SpaceError: A parameter has a distribution that is no range and no choice, or a point is outside the space.
    """

    def __init__(
        self,
        strategy: str = "saea",
        *,
        options: Mapping[str, Any] | None = None,
        space: SearchSpace | Mapping[str, Any] | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
    ) -> None:
        super().__init__(metric=metric, mode=mode)  # type: ignore[arg-type] # Ray's check allows lists
        self._strategy, checked_seed = make_external_strategy(strategy, options, seed)
        self._points = [dict(point) for point in points_to_evaluate]
        self._state = _State(checked_seed, [])
        self._space: SearchSpace | None = None
        # The space in Ray's form; None if it was given as a SearchSpace.
        self._config: Mapping[str, Any] | None = None
        if space is not None:
            self._set_space(space)

    def _set_space(self, space: SearchSpace | Mapping[str, Any]) -> None:
        if isinstance(space, SearchSpace):
            self._space = space
        else:
            genes: dict[str, Gene] = {}
            _collect_genes(space, "", None, genes)
            if not genes:
                raise SpaceError("the space has no ranges: expected such as {'lr': tune.loguniform(1e-5, 1e-1)}")
            self._space, self._config = space_of_genes(genes), space

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        self._metric, self._mode = metric or self._metric, mode or self._mode
        if self._space is not None:
            return False
        self._set_space(config)
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial.

        Returns:
            None if the strategy needs results first; `Searcher.FINISHED` if no new configuration is left.
        """
        space, (_, modes), records = self._known_space(), self._objectives(), self._state.records
        if len(records) < max(1, len(self._points)):
            proposal = self._first_proposal(space, len(records))
        else:
            trials = _external_trials(records)
            rng = np.random.default_rng([self._state.seed, 0, len(records)])
            later = propose_external(self._strategy, space, modes, trials, rng)
            if later is None:
                return None if any(record.status is None for record in records) else str(self.FINISHED)
            proposal = later
        records.append(_Record(trial_id, proposal.genome, proposal.operator, list(proposal.parents)))
        config = proposal.genome if self._config is None else _resolve(self._config, "", proposal.genome)
        return dict(config)

    def _first_proposal(self, space: SearchSpace, number: int) -> Proposal:
        """Return the default genome or a point of the user."""
        operator = WARM_START if number else DEFAULT
        if not self._points:
            return Proposal(space.default(), operator)
        point, genome = self._points[number], dict[str, Any]()
        with space_error_prefix(f"points_to_evaluate[{number}]"):
            if self._config is None:
                genome = point
            else:
                _collect_values(self._config, "", point, genome)
            return Proposal(space.check(genome, fill_defaults=True), operator)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        record, (metrics, _) = self._record(trial_id), self._objectives()
        value = _number(result.get(metrics[0]))
        if record is not None and record.awaits_result and value is not None:
            record.last_step = int(_number(result.get(TRAINING_ITERATION)) or 0)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        record, (metrics, _) = self._record(trial_id), self._objectives()
        if record is None or not record.awaits_result:
            return
        results = result or {}
        values = [value for metric in metrics if (value := _number(results.get(metric))) is not None]
        # Ray repeats the last result of a function that returned, and reports one that stops a trial only here.
        record.stopped = results.get(TRAINING_ITERATION) != record.last_step
        self.on_trial_result(trial_id, results)
        if error:
            record.status = "failed"
        elif not results:  # ended by the user
            record.status = "pruned"
        elif len(values) < len(metrics):
            record.status = "diverged"
        else:
            record.status, record.values = "ok", values

    def save(self, checkpoint_path: str) -> None:
        """Write all suggested trials and the seed to a file, as JSON."""
        with open(checkpoint_path, "wb") as file:
            file.write(msgspec.json.encode(self._state))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` has written.

        Raises:
            StoreError: The file is not from a StrategySearcher, or of another space.
        """
        try:
            with open(checkpoint_path, "rb") as file:
                state = msgspec.json.decode(file.read(), type=_State)
            if self._space is not None:
                for record in state.records:
                    self._space.check(record.genome)
        except (OSError, msgspec.MsgspecError, SpaceError, RecursionError) as error:
            cause = one_line(str(error), 200)
            expected = "expected a file that StrategySearcher.save has written for this space"
            raise StoreError(f"cannot restore {one_line(checkpoint_path)}: {cause}; {expected}") from None
        self._state = state

    def _known_space(self) -> SearchSpace:
        if self._space is None:
            raise UsageError("StrategySearcher has no space: give param_space to the Tuner, or space to the searcher")
        return self._space

    def _objectives(self) -> tuple[list[str], list[str]]:
        """Return the names of the metrics and the mode of each."""
        if not self._metric or not self._mode:
            raise UsageError("StrategySearcher has no metric: give metric and mode to the TuneConfig or the searcher")
        metrics = [self._metric] if isinstance(self._metric, str) else list(self._metric)
        modes = [self._mode] if isinstance(self._mode, str) else list(self._mode)
        return metrics, modes

    def _record(self, trial_id: str) -> _Record | None:
        return next((record for record in reversed(self._state.records) if record.id == trial_id), None)


def _external_trials(records: Sequence[_Record]) -> list[ExternalTrial]:
    """Return the trials; one that was stopped before the last step of any other trial is a partial training."""
    steps = [record.last_step for record in records if record.last_step is not None]
    trials = []
    for number, record in enumerate(records):
        proposal = Proposal(record.genome, record.operator, tuple(record.parents))
        is_partial = record.stopped and record.last_step is not None and record.last_step < max(steps)
        is_partial = is_partial and record.status == "ok"
        trial = ExternalTrial(number, proposal, record.status, record.values)
        trials.append(replace(trial, status="pruned", values=()) if is_partial else trial)
    return trials


def _number(value: object) -> float | None:
    """Return a result as a finite number; None if it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# Spaces: a nested dict of ranges, choices and constants. A parameter has the path of its keys as its name.


def _part_name(name: str, key: object) -> str:
    return f"{name}/{key}" if name else str(key)


def _collect_genes(spec: Any, name: str, when: Any, genes: dict[str, Gene]) -> None:
    """Add the genes of a space by the names of their parameters.

    Args:
        spec: The space, or a part of it.
        name: Name of the part.
        when: Condition of the part; None if it is always active.
        genes: Genes, which are added to.

    Raises:
        SpaceError: A distribution is no range and no choice.
    """
    if isinstance(spec, Mapping):
        if "grid_search" in spec:
            raise SpaceError(f"{name}: a grid_search is not for a search algorithm: expected tune.choice")
        for key, part in spec.items():
            _collect_genes(part, _part_name(name, key), when, genes)
    elif isinstance(spec, domains.Domain):
        with space_error_prefix(name):
            genes[name] = replace(_gene(spec), when=when)  # type: ignore[type-var]
        for index, category in enumerate(spec.categories if isinstance(spec, domains.Categorical) else ()):
            if isinstance(category, Mapping | domains.Domain):
                _collect_genes(category, _part_name(name, index), {gene_name(name): [index]}, genes)


def _gene(domain: Any) -> Gene:
    """Return the gene of a distribution: the index of a category, and of a multiple if it is quantized."""
    if isinstance(domain, domains.Categorical):
        return Choice(tuple(range(len(domain.categories))))
    sampler, step = _sampler(domain)
    is_log = isinstance(sampler, domains.LogUniform)
    if not isinstance(domain, domains.Float | domains.Integer) or not (is_log or isinstance(sampler, domains.Uniform)):
        raise SpaceError("no range to search in: expected uniform, loguniform, randint, lograndint or choice")
    low, high = domain.lower, domain.upper
    if step and not is_log:
        return Int(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
    if isinstance(domain, domains.Float):
        return Float(low, high, log=is_log)
    return Int(low, high if step else high - 1, log=is_log)  # Ray excludes the upper end of a range without steps


def _sampler(domain: Any) -> tuple[Any, float | None]:
    """Return the distribution of a domain without its quantization, and the step of that."""
    sampler = domain.get_sampler()
    if isinstance(sampler, domains.Quantized):
        return sampler.get_sampler(), sampler.q
    return sampler, None


def _resolve(spec: Any, name: str, genome: Genome) -> Any:
    """Return the configuration of a genome: a space with a value in place of each distribution."""
    if isinstance(spec, Mapping):
        return {key: _resolve(part, _part_name(name, key), genome) for key, part in spec.items()}
    if not isinstance(spec, domains.Domain):
        return spec
    value = genome[gene_name(name)]
    if isinstance(spec, domains.Categorical):
        return _resolve(spec.categories[int(value)], _part_name(name, value), genome)
    sampler, step = _sampler(spec)
    if step:
        multiple = round(float(value) / step) if isinstance(sampler, domains.LogUniform) else int(value)
        value = min(max(multiple * step, spec.lower), spec.upper)
    return int(value) if isinstance(spec, domains.Integer) else float(value)


def _collect_values(spec: Any, name: str, config: Any, genome: dict[str, Value]) -> None:
    """Add the genome of a configuration, the inverse of `_resolve`; what the configuration lacks is left out.

    Raises:
        SpaceError: A key is unknown, or a value is not one of its choice, or no number.
    """
    if isinstance(spec, Mapping):
        for key, part in config.items() if isinstance(config, Mapping) else ():
            if key not in spec:
                raise SpaceError(f"{_part_name(name, key)} is unknown: expected {', '.join(map(str, spec))}")
            _collect_values(spec[key], _part_name(name, key), part, genome)
    elif isinstance(spec, domains.Categorical):
        matching = (index for index, category in enumerate(spec.categories) if _matches(category, config))
        index = next(matching, None)
        if index is None:
            raise SpaceError(f"{name}: {config!r} is none of the choices {spec.categories!r}")
        genome[gene_name(name)] = index
        _collect_values(spec.categories[index], _part_name(name, index), config, genome)
    elif isinstance(spec, domains.Domain):
        sampler, step = _sampler(spec)
        number = _number(config)
        if number is None:
            raise SpaceError(f"{name}: {config!r} is no number")
        if isinstance(spec, domains.Integer) or (step and not isinstance(sampler, domains.LogUniform)):
            number = round(number / step) if step and not isinstance(sampler, domains.LogUniform) else round(number)
        genome[gene_name(name)] = number


def _matches(category: Any, config: Any) -> bool:
    """Return whether a configuration may be of a category of a choice: its constants are equal."""
    if isinstance(category, Mapping):
        return isinstance(config, Mapping) and all(
            key in config and _matches(part, config[key]) for key, part in category.items()
        )
    return isinstance(category, domains.Domain) or (type(category) is type(config) and category == config)
