"""Hydra's sweeps: overrides become genes, and Hydra's launcher trains batches of trials of an ordinary run.

The evaluator of the run is the command that trains one trial without a sweep, so every command of evo-tune works on the
run. `hydra_plugins.evo_tune_sweeper` is the plug-in that Hydra finds.
"""

import contextlib
import dataclasses
import itertools
import logging
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_tune.errors import EvoTuneError, RunError, SpaceError, UsageError, explain_error
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Objective, Outcome
from evo_tune.genome.values import Genome, Value, is_number
from evo_tune.loop.search import Search
from evo_tune.options.declare import check_integer, check_number
from evo_tune.report.summary import pareto_front
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run_folders import run_reference
from evo_tune.text import one_line

# Maximum number of values of a sweep that are listed one by one.
MOST_VALUES = 1000

# Flags of a Hydra application that take the next word as their value.
FLAGS_WITH_VALUE = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p")

# Arguments of `Search` that `hydra.sweeper.search` may have; the others are about slots, which a launcher replaces.
SEARCH_ARGUMENTS = (
    *("population", "strategy_options", "subject_to", "warm_start", "fill_defaults", "learn_from"),
    *("order", "lag", "widen", "stop_when_done"),
)

log = logging.getLogger(__name__)


def run_sweep(sweeper: Any, arguments: Sequence[str]) -> None:
    """Run a sweep, or continue it, and write its best values to optimization_results.yaml.

    Args:
        sweeper: Sweeper with Hydra's context, configuration and launcher.
        arguments: Overrides of the command line.

    Raises:
        CompactHydraException: A setting or an override is wrong, or the run cannot be written.
        Exception: More trials of a batch failed than `max_failure_rate` allows: the error of the first one.
    """
    from hydra.errors import CompactHydraException
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(sweeper.config.hydra.sweeper, resolve=True)
    try:
        _check_settings(settings)
        texts = [f"{key}={value}" for key, value in (settings["params"] or {}).items()]
        sweep = read_overrides([*texts, *arguments], sweeper.config, sweeper.hydra_context.config_loader)
        sweeper.validate_batch_is_legal([overrides_of(sweep, genome) for genome in _genomes_to_compose(sweep)])
        search = _open_search(sweep, settings)
    except EvoTuneError as error:
        raise CompactHydraException(str(error)) from None
    how_to_continue = f"the same command with hydra.sweeper.name={search.name} continues it"
    count = len(search.saved.outcomes)
    log.info(f"run {search.saved.folder}, {count} of {settings['n_trials']} trials: {how_to_continue}")
    with search:
        try:
            while batch := _next_batch(search, settings["n_jobs"]):
                began = time.monotonic()
                jobs = [overrides_of(sweep, candidate.genome) for candidate in batch]
                returns = sweeper.launcher.launch(jobs, initial_job_idx=batch[0].id)
                _record_batch(search, batch, returns, time.monotonic() - began, settings["max_failure_rate"])
        except BaseException:  # Ctrl-C, a launcher that fails, too many failed trials: the run is interrupted
            search.stop()
            log.error(f"interrupted: {how_to_continue}")
            raise
        _write_results(search, Path(sweeper.config.hydra.sweep.dir))


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name in ("n_trials", "n_jobs"):
        check_integer(f"hydra.sweeper.{name}", settings[name], 1)
    check_number("hydra.sweeper.max_failure_rate", settings["max_failure_rate"], "[0, 1]")
    for name in settings["search"].keys() - set(SEARCH_ARGUMENTS):
        raise UsageError(f"hydra.sweeper.search.{name} is unknown: expected one of {', '.join(SEARCH_ARGUMENTS)}")


# ---------------------------------------------------------------- overrides


