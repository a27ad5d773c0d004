"""Reasons to refuse a run: a new one before anything is made or trained, a saved one before it continues.

Each check raises an error that says what to do. `plan` calls them for a new run, and `Search.resume` for a saved one.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from evo_tune.errors import EvoTuneError, OptionError, PluginError, SpaceError, StoreError
from evo_tune.genome.genes import Choice
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import genome_key, space_error_prefix
from evo_tune.loop.code import hash_of, message_of_changed_evaluator
from evo_tune.options.binding import did_you_mean, options_of
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import install_command, working_strategies
from evo_tune.plugins.strategy import Strategy
from evo_tune.settings import RunSettings
from evo_tune.store.run import Run


def check_repair(space: SearchSpace, samples: int = 20) -> None:
    """Try the repair on a few genomes, because a rare error would otherwise appear after hours.

    Raises:
        SpaceError: The repair raises an error, leaves the space, or changes its own result.
    """
    rng = np.random.default_rng(0)
    for genome in [space.default(), *(space.sample(rng) for _ in range(samples))]:
        repaired_again = space.check(genome)
        if genome_key(repaired_again) != genome_key(genome):
            raise SpaceError(f"repair must keep its own result: it returned {genome}, and for that {repaired_again}")


def check_ends(evaluator: BoundEvaluator, space: SearchSpace, genes: Iterable[str]) -> None:
    """Let the evaluator check the ends of the user's own genes, before any trial.

    Raises:
        SpaceError: The evaluator refuses a value.
    """
    fields = evaluator.gene_options
    for name in genes:
        gene = space.genes[name]
        ends = gene.values if isinstance(gene, Choice) else (gene.decode(0.0), gene.decode(1.0))
        for value in ends:
            with space_error_prefix(f"--gene {name}, at {value}"):
                if name in fields:
                    fields[name].check(value)
                evaluator.estimate(space.check({**space.default(), name: value}))


def check_learning(
    name: str, strategy: Strategy, space: SearchSpace, objectives: Sequence[Objective], runs: Sequence[Run]
) -> None:
    """Refuse earlier runs if nothing can be learned from them.

    Raises:
        OptionError: The strategy does not learn from earlier runs, there are several objectives, or no gene is shared.
    """
    for run in runs:
        if not strategy.learns:
            raise OptionError(f"--learn-from {run.name}: strategy {name} does not learn from earlier runs; use saea")
        if len(objectives) > 1:
            raise OptionError(f"--learn-from {run.name}: expected one objective, and {len(objectives)} were given")
        if not set(run.manifest.space) & set(space.genes):
            had = ", ".join(run.manifest.space)
            raise OptionError(f"--learn-from {run.name}: it has none of the genes {', '.join(space.genes)} (but {had})")


def check_metric(
    evaluator: Evaluator, flag_text: str, metric: str, metrics: Iterable[str], error: type[EvoTuneError]
) -> None:
    """Refuse a metric that the evaluator is known not to return, or that is measured on the test set.

    Args:
        evaluator: Evaluator of the run.
        flag_text: Flag that names the metric, with its value.
        metric: Name of the metric.
        metrics: Names of the metrics that are returned; they count if the evaluator declares its metrics.
        error: Type of the error for a metric that is not returned.

    Raises:
        EvoTuneError: The evaluator does not return the metric (`error`), or it is measured on the test set.
    """
    if evaluator.is_test(metric):
        instead = next(
            (shown for shown, test in evaluator.tests.items() if test == metric), "one of the validation set"
        )
        raise OptionError(f"{flag_text}: {metric} is of the test set, which no search may see: expected {instead}")
    if evaluator.metrics and metric not in metrics:
        hint, names = did_you_mean(metric, metrics), ", ".join(metrics)
        raise error(f"{flag_text}: {evaluator.name} returns no metric {metric!r}{hint}: expected one of {names}")


def check_suited(name: str, strategy: Strategy, space: SearchSpace, objectives: Sequence[Objective]) -> None:
    """Refuse objectives or a space that the strategy cannot search, and name the strategies that can.

    Raises:
        SpaceError: An objective is given twice.
        PluginError: The strategy cannot search them.
    """
    metrics = [objective.metric for objective in objectives]
    if len(set(metrics)) != len(metrics):
        raise SpaceError(f"objectives {', '.join(metrics)}: one is given twice")
    reason = strategy.unsuited(space, objectives)
    if reason:
        usable = {  # with default options, and with the packages that are installed
            other_name: other
            for other_name, other in working_strategies().items()
            if not install_command(other) and not any(option.required for option in options_of(other).values())
        }
        suited = [other_name for other_name, other in usable.items() if not other().unsuited(space, objectives)]
        raise PluginError(f"strategy {name} {reason}, or choose --strategy {' or '.join(suited)}")


def check_rules(
    evaluator: Evaluator,
    strategy_name: str,
    strategy: Strategy,
    objectives: Sequence[Objective],
    settings: RunSettings,
    constraints: Sequence[str],
) -> None:
    """Refuse rules for trials that this evaluator, this number of objectives, or this strategy does not allow.

    Args:
        evaluator: Evaluator of the run.
        strategy_name: Name of the strategy.
        strategy: Strategy of the run.
        objectives: Objectives of the run.
        settings: Settings of the run.
        constraints: Constraints of the run.

    Raises:
        PluginError: The evaluator does not declare support for a rule, or the strategy decides by itself how genomes
            are trained.
        OptionError: A rule needs a single objective, or the evaluator reports why it cannot support the rule.
    """
    rules = {
        "--fidelity": len(settings.rungs) > 1,
        "--prune": settings.prune,
        "--seeds-per-trial": settings.most_seeds > 1,
        "--subject-to": bool(constraints),
    }
    flags = [flag for flag, is_set in rules.items() if is_set]
    for flag, feature in (("--fidelity", "budget"), ("--prune", "curve")):
        if flag in flags and feature not in evaluator.supports:
            if feature in evaluator.unsupported:
                raise OptionError(f"{flag}: {evaluator.unsupported[feature]}")
            problem = f"{flag}: evaluator {evaluator.name} does not say that it supports it"
            condition = (
                f"if it does what docs/evaluators.md asks for, put SUPPORTS = [{feature!r}] into {evaluator.path}"
            )
            raise PluginError(f"{problem}: {condition}; else leave {flag} out")
    for flag in ("--prune", "--seeds-per-trial"):
        if flag in flags and len(objectives) > 1:
            raise OptionError(f"{flag}: expected one objective, and {len(objectives)} were given; leave {flag} out")
    if flags and strategy.own_trials:
        able = [other_name for other_name, other in working_strategies().items() if not other.own_trials]
        raise PluginError(
            f"strategy {strategy_name} decides itself on budgets and extra seeds, so {flags[0]} does not go with it: "
            f"choose --strategy {' or '.join(able)}, or leave {flags[0]} out"
        )


def _check_genes(run: Run, evaluator: BoundEvaluator) -> None:
    """Refuse an evaluator with other genes or objectives than when the run began.

    Raises:
        StoreError: The genes or the objectives differ.
    """
    now, cause = evaluator.space, ""
    fields = {name for name, option in evaluator.gene_options.items() if option.gene is not None}
    before, after = run.manifest.space.keys() - now.optional.keys() - fields, now.genes.keys()
    if before != after:
        lost, new = sorted(before - after), sorted(after - before)
        parts = [f"{', '.join(names)} {change}" for names, change in ((lost, "is gone"), (new, "is new")) if names]
        cause = f"its genes have changed ({'; '.join(parts)})"
        if evaluator.plugin.hash == run.evaluator_hash:
            cause += ", though its code has not, perhaps by a package that was installed or removed since"
    elif evaluator.plugin.hash != run.evaluator_hash:  # else ranges differ by machine (-o size=auto)
        old_goals, goals = run.manifest.objectives, [goal.describe() for goal in evaluator.plugin.objectives]
        cause = _other_ranges(run, now)
        if not cause and not run.manifest.given_objectives and goals != old_goals:
            cause = f"its objectives have changed (now {', '.join(goals)}, and were {', '.join(old_goals)})"
    if cause:
        raise StoreError(message_of_changed_evaluator(run, evaluator.plugin, cause))


def _other_ranges(run: Run, now: SearchSpace) -> str:
    """Return which of the evaluator's own genes changed since the run began, in words; '' if none did.

    Genes that the user gave are not compared. Defaults may differ, because the default genome was proposed first and
    nothing else depends on it.
    """
    present_genes, first_genes, changes = {**now.optional, **now.genes}, run.manifest.genes(), []
    for name, gene in run.genes.items():
        is_widened = first_genes.get(name) != gene
        if name in present_genes and name not in run.manifest.given_genes and not is_widened:
            # Default and limits may differ between the start of a run and a resume.
            old, new = (replace(each, default=None, widest=None) for each in (gene, present_genes[name]))  # type: ignore[type-var]
            if repr(old) != repr(new):
                changes.append(f"{name} is now {new}, and was {old}")
    return f"its genes have changed ({'; '.join(changes)})" if changes else ""


def check_unchanged(run: Run, evaluator: BoundEvaluator, strategy: Strategy, accept_changes: bool) -> None:
    """Refuse to continue a run whose evaluator, data or strategy has changed.

    Args:
        run: Run that is open for writing.
        evaluator: Present evaluator of the run.
        strategy: Present strategy of the run.
        accept_changes: Whether to note the change in the journal instead of refusing.

    Raises:
        StoreError: A change is not accepted, or the run cannot continue with it.
    """
    _check_genes(run, evaluator)
    plugin = evaluator.plugin
    fingerprint, strategy_hash = evaluator.fingerprint(), hash_of(strategy)
    changed = []
    if plugin.hash != run.evaluator_hash:
        changed.append(f"the evaluator's file {plugin.place} (or a module that it imports)")
    if fingerprint != run.fingerprint:
        changed.append("the evaluator's data")
    why = "old and new results may not be comparable" if changed else "later proposals would differ"
    if strategy_hash != run.strategy_hash:
        changed.append(f"the strategy's file {inspect.getfile(type(strategy))} (or a module that it imports)")
    if changed and not accept_changes:
        raise StoreError(
            f"{' and '.join(changed)} has changed since run {run.name} began, so {why}: "
            "--accept-changes continues nevertheless"
        )
    if changed:
        run.change(evaluator_hash=plugin.hash, fingerprint=fingerprint, strategy_hash=strategy_hash)
