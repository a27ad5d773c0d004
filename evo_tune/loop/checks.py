"""Reasons to refuse a run: a new one before anything is made or trained, a saved one before it continues.

Each check raises an error that says what to do. The genes that a user gives in place of the evaluator's own are checked
here as well. `begin` puts the checked parts together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evo_tune.errors import EvoTuneError, OptionError, PluginError, SpaceError, StoreError
from evo_tune.genome.genes import Choice, Gene, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import Value, genome_key
from evo_tune.genome.widening import with_limits
from evo_tune.loop.code import cannot_resume, hash_of
from evo_tune.options.binding import did_you_mean, options_of
from evo_tune.options.declare import AUTO, Option, union_members
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import find_evaluator, install_command, list_evaluators, working_strategies
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
        again = space.check(genome)
        if genome_key(again) != genome_key(genome):
            raise SpaceError(f"repair must return its own result unchanged: it returned {genome}, and for that {again}")


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
            try:
                if name in fields:
                    fields[name].check(value)
                evaluator.estimate(space.check({**space.default(), name: value}))
            except EvoTuneError as error:
                raise SpaceError(f"--gene {name}, at {value}: {error}") from None


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


def check_metrics(evaluator: Evaluator, objectives: Sequence[Objective]) -> None:
    """Refuse an objective that the evaluator is known not to return, or that is measured on the test set.

    Raises:
        SpaceError: The evaluator does not return an objective.
        OptionError: An objective is measured on the test set.
    """
    known = {**evaluator.metrics, **{own.metric: "" for own in evaluator.objectives}, "seconds": "s"}
    for objective in objectives:
        evaluator.check_not_test_metric(f"--objective {objective.describe()}", objective.metric)
        if evaluator.metrics and objective.metric not in known:
            raise SpaceError(
                f"--objective {objective.describe()}: {evaluator.name} returns no metric "
                f"{objective.metric!r}{did_you_mean(objective.metric, known)}: expected one of {', '.join(known)}"
            )


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
        able = [known for known, one in working_strategies().items() if _suits(one, space, objectives)]
        raise PluginError(f"strategy {name} {reason}, or choose --strategy {' or '.join(able)}")


def _suits(strategy: type[Strategy], space: SearchSpace, objectives: Sequence[Objective]) -> bool:
    """Return whether a strategy with default options can search a space and has all packages that it needs."""
    required = any(option.required for option in options_of(strategy).values())
    return not required and not install_command(strategy) and not strategy().unsuited(space, objectives)


def check_support(evaluator: Evaluator, objectives: Sequence[Objective], settings: RunSettings) -> None:
    """Refuse rules for trials that this evaluator, or this number of objectives, does not allow.

    Args:
        evaluator: Evaluator of the run.
        objectives: Objectives of the run.
        settings: Settings of the run.

    Raises:
        PluginError: The evaluator does not declare support for a rule.
        OptionError: A rule needs a single objective, or the evaluator reports why it cannot support the rule.
    """
    needed = {
        "--fidelity": ("budget", len(settings.rungs) > 1),
        "--prune": ("curve", settings.prune),
    }
    for flag, (what, wanted) in needed.items():
        if wanted and what not in evaluator.supports:
            if what in evaluator.unsupported:
                raise OptionError(f"{flag}: {evaluator.unsupported[what]}")
            raise PluginError(
                f"{flag}: evaluator {evaluator.name} does not say that it supports it: if it does what "
                f"docs/evaluators.md asks for, put SUPPORTS = [{what!r}] into {evaluator.path}; else leave {flag} out"
                f"{_who_supports(what)}"
            )
    for flag, wanted in (("--prune", settings.prune), ("--seeds-per-trial", settings.most_seeds > 1)):
        if wanted and len(objectives) > 1:
            raise OptionError(f"{flag}: expected one objective, and {len(objectives)} were given; leave {flag} out")


def _who_supports(what: str) -> str:
    """Return ' (NAME supports it)', naming the bundled evaluators that do; '' if none does."""
    able = [name for name, origin, _, _ in list_evaluators() if origin == "bundled"]
    able = [name for name in able if what in find_evaluator(name).supports]
    return f" ({', '.join(able)} can do it)" if able else ""


def check_own_trials(name: str, strategy: Strategy, settings: RunSettings, constraints: Sequence[str]) -> None:
    """Refuse rules for a strategy that decides by itself how genomes are trained.

    Args:
        name: Name of the strategy.
        strategy: Strategy of the run.
        settings: Settings of the run.
        constraints: Constraints of the run.

    Raises:
        PluginError: The strategy decides by itself, and rules are set.
    """
    rules = {
        "--fidelity": len(settings.rungs) > 1,
        "--prune": settings.prune,
        "--seeds-per-trial": settings.most_seeds > 1,
        "--subject-to": bool(constraints),
    }
    flags = [flag for flag, is_set in rules.items() if is_set]
    if flags and strategy.own_trials:
        able = [known for known, one in working_strategies().items() if not one.own_trials]
        raise PluginError(
            f"strategy {name} decides itself on budgets and extra seeds, so {flags[0]} does not go with it: choose "
            f"--strategy {' or '.join(able)}, or leave {flags[0]} out"
        )


def _check_genes(run: Run, evaluator: BoundEvaluator) -> None:
    """Refuse an evaluator with other genes or objectives than when the run began.

    Raises:
        StoreError: The genes or the objectives differ.
    """
    now, cause = evaluator.space, ""
    fields = {name for name, one in evaluator.gene_options.items() if one.gene is not None}
    before, after = run.manifest.space.keys() - now.optional.keys() - fields, now.genes.keys()
    if before != after:
        lost, new = sorted(before - after), sorted(after - before)
        told = [f"{', '.join(names)} {what}" for names, what in ((lost, "is gone"), (new, "is new")) if names]
        cause = f"its genes have changed ({'; '.join(told)})"
    elif evaluator.plugin.hash != run.evaluator_hash:  # else ranges differ by machine (-o size=auto)
        cause = _other_ranges(run, now) or _other_objectives(run, evaluator.plugin)
    if cause:
        raise StoreError(cannot_resume(run, evaluator.plugin, cause))


def _other_ranges(run: Run, now: SearchSpace) -> str:
    """Return which of the evaluator's own genes changed since the run began, in words; '' if none did.

    Genes that the user gave are not compared. Defaults may differ, because the default genome was proposed first and
    nothing else depends on it.
    """
    known = {**now.optional, **now.genes}
    given = {
        *run.manifest.given_genes,
        *(name for name, gene in run.manifest.genes().items() if run.genes[name] != gene),
    }
    names = [name for name in run.genes if name in known and name not in given]
    both = {name: [_of_range(gene) for gene in (run.genes[name], known[name])] for name in names}
    told = [f"{name} is now {new}, and was {old}" for name, (old, new) in both.items() if repr(old) != repr(new)]
    return f"its genes have changed ({'; '.join(told)})" if told else ""


def _of_range(gene: Gene) -> Gene:
    """Return a gene without what may differ between the start of a run and a resume: default and limits."""
    return replace(gene, default=None, widest=None)  # type: ignore[type-var]


def _other_objectives(run: Run, evaluator: Evaluator) -> str:
    """Return how the evaluator's own objectives changed since the run began, in words; '' if they did not."""
    before, now = run.manifest.objectives, [goal.describe() for goal in evaluator.objectives]
    if run.manifest.given_objectives or now == before:
        return ""
    return f"its objectives have changed (now {', '.join(now)}, and were {', '.join(before)})"


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
    now = {"evaluator_hash": plugin.hash, "fingerprint": evaluator.fingerprint()}
    now["strategy_hash"] = hash_of(strategy)
    changed = []
    if now["evaluator_hash"] != run.evaluator_hash:
        changed.append(f"the evaluator's file {plugin.place} (or a module that it imports)")
    if now["fingerprint"] != run.fingerprint:
        changed.append("the evaluator's data")
    why = "old and new results may not be comparable" if changed else "later proposals would differ"
    if now["strategy_hash"] != run.strategy_hash:
        changed.append(f"the strategy's file {inspect.getfile(type(strategy))} (or a module that it imports)")
    if changed and not accept_changes:
        raise StoreError(
            f"{' and '.join(changed)} has changed since run {run.name} began, so {why}: "
            "--accept-changes continues nevertheless"
        )
    if changed:
        run.change(**now)


KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "whole numbers": int,
    "numbers": (int, float),
    "text": str,
}
"""Types by kind of value, in words; the first kind that fits all values of a gene counts."""


def with_defaults(
    genes: Mapping[str, Gene | None], own: SearchSpace, fields: Mapping[str, Option], values: Mapping[str, Any]
) -> dict[str, Gene]:
    """Return the user's genes, with the defaults of the evaluator's own genes if these are in the new ranges.

    Args:
        genes: Genes that the user gave, by name. None means the evaluator's own gene; it switches an optional gene on.
        own: Space of the evaluator.
        fields: Options of the evaluator that may become genes. Their allowed values are not checked here.
        values: Values of the options, which are the defaults of such genes.

    Raises:
        SpaceError: A gene is unknown, is not a gene, or has values of another type than the evaluator's own.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    found = {}
    known = {**own.genes, **own.optional}
    for name, gene in genes.items():
        if name not in known and name not in fields:
            near = did_you_mean(str(name), [*known, *fields])
            raise SpaceError(f"--gene {name}: expected one of {', '.join(known)}{near}")
        if gene is None and name in own.genes:
            raise SpaceError(f"--gene {name}: it is on as it is; expected --gene {name}=GENE")
        if name not in known:
            _check_field(fields[name], gene)
        if name in fields and AUTO in fields[name].choices and isinstance(gene, Choice) and AUTO in gene.values:
            raise SpaceError(f"--gene {name}: auto cannot be a value of a gene: give the values that auto chooses from")
        if gene is None:
            continue
        if not isinstance(gene, Gene):
            raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
        try:
            found[name] = _like(known[name], gene) if name in known else _for_field(fields[name], gene)
        except SpaceError as error:
            raise SpaceError(f"--gene {name}: {error}") from None
        if name in known and found[name].widest is None:
            found[name] = with_limits(found[name], known[name].widest)
        if gene.default is None:
            default = known[name].middle() if name in known else values.get(name)
            with contextlib.suppress(SpaceError):
                found[name] = dataclasses.replace(found[name], default=found[name].check(default))  # type: ignore[type-var]
    for name, gene in found.items():
        for other, _ in gene.when or ():
            if other not in {*own.genes, *genes}:
                near = did_you_mean(other, [*own.genes, *genes])
                raise SpaceError(
                    f"--gene {name}: when {other}: expected one of {', '.join({**own.genes, **genes})}{near}"
                )
    return found


def as_before(genes: Mapping[str, Gene | None], present: Mapping[str, Gene]) -> dict[str, Gene]:
    """Return the user's genes, with all properties of a run's genes except the ranges.

    Args:
        genes: Genes that the user gave, by name.
        present: Present genes of the run, by name.

    Raises:
        SpaceError: A gene is not one of the run, or has values of another type.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    found: dict[str, Gene] = {}
    for name, gene in genes.items():
        if name not in present:
            raise SpaceError(
                f"--gene {name}: expected a gene of the run: {', '.join(present)}{did_you_mean(name, present)}"
            )
        old = present[name]
        if not isinstance(gene, Gene):
            raise SpaceError(f"--gene {name}: expected its wider range, such as --gene '{name}=log(1e-5,1e-1)'")
        if gene.default is not None and gene.default != old.middle():
            raise SpaceError(
                f"--gene {name}: its default is {old.middle()!r}, and was trained already: leave {gene.default!r} out"
            )
        try:
            found[name] = _said(_like(old, gene), old)
        except SpaceError as error:
            raise SpaceError(f"--gene {name}: {error}") from None
    return found


