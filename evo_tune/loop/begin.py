"""What happens before the first birth: bind everything that the user gave, and fix it in a manifest.

Nothing is written here and nothing trained: whatever is wrong is said before it can cost anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import operator
import platform
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from evo_tune.errors import EvoTuneError, OptionError, PluginError, SpaceError, StoreError
from evo_tune.genome.constraint import Constraint
from evo_tune.genome.space import Choice, Gene, Genome, Int, SearchSpace, Value, genome_key, is_writable
from evo_tune.genome.trial import Objective
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import (
    find_evaluator,
    install_command,
    list_evaluators,
    make_strategy,
    source_hash,
    working_strategies,
)
from evo_tune.plugins.options import options_of, suggest
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.fidelity import parse_rungs
from evo_tune.rules.inheritance import parse_share
from evo_tune.store.manifest import ORDERS, Manifest
from evo_tune.store.run import Run

__all__ = ["check_unchanged", "make_manifest", "new_name"]

SHAPING = ("evo-tune", "deap", "joblib", "numpy", "torch")
"""Packages whose versions shape results."""

KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "whole numbers": int,
    "numbers": (int, float),
    "text": str,
}
"""What the values of a gene may be, in words; the first that holds of all of them counts."""


def make_manifest(
    evaluator: Evaluator,
    *,
    options: Mapping[str, Any],
    strategy: str | None,
    strategy_options: Mapping[str, Any],
    objectives: Sequence[str | Objective] | str | Objective,
    genes: Mapping[str, Gene | None],
    seed: int,
    order: str,
    lag: int,
    warm_start: Iterable[Mapping[str, Any]],
    threads: int,
    fill_defaults: bool = False,
    fidelity: str = "1",
    prune: bool = False,
    replicates: int = 1,
    inherit: str | float = 0,
    subject_to: Iterable[str] = (),
) -> Manifest:
    """Return the manifest of a new run; see `Search` for the arguments.

    Raises:
        UsageError: Something given is unknown, of the wrong type or out of range.
    """
    if order not in ORDERS:
        raise OptionError(f"--order {order}: expected arrival or birth")
    seed, lag, threads = _whole("seed", seed, 0), _whole("lag", lag, 0), _whole("threads", threads, 1)
    bound = evaluator.bind(options)
    own = evaluator.space(bound)
    space = SearchSpace(own.repair, None, **{**own.including(genes).genes, **_with_defaults(genes, own)})
    _check_repair(space)
    _check_ends(evaluator, space, genes, bound)
    known = evaluator.estimate(space.default(), bound)  # what is wrong with it would fail every trial
    goals = _goals(objectives) or evaluator.objectives
    _check_metrics(evaluator, goals)
    name = strategy or "saea"
    made = make_strategy(name, dict(strategy_options))
    _check_suited(name, made, space, goals)
    rungs, replicates = parse_rungs(fidelity), _whole("replicates", replicates, 1)
    constraints, share = _constraints(evaluator, goals, known, subject_to), parse_share(inherit)
    _check_support(evaluator, goals, rungs, bool(prune), replicates, share)
    if share:
        _check_inheritance(evaluator, space.default(), bound, rungs)
    used: dict[str, object] = {"--fidelity": len(rungs) > 1, "--prune": prune, "--replicates": replicates > 1}
    used |= {"--inherit": share, "--subject-to": constraints}
    _check_own_trials(name, made, [flag for flag, given in used.items() if given])
    return Manifest(
        evaluator=evaluator.reference,
        evaluator_hash=source_hash(evaluator.path),
        fingerprint=evaluator.fingerprint(bound),
        options=bound,
        space=space.describe(),
        objectives=[goal.describe() for goal in goals],
        strategy=name,
        strategy_options=dataclasses.asdict(made),
        seed=seed,
        order=order,
        lag=lag,
        threads=threads,
        warm_start=_warm_start(space, warm_start, fill_defaults),
        fidelity=list(rungs),
        prune=bool(prune),
        replicates=replicates,
        inherit=share,
        subject_to=constraints,
        units=evaluator.metrics,
        versions=_versions((*SHAPING, *made.needs)),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


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


def _with_defaults(genes: Mapping[str, Gene | None], own: SearchSpace) -> dict[str, Gene]:
    """Return genes that replace some of the evaluator's own, with those's defaults where they allow it.

    None stands for the evaluator's own gene: it is how an optional one is switched on as it is.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    found = {}
    known = {**own.genes, **own.optional}
    for name, gene in genes.items():
        if name not in known:
            raise SpaceError(f"--gene {name}: expected one of {', '.join(known)}{suggest(str(name), known)}")
        if gene is None and name in own.genes:
            raise SpaceError(f"--gene {name}: it is on as it is; expected --gene {name}=GENE")
        if gene is None:
            continue
        if not isinstance(gene, Gene):
            raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
        try:
            found[name] = _like(known[name], gene)
        except SpaceError as error:
            raise SpaceError(f"--gene {name}: {error}") from None
        if gene.default is None:
            with contextlib.suppress(SpaceError):
                found[name] = dataclasses.replace(found[name], default=found[name].check(known[name].middle()))  # type: ignore[type-var]
    return found