def read_overrides(texts: Sequence[str], config: Any, config_loader: Any) -> dict[str, Gene | str]:
    """Return the gene of each override that sweeps, and the text of each other one, by key; later ones replace earlier.

    Args:
        texts: Overrides in Hydra's grammar.
        config: Composed configuration; its values become the defaults of the genes.
        config_loader: Hydra's loader, which knows the options of groups (for `glob`).

    Raises:
        HydraException: An override does not follow the grammar.
        UsageError: A sweep cannot be searched, or none is there.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweep: dict[str, Gene | str] = {}
    for override in OverridesParser.create(config_loader=config_loader).parse_overrides(list(texts)):
        key = override.get_key_element()
        sweep.pop(key, None)
        if not override.is_sweep_override():
            sweep[key] = str(override.input_line)
            continue
        with explain_error(UsageError, one_line(str(override.input_line), 100), caught=SpaceError):
            sweep[key] = _with_default(key, _gene_of(override), _configured_value(override, config))
    if not _genes_of(sweep):
        expected = "such as 'lr=tag(log, interval(1e-4,1e-2))' or 'depth=choice(2,4,8)'"
        raise UsageError(f"no override is a sweep: expected at least one, {expected}")
    return sweep


def _gene_of(override: Any) -> Gene:
    """Return the gene of an override that sweeps: Float or Int for intervals, Int for ranges, else Choice."""
    sweep = override.value()
    is_log = "log" in getattr(sweep, "tags", ())
    if override.is_interval_sweep():
        kind = Int if isinstance(sweep.start, int) and isinstance(sweep.end, int) else Float
        return kind(sweep.start, sweep.end, log=is_log)
    numbers = sweep.range() if override.is_range_sweep() else None
    if isinstance(numbers, range) and numbers:
        low, high = sorted((numbers[0], numbers[-1]))  # min() would count through all
        return Int(low, high, log=is_log, step=abs(numbers.step))
    elements = numbers if numbers is not None else override.sweep_iterator()
    values = [_plain_value(element) for element in itertools.islice(elements, MOST_VALUES + 1)]
    if len(values) > MOST_VALUES:
        raise SpaceError(f"it has more than {MOST_VALUES} values: give an interval")
    if numbers is not None and len(values) == 1 and sweep.step == 1:
        raise SpaceError(f"it has one value here, {values[0]}: give interval({sweep.start},{sweep.stop})")
    return Choice(values, ordered=all(map(is_number, values)))  # type: ignore[arg-type] # a list becomes a tuple


def _plain_value(element: Any) -> Value:
    """Return an element of a sweep as a value of a gene: null, lists and quoted texts as text of Hydra's grammar."""
    from hydra.core.override_parser.types import Transformer

    return element if isinstance(element, bool | int | float) else Transformer.str(element)