def _said(new: Gene, old: Gene) -> Gene:
    """Return a gene with the properties of the old one that typed text cannot give: scale, order, hints, default.

    If they do not fit, the new range is not wider, and the gene is returned unchanged.
    """
    new = with_limits(new, old.widest if new.widest is None else new.widest)
    fields: dict[str, Any] = {"when": new.when or old.when}
    if isinstance(new, Int) and isinstance(old, Int) and new.step == 1:
        fields["log"] = old.log
    elif isinstance(new, Choice) and isinstance(old, Choice):
        fields["ordered"] = old.ordered  # without more knowledge, 2|4 counts as ordered and a|b does not
        if all(type(value) is float for value in old.values):  # the user may type 8 for 8.0
            fields["values"] = tuple(float(value) if type(value) is int else value for value in new.values)
    if new.prior is None:
        fields |= {"prior": old.prior, "spread": old.spread}
    with contextlib.suppress(SpaceError):
        return dataclasses.replace(new, **fields, default=new.check(old.middle()))  # type: ignore[type-var]
    return new


def _check_field(field: Option, gene: Gene | None) -> None:
    """Refuse an option that cannot be a gene, or that has no range of its own and is given none.

    Raises:
        SpaceError: The option is refused.
    """
    name = field.name
    if field.gene is None:
        raise SpaceError(f"--gene {name}: this option cannot differ between genomes; set it with -o {name}=VALUE")
    if gene is None:
        raise SpaceError(
            f"--gene {name}: this option ({field.kind}) offers no range of its own; give one, such as "
            f"--gene '{name}=float(LOW,HIGH)' or --gene '{name}=A|B'"
        )