def _kind_of(gene: Gene) -> str | None:
    """Return what the values of a gene are, in words; None if they are of several kinds."""
    if not isinstance(gene, Choice):
        return "whole numbers" if isinstance(gene, Int) else "numbers"
    for kind, types in KINDS.items():
        if all(isinstance(value, types) and (types is bool or type(value) is not bool) for value in gene.values):
            return kind
    return None


def _like(own: Gene, new: Gene) -> Gene:
    """Return a gene that replaces the evaluator's own, its values of the type that `evaluate` counts on.

    Raises:
        SpaceError: They are of another one; out of the own range they may be.
    """
    wanted = _kind_of(own)
    if isinstance(new, Choice) and wanted in ("whole numbers", "text"):
        convert = _as_whole if wanted == "whole numbers" else _as_text
        values = tuple(convert(value, own) for value in new.values)
        default = None if new.default is None else convert(new.default, own)
        new = dataclasses.replace(new, values=values, default=default)
    if wanted is None or _kind_of(new) == wanted or (wanted == "numbers" and _kind_of(new) == "whole numbers"):
        return new
    held = ", ".join(map(repr, new.values)) if isinstance(new, Choice) else f"{type(new).__name__}(…)"
    raise SpaceError(f"{held} is not allowed: expected {wanted}, as the evaluator's own gene has")


