"""What happens before the first birth: bind everything that the user gave, and fix it in a manifest.

Nothing is written here and nothing trained: whatever is wrong is said before it can cost anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from evo_tune.errors import OptionError, PluginError, SpaceError, StoreError
from evo_tune.evaluator import Evaluator
from evo_tune.options import suggest
from evo_tune.plugins import list_strategies, make_strategy, source_hash
from evo_tune.population import ORDERS, Manifest, Run
from evo_tune.space import Gene, Genome, SearchSpace, genome_key
from evo_tune.strategy import Strategy
from evo_tune.trial import Objective

__all__ = ["check_unchanged", "make_manifest", "new_name"]

SHAPING = ("evo-tune", "deap", "joblib", "numpy", "torch")
"""Packages whose versions shape results."""


def make_manifest(
    evaluator: Evaluator,
    *,
    options: Mapping[str, Any],
    strategy: str | None,
    strategy_options: Mapping[str, Any],
    objectives: Sequence[str | Objective],
    genes: Mapping[str, Gene],
    seed: int,
    order: str,
    lag: int,
    warm_start: Iterable[Mapping[str, Any]],
    threads: int,
    fill_defaults: bool = False,
) -> Manifest:
    """Return the manifest of a new run; see `Search` for the arguments.

    Raises:
        UsageError: Something given is unknown, of the wrong type or out of range.
    """
    if order not in ORDERS:
        raise OptionError(f"--order {order}: expected arrival or birth")
    if lag < 0 or seed < 0:
        raise OptionError(f"--lag {lag} --seed {seed}: expected numbers of at least 0")
    bound = evaluator.bind(options)
    own = evaluator.space(bound)
    space = SearchSpace(own.repair, **{**own.genes, **_with_defaults(genes, own)})
    _check_repair(space)
    goals = tuple(g if isinstance(g, Objective) else Objective.parse(g) for g in objectives) or evaluator.objectives
    _check_metrics(evaluator, goals)
    name = strategy or ("ga" if len(goals) == 1 else "nsga2")
    made = make_strategy(name, dict(strategy_options))
    _check_objectives(name, made, goals)
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
        units=evaluator.metrics,
        versions=_versions(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _with_defaults(genes: Mapping[str, Gene], own: SearchSpace) -> dict[str, Gene]:
    """Give genes that replace one of the evaluator's own its default, where they allow it."""
    unknown = sorted(set(genes) - set(own.genes))
    if unknown:
        raise SpaceError(f"--gene {unknown[0]}: expected one of {', '.join(own.genes)}{suggest(unknown[0], own.genes)}")
    found = dict(genes)
    for name, gene in genes.items():
        if gene.default is None:
            with contextlib.suppress(SpaceError):
                found[name] = dataclasses.replace(gene, default=gene.check(own.genes[name].middle()))  # type: ignore[type-var]
    return found


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


def _check_metrics(evaluator: Evaluator, objectives: Sequence[Objective]) -> None:
    """Refuse an objective that the evaluator is known not to return."""
    known = {**evaluator.metrics, **{own.metric: "" for own in evaluator.objectives}}
    for objective in objectives:
        if evaluator.metrics and objective.metric not in known:
            raise SpaceError(
                f"--objective {objective.describe()}: {evaluator.name} returns no metric "
                f"{objective.metric!r}{suggest(objective.metric, known)}: expected one of {', '.join(known)}"
            )


def _check_objectives(name: str, strategy: Strategy, objectives: Sequence[Objective]) -> None:
    metrics = [objective.metric for objective in objectives]
    if len(set(metrics)) != len(metrics):
        raise SpaceError(f"objectives {', '.join(metrics)}: one is given twice")
    if len(objectives) > 1 and not strategy.several_objectives:
        able = [known for known, _ in list_strategies() if make_strategy(known, {}).several_objectives]
        raise PluginError(
            f"strategy {name} optimises one objective, and {len(objectives)} were given ({', '.join(metrics)}): "
            f"choose --strategy {' or '.join(able)}, or one --objective"
        )


def _warm_start(space: SearchSpace, genomes: Iterable[Mapping[str, Any]], fill_defaults: bool) -> list[Genome]:
    """Return the genomes checked, without the default and without duplicates."""
    checked: dict[str, Genome] = {}
    for number, genome in enumerate(genomes, 1):
        try:
            valid = space.check(genome, fill_defaults)
        except SpaceError as error:
            raise SpaceError(f"--warm-start, genome {number}: {error}") from None
        checked[genome_key(valid)] = valid
    checked.pop(genome_key(space.default()), None)
    return list(checked.values())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in SHAPING:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a checkout that was never installed
            found[package] = "unknown"
    return found


def new_name(evaluator: str, store: Path) -> str:
    """Return a free name for a run: evaluator and time."""
    stem = f"{evaluator}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    return next(name for name in names if not (store / name).exists())


def check_unchanged(run: Run, evaluator: Evaluator, accept_changes: bool) -> None:
    """Refuse to go on with another evaluator or other data than the run began with.

    Args:
        run: The run, open for writing.
        evaluator: Its evaluator as it is now.
        accept_changes: Note the change in the journal instead of refusing.

    Raises:
        StoreError: Something has changed and is not accepted.
    """
    now = {
        "evaluator_hash": source_hash(evaluator.path),
        "fingerprint": evaluator.fingerprint(evaluator.bind(run.manifest.options)),
    }
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
        run.write({"event": "changed", **now}, sync=True)
