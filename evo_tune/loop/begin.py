"""Before the first trial: bind everything that the user gave, check it, and make the manifest.

Nothing is trained or written here, so every error comes before it costs anything. A run that was opened and cannot
begin or continue is closed again.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import platform
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from evo_tune.errors import OptionError, SpaceError, StoreError, UsageError
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Constraint, Objective
from evo_tune.genome.values import Genome, genome_key
from evo_tune.loop.checks import (
    check_ends,
    check_learning,
    check_metrics,
    check_own_trials,
    check_repair,
    check_suited,
    check_support,
    with_defaults,
)
from evo_tune.loop.code import hash_of, remember_copy
from evo_tune.loop.limits import check_noise
from evo_tune.loop.opening import plan_for
from evo_tune.loop.widening import limits_for
from evo_tune.options.binding import did_you_mean
from evo_tune.options.declare import AUTO
from evo_tune.options.sizes import parse_target_size
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import make_strategy
from evo_tune.settings import RunSettings, SessionSettings
from evo_tune.store.learned import learned_from
from evo_tune.store.manifest import Manifest
from evo_tune.store.places import copy_run, find_run
from evo_tune.store.run import Run
from evo_tune.text import is_writable

SHAPING = ("evo-tune", "deap", "joblib", "numpy", "torch")
"""Packages whose versions shape results."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request for a new run, without its settings; see `Search` for the fields."""

    options: Mapping[str, Any] = field(default_factory=dict)
    strategy: str | None = None
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    population: int | None = None
    objectives: Sequence[str | Objective] | str | Objective = ()
    genes: Mapping[str, Gene | None] = field(default_factory=dict)
    subject_to: Iterable[str] = ()
    warm_start: Iterable[Mapping[str, Any]] = ()
    fill_defaults: bool = False
    learn_from: Iterable[str | Path] = ()


def prepared(
    evaluator: Evaluator, request: Request, settings: RunSettings, session: SessionSettings, store: Path
) -> Manifest:
    """Return the manifest with which a run would begin. Nothing is written.

    Args:
        evaluator: Evaluator of the run.
        request: The user's request.
        settings: Settings of the run.
        session: Settings of its first session.
        store: Folder of the runs that it learns from.

    Raises:
        UsageError: Something given is unknown, of the wrong type or out of range.
    """
    if settings.for_scale:
        parse_target_size(settings.for_scale)
    bound = evaluator.bind(request.options)
    slot_plan = plan_for(session, settings.threads, bound.options)
    bound = bound.for_run(len(settings.rungs) > 1)
    own = bound.space
    given = with_defaults(request.genes, own, bound.gene_options, bound.options)
    space = bound.space_with(request.genes, given)
    check_repair(space)
    check_ends(bound, space, request.genes)
    estimates = bound.estimate(space.default())  # an error here would fail every trial
    given_goals = _goals(request.objectives)
    goals = given_goals or evaluator.objectives
    if not goals:
        raise OptionError(
            f"{evaluator.name} names no objective: give --objective METRIC:min or METRIC:max, of a metric that it "
            "prints or returns (from Python: objectives=['METRIC:min'])"
        )
    check_metrics(evaluator, goals)
    name, learned = request.strategy or "saea", open_runs_to_learn_from(request.learn_from, store)
    size = {} if request.population is None else {"population": request.population}
    strategy = make_strategy(name, {**request.strategy_options, **size})
    check_suited(name, strategy, space, goals)
    check_learning(name, strategy, space, goals, learned)
    constraints = _constraints(evaluator, goals, estimates, request.subject_to)
    if settings.seeds_per_trial is None:
        possible = evaluator.seeded and len(goals) == 1 and not strategy.own_trials
        settings = replace(settings, seeds_per_trial="auto" if possible and _by_training(session) else 1)
    check_noise(session, settings.most_seeds)
    check_support(evaluator, goals, settings)
    check_own_trials(name, strategy, settings, constraints)
    return Manifest(
        evaluator=evaluator.reference,
        evaluator_hash=evaluator.hash,
        fingerprint=bound.fingerprint(),
        options=bound.options,
        space=space.describe(),
        objectives=[goal.describe() for goal in goals],
        subject_to=constraints,
        strategy=name,
        strategy_options=strategy.to_json(),
        strategy_hash=hash_of(strategy),
        settings=replace(
            settings,
            seeds="own" if settings.own_seeds else "shared",
            fidelity="1" if settings.fidelity == AUTO else settings.fidelity,
        ),
        threads=slot_plan.threads,
        given_genes=sorted(given),
        given_objectives=bool(given_goals),
        warm_start=_warm_start(space, request.warm_start, request.fill_defaults),
        learned=[learned_from(run, goals[0]) for run in learned],
        limits=limits_for(bound, space, strategy, goals) if settings.widen else {},
        units=evaluator.metrics,
        tests=evaluator.tests,
        versions=versions_of((*SHAPING, *strategy.needs)),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        identity=uuid.uuid4().hex,
    )