def _as_whole(value: Value, own: Gene) -> Value:
    """Return 8 for 8.0; what is not whole, as it is."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def _as_text(value: Value, own: Gene) -> Value:
    """Return '8' for 8 where the own gene has such a text: what was typed tells no text from a number."""
    texts = [str(text) for text in own.values] if isinstance(own, Choice) else []
    return next((text for text in texts if not isinstance(value, str) and text.lower() == str(value).lower()), value)


def _check_repair(space: SearchSpace, samples: int = 20) -> None:
    """Try the repair on a few genomes: a broken one would otherwise show after hours.

    Raises:
        SpaceError: It raises, leaves the space, or changes what it returned before.
    """
    rng = np.random.default_rng(0)
    for genome in [space.default(), *(space.sample(rng) for _ in range(samples))]:
        again = space.check(genome)
        if genome_key(again) != genome_key(genome):
            raise SpaceError(f"repair changes its own result: it returned {genome}, and of that made {again}")


def _check_ends(evaluator: Evaluator, space: SearchSpace, genes: Iterable[str], bound: Mapping[str, Any]) -> None:
    """Show the evaluator the ends of the user's own genes: what it cannot train at all, it says before a trial.

    Raises:
        SpaceError: It refuses a value.
    """
    for name in genes:
        gene = space.genes[name]
        ends = gene.values if isinstance(gene, Choice) else (gene.decode(0.0), gene.decode(1.0))
        for value in ends:
            try:
                evaluator.estimate(space.check({**space.default(), name: value}), bound)
            except EvoTuneError as error:
                raise SpaceError(f"--gene {name}, at {value}: {error}") from None


def _check_metrics(evaluator: Evaluator, objectives: Sequence[Objective]) -> None:
    """Refuse an objective that the evaluator is known not to return."""
    known = {**evaluator.metrics, **{own.metric: "" for own in evaluator.objectives}, "seconds": "s"}
    for objective in objectives:
        if evaluator.metrics and objective.metric not in known:
            raise SpaceError(
                f"--objective {objective.describe()}: {evaluator.name} returns no metric "
                f"{objective.metric!r}{suggest(objective.metric, known)}: expected one of {', '.join(known)}"
            )


def _check_suited(name: str, strategy: Strategy, space: SearchSpace, objectives: Sequence[Objective]) -> None:
    """Refuse objectives or a space that the strategy cannot search, and name the strategies that can."""
    metrics = [objective.metric for objective in objectives]
    if len(set(metrics)) != len(metrics):
        raise SpaceError(f"objectives {', '.join(metrics)}: one is given twice")
    reason = strategy.unsuited(space, objectives)
    if reason:
        able = [known for known, one in working_strategies().items() if _suits(one, space, objectives)]
        raise PluginError(f"strategy {name} {reason}, or choose --strategy {' or '.join(able)}")


def _suits(strategy: type[Strategy], space: SearchSpace, objectives: Sequence[Objective]) -> bool:
    """Whether a strategy, as it is without options, can search a space, and is installed with all that it needs."""
    required = any(option.required for option in options_of(strategy).values())
    return not required and not install_command(strategy) and not strategy().unsuited(space, objectives)


def _check_support(
    evaluator: Evaluator,
    objectives: Sequence[Objective],
    rungs: Sequence[float],
    prune: bool,
    replicates: int,
    inherit: float,
) -> None:
    """Refuse rules for trials that this evaluator, or this number of objectives, does not allow."""
    needed = {
        "--fidelity": ("budget", len(rungs) > 1),
        "--prune": ("curve", prune),
        "--inherit": ("inherit", inherit > 0.0),
    }
    for flag, (what, wanted) in needed.items():
        if wanted and what not in evaluator.supports:
            raise PluginError(
                f"{flag}: evaluator {evaluator.name} does not say that it supports it: if it does what "
                f"docs/evaluators.md asks for, put SUPPORTS = [{what!r}] into {evaluator.path}; else leave {flag} out"
                f"{_who_supports(what)}"
            )
    for flag, wanted in (("--prune", prune), ("--replicates", replicates > 1), ("--inherit", inherit > 0.0)):
        if wanted and len(objectives) > 1:
            raise OptionError(f"{flag}: expected one objective, and {len(objectives)} were given; leave {flag} out")


def _who_supports(what: str) -> str:
    """Return ' (NAME supports it)', naming the bundled evaluators that do; '' if none does."""
    able = [name for name, origin, _, _ in list_evaluators() if origin == "bundled"]
    able = [name for name in able if what in find_evaluator(name).supports]
    return f" ({', '.join(able)} can do it)" if able else ""


def _check_inheritance(evaluator: Evaluator, default: Genome, bound: Mapping[str, Any], rungs: Sequence[float]) -> None:
    """Refuse inheritance where it cannot happen, or beside rungs: both say what a part of a training is.

    Raises:
        OptionError: That is so.
    """
    if len(rungs) > 1:
        raise OptionError("--inherit and --fidelity are both given: give one of them")
    if not evaluator.inherits(default, default, bound):
        raise OptionError(
            f"--inherit: with these options a model of {evaluator.name} cannot begin with the weights of another, not "
            "even of its like: change them, or leave --inherit out"
        )


def _check_own_trials(name: str, strategy: Strategy, flags: Sequence[str]) -> None:
    """Refuse rules for a strategy that decides by itself how genomes are trained."""
    if flags and strategy.own_trials:
        able = [known for known, one in working_strategies().items() if not one.own_trials]
        raise PluginError(
            f"strategy {name} decides itself on budgets and replicates, so {flags[0]} does not go with it: choose "
            f"--strategy {' or '.join(able)}, or leave {flags[0]} out"
        )


def _constraints(
    evaluator: Evaluator, objectives: Sequence[Objective], estimated: Mapping[str, float], given: Iterable[str]
) -> list[str]:
    """Return constraints as they are written in the manifest.

    Raises:
        OptionError: One is not understood, or about a metric that the evaluator is known not to return.
    """
    known = {**evaluator.metrics, **estimated, **{goal.metric: "" for goal in (*objectives, *evaluator.objectives)}}
    found = [Constraint.parse(text) for text in ([given] if isinstance(given, str) else given)]
    for constraint in found:
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


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a checkout that was never installed
            found[package] = "unknown"
    return found


def new_name(evaluator: str, store: Path) -> str:
    """Return a free name for a run: evaluator, as far as a name of a run can hold it, and time."""
    plain = unicodedata.normalize("NFKD", evaluator).encode("ascii", "ignore").decode()  # é is e and an accent
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)[:50].strip("-_") or "run"
    stem = f"{slug}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (store / name).exists())


def _bound_again(run: Run, evaluator: Evaluator) -> dict[str, Any]:
    """Return a run's options as its evaluator takes them now.

    Raises:
        StoreError: The evaluator has other options or genes, so nothing that it returned or would return fits.
    """
    cause = ""
    try:
        bound = evaluator.bind(run.manifest.options)
        now = evaluator.space(bound)
        before, after = run.manifest.space.keys() - now.optional.keys(), now.genes.keys()
        if before != after:
            lost, new = sorted(before - after), sorted(after - before)
            told = [f"{', '.join(names)} {what}" for names, what in ((lost, "is gone"), (new, "is new")) if names]
            cause = f"its genes have changed ({'; '.join(told)})"
    except OptionError as error:
        cause = str(error)
    if cause:
        raise StoreError(
            f"run {run.name} cannot go on with {evaluator.path} as it is now: {cause}; change that back, or start a "
            "new run"
        )
    return bound


def check_unchanged(run: Run, evaluator: Evaluator, accept_changes: bool) -> None:
    """Refuse to go on with another evaluator or other data than the run began with.

    Args:
        run: The run, open for writing.
        evaluator: Its evaluator as it is now.
        accept_changes: Note the change in the journal instead of refusing.

    Raises:
        StoreError: Something has changed and is not accepted, or the run cannot go on with it at all.
    """
    bound = _bound_again(run, evaluator)
    now = {"evaluator_hash": source_hash(evaluator.path), "fingerprint": evaluator.fingerprint(bound)}
    changed = []
    if now["evaluator_hash"] != run.evaluator_hash:
        changed.append(f"the evaluator's file {evaluator.path} (or a module that it imports)")
    if now["fingerprint"] != run.fingerprint:
        changed.append("the evaluator's data")
    if changed and not accept_changes:
        raise StoreError(
            f"{' and '.join(changed)} has changed since run {run.name} began, so old and new results may not "
            "compare: --accept-changes goes on all the same"
        )
    if changed:
        run.change(**now)