def _configured_value(override: Any, config: Any) -> Any:
    """Return the value of a key, or the option of a group, in the composed configuration; None without one."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choices = dict(config.hydra.runtime.choices)
    package = f"@{override.package}" if override.package else ""
    if (group := override.key_or_group + package) in choices:
        return choices[group]
    with contextlib.suppress(OmegaConfBaseException):  # an interpolation that only a job can resolve
        return OmegaConf.select(config, override.key_or_group)
    return None


def _with_default(key: str, gene: Gene, value: Any) -> Gene:
    """Return a gene with the configured value as its default, so that the first trial is the configuration itself."""
    if value is None:
        return gene
    try:
        return dataclasses.replace(gene, default=gene.check(value))  # type: ignore[type-var]
    except SpaceError:
        log.info(f"{key}: the configured value is not in the sweep, so the first trial has {gene.middle()}")
        return gene


def _genes_of(sweep: Mapping[str, Gene | str]) -> dict[str, Gene]:
    return {key: gene for key, gene in sweep.items() if isinstance(gene, Gene)}


def _genomes_to_compose(sweep: Mapping[str, Gene | str]) -> Iterable[Genome]:
    """Yield the default genome, and one for each other value of a Choice: it may name a file that does not exist."""
    genes = _genes_of(sweep)
    default = SearchSpace(None, None, **genes).default()
    yield default
    for key, gene in genes.items():
        if isinstance(gene, Choice) and not gene.ordered:
            yield from ({**default, key: value} for value in gene.values if value != default[key])


def overrides_of(sweep: Mapping[str, Gene | str], genome: Mapping[str, Value]) -> list[str]:
    """Return the overrides of a job, in the order in which the user gave them."""
    return [f"{key}={genome[key]}" if isinstance(part, Gene) else part for key, part in sweep.items()]


def job_command(sweep: Mapping[str, Gene | str]) -> str:
    """Return the command that trains one trial without a sweep, with a placeholder for each gene."""
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    flags, words = list[str](), iter(sys.argv[1:])
    for word in words:
        if word.startswith("hydra.job.") or (word.startswith("-") and word not in ("-m", "--multirun")):
            flags += [word, next(words, "")] if word in FLAGS_WITH_VALUE else [word]
    texts = [*flags, *(text for text in sweep.values() if isinstance(text, str))]
    fixed = [text.replace("{", "{{").replace("}", "}}") for text in texts]
    return shlex.join([*program, *fixed, *(f"{key}={{{key}}}" for key in _genes_of(sweep))])


# ---------------------------------------------------------------- the run


def _open_search(sweep: Mapping[str, Gene | str], settings: Mapping[str, Any]) -> Search:
    """Return a new run, or the run of this name if there is one.

    Raises:
        EvoTuneError: The run cannot be made or continued, or it is that of another sweep.
    """
    name, store, genes, command = settings["name"], settings["store"], _genes_of(sweep), job_command(sweep)
    objectives = [Objective.parse(text) for text in settings["objectives"]]
    if name is None or not Path(store, name, MANIFEST).is_file():
        options = {"widen": False, "strategy": settings["strategy"], "seed": settings["seed"], **settings["search"]}
        return Search(
            command,
            space=SearchSpace(None, None, **genes),
            objectives=objectives,
            store=store,
            name=name,
            trials=settings["n_trials"],
            **options,
        )
    search = Search.resume(name, store=store, accept_changes=settings["accept_changes"], trials=settings["n_trials"])
    manifest = search.saved.manifest
    before = (shlex.split(manifest.evaluator)[1:], manifest.genes(), [*search.saved.objectives])
    for part, old, new in zip(
        ("command", "genes", "objectives"), before, (shlex.split(command)[1:], genes, objectives), strict=True
    ):
        if old != new:
            search.close()
            shown = f"{one_line(str(old), 300)}, and now {one_line(str(new), 300)}"
            raise UsageError(f"hydra.sweeper.name={name}: that run has other {part} ({shown}): give another name")
    return search


def _next_batch(search: Search, size: int) -> list[Candidate]:
    """Return the next trials for the launcher, at most `size` new ones; none if the run is over.

    Trials without a result come first. A batch ends where the trial number is a multiple of `size`, so a sweep that was
    killed at any point proposes what an undisturbed one proposes.
    """
    batch: list[Candidate] = []
    while not batch or len(batch) < len(search.history.pending) or len(search.saved.candidates) % size:
        candidate = search.ask()
        if candidate is None:
            break
        batch.append(candidate)
    return batch


def _record_batch(
    search: Search, batch: Sequence[Candidate], returns: Sequence[Any], seconds: float, max_failure_rate: float
) -> None:
    """Record the results of a batch.

    Args:
        search: The run.
        batch: Trials of the batch.
        returns: Hydra's JobReturn of each.
        seconds: Wall time of the batch; the launcher does not report that of a trial.
        max_failure_rate: Largest share of failed trials.

    Raises:
        Exception: More trials failed: the error of the first one.
    """
    errors: list[Exception] = []
    for candidate, job in zip(batch, returns, strict=True):
        try:
            outcome = Outcome("ok", _metrics_of(job.return_value, search.saved.objectives), seconds=seconds)
        except Exception as error:
            errors.append(error)
            outcome = Outcome("failed", error=one_line(f"{type(error).__name__}: {error}"), seconds=seconds)
        search.tell(candidate, outcome)
        recorded = search.saved.outcomes[candidate.id]
        if outcome.status == "ok" and recorded.status != "ok":
            errors.append(RunError(f"trial {candidate.id}: {recorded.error}"))
    if len(errors) > max_failure_rate * len(batch):
        log.error(f"{len(errors)} of {len(batch)} failed, with hydra.sweeper.max_failure_rate={max_failure_rate}")
        raise errors[0]


def _metrics_of(returned: Any, objectives: Sequence[Objective]) -> dict[str, float]:
    """Return the metrics in the return value of a job.

    Args:
        returned: A dict of metrics, a number, or a sequence with a number for each objective.
        objectives: Objectives of the run.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(returned, Mapping):
        return dict(returned)
    values = list(returned) if isinstance(returned, list | tuple) else [returned]
    with contextlib.suppress(TypeError, ValueError):
        if len(values) == len(objectives):
            return {objective.metric: float(value) for objective, value in zip(objectives, values, strict=True)}
    names = ", ".join(objective.metric for objective in objectives)
    raise UsageError(f"the job returned {one_line(repr(returned), 100)}: expected numbers for {names}, or a dict")


def _write_results(search: Search, folder: Path) -> None:
    """Write the best values into Hydra's folder of the sweep; the Pareto front, if there are several objectives."""
    from omegaconf import OmegaConf

    metrics = [objective.metric for objective in search.saved.objectives]
    results: dict[str, Any] = {"name": "evo_tune", "run": str(search.saved.folder)}
    if search.best is None:
        log.warning(f"no trial has a value: `evo-tune show {search.name}` lists the failures")
        return
    if len(metrics) == 1:
        best, value = search.best, search.best.outcome.metrics[metrics[0]]
        results |= {"trial": best.id, "best_params": dict(best.genome), "best_value": value}
        summary = f"best {metrics[0]} {value:.6g}, trial {best.id}: {results['best_params']}"
    else:
        results["solutions"] = [
            {"params": dict(trial.genome), "values": [trial.outcome.metrics[metric] for metric in metrics]}
            for trial in pareto_front(search.saved)
        ]
        summary = f"{len(results['solutions'])} trials that none beats in all of {', '.join(metrics)}"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(results), folder / "optimization_results.yaml")
    page = f"`evo-tune report {run_reference(search.saved.folder)}` shows all trials"
    log.info(f"{summary}, in {folder / 'optimization_results.yaml'}; {page}")