def _for_field(field: Option, gene: Gene) -> Gene:
    """Return a gene with whole numbers if its option takes only these, because 1e3 is read as 1000.0."""
    kinds = union_members(field.type)
    if not isinstance(gene, Choice) or int not in kinds or float in kinds:
        return gene
    return dataclasses.replace(gene, values=tuple(map(_as_whole, gene.values)), default=gene.default)


def _kind_of(gene: Gene) -> str | None:
    """Return the kind of a gene's values, in words; None if they are of several kinds."""
    if not isinstance(gene, Choice):
        return "whole numbers" if isinstance(gene, Int) else "numbers"
    for kind, types in KINDS.items():
        if all(isinstance(value, types) and (types is bool or type(value) is not bool) for value in gene.values):
            return kind
    return None


def _like(own: Gene, new: Gene) -> Gene:
    """Return a gene in place of the evaluator's own, with values of the type that `evaluate` expects.

    Raises:
        SpaceError: The values are of another type. They may be outside the evaluator's own range.
    """
    wanted = _kind_of(own)
    if isinstance(new, Choice) and wanted in ("whole numbers", "text"):
        values = tuple(_as_whole(value) if wanted == "whole numbers" else _as_text(value, own) for value in new.values)
        default = None if new.default is None else values[new.values.index(new.default)]
        new = dataclasses.replace(new, values=values, default=default)
    if wanted is None or _kind_of(new) == wanted or (wanted == "numbers" and _kind_of(new) == "whole numbers"):
        return new
    held = ", ".join(map(repr, new.values)) if isinstance(new, Choice) else f"{type(new).__name__}(…)"
    raise SpaceError(f"{held} is not allowed: expected {wanted}, as the evaluator's own gene has")


def _as_whole(value: Value) -> Value:
    """Return 8 for 8.0; other values unchanged."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def _as_text(value: Value, own: Gene) -> Value:
    """Return '8' for 8 if the own gene has this text, because typed text and numbers look the same."""
    texts = [str(text) for text in own.values] if isinstance(own, Choice) else []
    return next((text for text in texts if not isinstance(value, str) and text.lower() == str(value).lower()), value)
