"""What happens before the first birth: bind everything that the user gave, and fix it in a manifest.

Nothing is trained for it and nothing written: whatever is wrong is said before it can cost anything. A run that is
opened and then cannot begin, or go on, is closed here again.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import operator
import platform
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from evo_tune.errors import OptionError, SpaceError, StoreError, UsageError
from evo_tune.forecast.scale import parse_aim
from evo_tune.genome.constraint import Constraint
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace, wider
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import Genome, genome_key
from evo_tune.loop.checks import (
    check_ends,
    check_learning,
    check_metrics,
    check_own_trials,
    check_repair,
    check_suited,
    check_support,
)
from evo_tune.loop.code import hash_of
from evo_tune.loop.limits import check_noise
from evo_tune.loop.opening import plan_for
from evo_tune.loop.own_genes import as_before, with_defaults
from evo_tune.options.binding import suggest
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.fidelity import parse_rungs
from evo_tune.rules.replicates import parse_replicates
from evo_tune.rules.ruled import Ruled
from evo_tune.store.copying import copy_run
from evo_tune.store.learned import learned_from
from evo_tune.store.manifest import ORDERS, OWN, SEEDS, Manifest, read_manifest
from evo_tune.store.places import find_run
from evo_tune.store.run import WIDENINGS, Run
from evo_tune.store.session import Session
from evo_tune.text import is_writable
from evo_tune.trust.decide import began, remember_run

__all__ = ["earlier", "given_up", "make_manifest", "new_name", "prepared", "reopened", "versions_of", "widened"]

SHAPING = ("evo-tune", "deap", "joblib", "numpy", "torch")
"""Packages whose versions shape results."""


def prepared(
    evaluator: Evaluator,
    session: Session,
    store: Path,
    *,
    options: Mapping[str, Any] | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    population: int | None = None,
    learn_from: Iterable[str | Path] = (),
    threads: int | None = None,
    **given: Any,
) -> Manifest:
    """Return the manifest that a run would begin with, from what the user gave; nothing is made.

    Args:
        evaluator: Its evaluator.
        session: How it would begin.
        store: Where the runs are that it learns from.
        options: See `Search`, and so for the others.
        strategy_options: Without the population.
        population: Part of the strategy's options.
        learn_from: Names or paths of runs.
        threads: None for the default.
        given: What else `make_manifest` takes.

    Raises:
        UsageError: Something given is wrong.
    """
    check_noise(session, parse_replicates(given.get("replicates", 1))[0])
    size = {} if population is None else {"population": population}
    return make_manifest(
        evaluator,
        options=options or {},
        strategy_options={**(strategy_options or {}), **size},
        learn_from=earlier(learn_from, store),
        threads=plan_for(session, threads, evaluator.bind(options or {}).options).threads,
        **given,
    )


def make_manifest(
    evaluator: Evaluator,
    *,
    options: Mapping[str, Any],
    threads: int,
    strategy: str | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    objectives: Sequence[str | Objective] | str | Objective = (),
    genes: Mapping[str, Gene | None] | None = None,
    seed: int = 0,
    order: str = "arrival",
    lag: int = 8,
    warm_start: Iterable[Mapping[str, Any]] = (),
    fill_defaults: bool = False,
    learn_from: Sequence[Run] = (),
    fidelity: str | float | Sequence[str | float] = "1",
    prune: bool = False,
    replicates: int | str = 1,
    seeds: str | None = None,
    subject_to: Iterable[str] = (),
    for_scale: str = "",
) -> Manifest:
    """Return the manifest of a new run; see `Search` for the arguments.

    Raises:
        UsageError: Something given is unknown, of the wrong type or out of range.
    """
    if order not in ORDERS:
        raise OptionError(f"--order {order}: expected arrival or birth")
    if seeds is not None and seeds not in SEEDS:
        raise OptionError(f"--seeds {seeds}: expected {' or '.join(SEEDS)}")
    seed, lag, threads = _whole("seed", seed, 0), _whole("lag", lag, 0), _whole("threads", threads, 1)
    rungs = parse_rungs(fidelity)
    if for_scale:
        parse_aim(for_scale)
    bound = evaluator.bind(options).settled(len(rungs) > 1)
    own = bound.space
    genes = genes or {}
    given = with_defaults(genes, own, bound.gene_options, bound.options)
    space = SearchSpace(own.repair, None, **{**own.including(genes).genes, **given})
    check_repair(space)
    check_ends(bound, space, genes)
    known = bound.estimate(space.default())  # what is wrong with it would fail every trial
    given_goals = _goals(objectives)
    goals = given_goals or evaluator.objectives
    if not goals:
        raise OptionError(
            f"{evaluator.name} says not what counts: give it as --objective METRIC:min or METRIC:max, of a metric that "
            "it prints or returns (from Python: objectives=['METRIC:min'])"
        )
    check_metrics(evaluator, goals)
    name = strategy or "saea"
    made = make_strategy(name, dict(strategy_options or {}))
    check_suited(name, made, space, goals)
    check_learning(name, made, space, goals, learn_from)
    count, by_worth = parse_replicates(replicates)
    constraints = _constraints(evaluator, goals, known, subject_to)
    check_support(evaluator, goals, rungs, bool(prune), count)
    used = {
        "--fidelity": len(rungs) > 1,
        "--prune": prune,
        "--replicates": count > 1,
        "--subject-to": bool(constraints),
    }
    check_own_trials(name, made, [flag for flag, given in used.items() if given])
    return Manifest(
        evaluator=evaluator.reference,
        evaluator_hash=evaluator.hash,
        fingerprint=bound.fingerprint(),
        options=bound.options,
        space=space.describe(),
        objectives=[goal.describe() for goal in goals],
        strategy=name,
        strategy_options=made.to_json(),
        strategy_hash=hash_of(name),
        seed=seed,
        order=order,
        lag=lag,
        threads=threads,
        warm_start=_warm_start(space, warm_start, fill_defaults),
        fidelity=list(rungs),
        prune=bool(prune),
        replicates=count,
        by_worth=by_worth,
        own_seeds=seeds == OWN or (seeds is None and by_worth),
        subject_to=constraints,
        given_genes=sorted(given),
        given_objectives=bool(given_goals),
        units=evaluator.metrics,
        tests=evaluator.tests,
        versions=versions_of((*SHAPING, *made.needs)),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        learned=[learned_from(run, goals[0]) for run in learn_from],
        for_scale=for_scale,
        identity=uuid.uuid4().hex,
    )


def earlier(sources: Iterable[str | Path], store: Path) -> list[Run]:
    """Return earlier runs by name or path: they are read as plain data, and nothing that they name is executed.

    Raises:
        UsageError: One is no run.
    """
    found = []
    for source in [sources] if isinstance(sources, str | Path) else sources:
        try:
            found.append(Run.open(find_run(store, str(source))))
        except StoreError as error:
            raise UsageError(f"--learn-from {source}: expected the name or path of a run; {error}") from None
    return found


def _whole(name: str, value: object, least: int) -> int:
    """Return a whole number of any type as Python's own."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what has none raises
    except TypeError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise OptionError(f"--{name} {value}: expected a whole number of at least {least}")
    return number