def _by_training(session: SessionSettings) -> bool:
    """Return whether all trainings count towards the limits, extra seeds included: then these cost no extra time."""
    trained = session.hours is not None or session.budget is not None
    return trained and session.trials is None and session.generations is None


def open_runs_to_learn_from(sources: Iterable[str | Path], store: Path) -> list[Run]:
    """Return earlier runs by name or path, read as plain data; no code that they name is executed.

    Raises:
        UsageError: A source is not a run.
    """
    runs = []
    for source in [sources] if isinstance(sources, str | Path) else sources:
        try:
            runs.append(Run.open(find_run(store, str(source))))
        except StoreError as error:
            raise UsageError(f"--learn-from {source}: expected the name or path of a run; {error}") from None
    return runs


def _goals(objectives: Sequence[str | Objective] | str | Objective) -> tuple[Objective, ...]:
    """Return objectives from any accepted form; a single objective counts as a list of one."""
    if isinstance(objectives, str | Objective) or not isinstance(objectives, Iterable):
        objectives = (objectives,)
    goals = []
    for given in objectives:
        goal = Objective.parse(given) if isinstance(given, str) else given
        if not isinstance(goal, Objective) or not isinstance(goal.metric, str) or not is_writable(goal.metric):
            raise SpaceError(f"objective {given!r}: expected METRIC:min, METRIC:max, Minimize(…) or Maximize(…)")
        goals.append(goal)
    return tuple(goals)


def _constraints(
    evaluator: Evaluator, objectives: Sequence[Objective], estimated: Mapping[str, float], given: Iterable[str]
) -> list[str]:
    """Return constraints as they are written in the manifest.

    Raises:
        OptionError: A constraint cannot be parsed, or its metric is not returned by the evaluator or is of the test
            set.
    """
    known = {**evaluator.metrics, **estimated, **{goal.metric: "" for goal in (*objectives, *evaluator.objectives)}}
    found = [Constraint.parse(text) for text in ([given] if isinstance(given, str) else given)]
    for constraint in found:
        evaluator.check_not_test_metric(f"--subject-to {constraint.describe()}", constraint.metric)
        if evaluator.metrics and constraint.metric not in known:
            raise OptionError(
                f"--subject-to {constraint.describe()}: {evaluator.name} returns no metric "
                f"{constraint.metric!r}{did_you_mean(constraint.metric, known)}: expected one of {', '.join(known)}"
            )
    return [constraint.describe() for constraint in found]


def _warm_start(space: SearchSpace, genomes: Iterable[Mapping[str, Any]], fill_defaults: bool) -> list[Genome]:
    """Return the genomes checked, without the default and without duplicates."""
    checked: dict[str, Genome] = {}
    if not isinstance(genomes, Iterable):
        raise SpaceError(f"warm_start {genomes!r}: expected a list of genomes")
    for number, genome in enumerate(genomes, 1):
        if not isinstance(genome, Mapping):
            raise SpaceError(f"--warm-start, genome {number}: {genome!r}: expected a dict of gene names to values")
        try:
            valid = space.check(genome, fill_defaults)
        except SpaceError as error:
            raise SpaceError(f"--warm-start, genome {number}: {error}") from None
        checked[genome_key(valid)] = valid
    checked.pop(genome_key(space.default()), None)
    return list(checked.values())


def versions_of(package_names: Iterable[str]) -> dict[str, str]:
    """Return the version of Python and of each package, by name."""
    return {"python": platform.python_version(), **{package: _version(package) for package in package_names}}


@functools.cache  # a loaded version cannot change, and reading it is slow
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def new_name(evaluator: str, store: Path) -> str:
    """Return a free name for a run, from the evaluator's name (ASCII, at most 50 characters) and the time."""
    plain = unicodedata.normalize("NFKD", evaluator).encode("ascii", "ignore").decode()  # é becomes e plus an accent
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)[:50].strip("-_") or "run"
    stem = f"{slug}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (store / name).exists())


@contextlib.contextmanager
def close_on_error(run: Run, remove: bool = False) -> Iterator[None]:
    """Close an open run if the block raises an error.

    Args:
        run: Open run.
        remove: Whether to remove its folder as well.
    """
    try:
        yield
    except BaseException:
        run.close()
        if remove:
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def open_saved_run(store: Path, name: str | None, copy_as: str | None) -> Iterator[Run]:
    """Open a saved run for writing; if the block raises an error, close it and remove its copy.

    Args:
        store: Folder of the saved runs.
        name: Name or path of the run; None for the latest one.
        copy_as: Name of a copy to make and open instead.

    Raises:
        UsageError: The copy's name is taken.
        StoreError: There is no such run, or it cannot be opened.
    """
    original = find_run(store, name)
    run = Run.open(original if copy_as is None else copy_run(original, store, copy_as), write=True)
    with close_on_error(run, remove=copy_as is not None):
        if copy_as is not None:
            remember_copy(run, original)
        yield run