def _goals(objectives: Sequence[str | Objective] | str | Objective) -> tuple[Objective, ...]:
    """Return objectives of every form; the text of one stands for a list of it."""
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
        OptionError: One is not understood, or about a metric that the evaluator is known not to return, or that is of
            the test set.
    """
    known = {**evaluator.metrics, **estimated, **{goal.metric: "" for goal in (*objectives, *evaluator.objectives)}}
    found = [Constraint.parse(text) for text in ([given] if isinstance(given, str) else given)]
    for constraint in found:
        evaluator.check_shown(f"--subject-to {constraint.describe()}", constraint.metric)
        if evaluator.metrics and constraint.metric not in known:
            raise OptionError(
                f"--subject-to {constraint.describe()}: {evaluator.name} returns no metric "
                f"{constraint.metric!r}{suggest(constraint.metric, known)}: expected one of {', '.join(known)}"
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


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of Python and of each package, by name."""
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


@functools.cache  # what is loaded stays what it is; reading takes as long as all else of a manifest
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "unknown"


def new_name(evaluator: str, store: Path) -> str:
    """Return a free name for a run: evaluator, as far as a name of a run can hold it, and time."""
    plain = unicodedata.normalize("NFKD", evaluator).encode("ascii", "ignore").decode()  # é is e and an accent
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)[:50].strip("-_") or "run"
    stem = f"{slug}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (store / name).exists())


def widened(run: Run, evaluator: BoundEvaluator, strategy: Strategy, genes: Mapping[str, Gene | None]) -> None:
    """Widen the ranges of a run's genes, from its next birth on, and note it in the journal.

    Args:
        run: Open for writing.
        evaluator: Its evaluator, which is shown the ends of the new ranges.
        strategy: Its strategy.
        genes: Name to gene; none: nothing is done.

    Raises:
        SpaceError: One is unknown, or not wider; or the evaluator refuses a value.
        PluginError: The strategy cannot search such a space.
    """
    if not genes:
        return
    given = as_before(genes, run.genes)
    space = SearchSpace(evaluator.space.repair, None, **wider(run.genes, given))
    check_repair(space)
    check_ends(evaluator, space, given)
    inner = strategy.inner if isinstance(strategy, Ruled) else strategy
    check_suited(run.manifest.strategy, inner, space, run.objectives)
    if len(run.widened) >= WIDENINGS:
        raise SpaceError(f"--gene: the genes of this run were widened {WIDENINGS} times: begin another, --warm-start")
    run.widen(given)


@contextlib.contextmanager
def given_up(run: Run, remove: bool = False) -> Iterator[None]:
    """Around what follows once a run is open: where that fails, the run is closed.

    Args:
        run: It.
        remove: Remove it as well: it was made a moment ago, and is of no use.
    """
    try:
        yield
    except BaseException:
        run.close()
        if remove:
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def reopened(store: Path, name: str | None, copy_as: str | None) -> Iterator[Run]:
    """A saved run, open for writing; where what follows fails, it is closed, and a copy of it removed.

    Args:
        store: Folder of the saved runs.
        name: Its name or path; None for the latest one.
        copy_as: Name of a copy to make and open instead.

    Raises:
        UsageError: The copy's name is taken.
        StoreError: There is no such run, or it cannot be opened.
    """
    folder = find_run(store, name)
    if copy_as is not None:
        mine = began(folder, read_manifest(folder).identity)
        folder = copy_run(folder, store, copy_as)
    run = Run.open(folder, write=True)
    with given_up(run, remove=copy_as is not None):
        if copy_as is not None and mine:  # a copy of a stranger's run stays a stranger's
            remember_run(folder, run.manifest.identity)
        yield run
