"""Genes that a user gives: in place of the evaluator's own, or wider in a saved run; and how far each range may widen.

The limits are fixed when a run begins and saved in its manifest. So widening a range later needs neither the evaluator
nor the machine (law 2). `rules.widening` decides when.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from evo_tune.errors import EvoTuneError, SpaceError
from evo_tune.genome.genes import Choice, Gene, Int, range_ends
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Objective
from evo_tune.genome.values import Value, space_error_prefix
from evo_tune.genome.widening import (
    ENDS,
    WIDENINGS,
    End,
    Range,
    end_value,
    widen_genes,
    widening_limits,
    widening_steps,
    with_limits,
)
from evo_tune.loop.checks import check_ends, check_repair, check_suited
from evo_tune.options.binding import did_you_mean
from evo_tune.options.declare import AUTO, Option, union_members
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.store.run import Run


def limits_for(
    evaluator: BoundEvaluator, space: SearchSpace, strategy: Strategy, objectives: Sequence[Objective]
) -> dict[str, Range]:
    """Return the lowest and highest value to which a run may widen each gene by itself, by name.

    A limit is that of the gene (`genome.widening.widening_limits`), or the last step before it that the evaluator
    accepts. Genes that keep their range are left out: those with neither a `widest` nor a bundled evaluator's own
    range, because a range that a user states may be the valid one. With several objectives, or a strategy that needs
    fixed ranges, all are.

    Args:
        evaluator: Evaluator of the run.
        space: Space of the run.
        strategy: Strategy of the run.
        objectives: Objectives of the run.
    """
    if len(objectives) > 1 or not strategy.widens:
        return {}
    bundled = {**evaluator.space.genes, **evaluator.space.optional} if evaluator.plugin.origin == "bundled" else {}
    names = [name for name, gene in space.genes.items() if gene.widest is not None or gene == bundled.get(name)]
    wide = {name: _widest_accepted(evaluator, space, name) for name in names}
    wide = {name: gene for name, gene in wide.items() if gene != space.genes[name]}
    whole = space.with_genes(wide)
    try:
        check_repair(whole)
    except SpaceError:
        return {}
    if strategy.unsuited(whole, objectives):
        return {}
    return {name: ends for name, gene in wide.items() if (ends := range_ends(gene)) is not None}


def _widest_accepted(evaluator: BoundEvaluator, space: SearchSpace, name: str) -> Gene:
    """Return a gene with all steps up to its limits, or up to the first end that the evaluator refuses."""
    gene = space.genes[name]
    for end in ENDS:
        wider_genes = list(widening_steps(gene, end, widening_limits(space.genes[name])))
        if wider_genes and not _accepts(evaluator, space, name, wider_genes[-1], end):
            is_refused = [not _accepts(evaluator, space, name, wider_gene, end) for wider_gene in wider_genes]
            wider_genes = wider_genes[: is_refused.index(True)]
        gene = wider_genes[-1] if wider_genes else gene
    return gene


def _accepts(evaluator: BoundEvaluator, space: SearchSpace, name: str, wide: Gene, end: End) -> bool:
    """Return whether the repair keeps the new end of a gene in the default genome, and the evaluator accepts it."""
    value, wide_space = end_value(wide, end), space.with_genes({name: wide})
    try:
        genome = wide_space.check({**wide_space.default(), name: value})
        if name in evaluator.gene_options:
            evaluator.gene_options[name].check(value)
        evaluator.estimate(genome)
    except EvoTuneError:
        return False
    return wide.when is not None or genome[name] == value  # a gene that is inactive by default keeps its default


def widen_by_hand(run: Run, evaluator: BoundEvaluator, strategy: Strategy, genes: Mapping[str, Gene | None]) -> None:
    """Widen the ranges of a run's genes for all new genomes, and record it in the journal.

    Args:
        run: Run that is open for writing.
        evaluator: Evaluator of the run, which checks the ends of the new ranges.
        strategy: Strategy of the run.
        genes: Genes by name; if there are none, nothing changes.

    Raises:
        SpaceError: A gene is unknown or not wider, or the evaluator refuses a value.
        PluginError: The strategy cannot search the new space.
    """
    if not genes:
        return
    wider_genes = wider_user_genes(genes, run.genes)
    space = evaluator.space.with_genes(widen_genes(run.genes, wider_genes), optional={})
    check_repair(space)
    check_ends(evaluator, space, wider_genes)
    inner = strategy.inner if isinstance(strategy, StrategyWithRules) else strategy
    check_suited(run.manifest.strategy, inner, space, run.objectives)
    if len(run.widened) >= WIDENINGS:
        raise SpaceError(f"--gene: the genes of this run were widened {WIDENINGS} times: begin another, --warm-start")
    run.widen(wider_genes)


# Types by kind of value, in words; the first kind that fits all values of a gene counts.
KINDS: dict[str, type | tuple[type, ...]] = {
    "true or false": bool,
    "whole numbers": int,
    "numbers": (int, float),
    "text": str,
}


def genes_with_defaults(
    genes: Mapping[str, Gene | None],
    own_space: SearchSpace,
    gene_options: Mapping[str, Option],
    option_values: Mapping[str, Any],
) -> dict[str, Gene]:
    """Return the user's genes, with the defaults of the evaluator's own genes if these are in the new ranges.

    Args:
        genes: Genes that the user gave, by name. None means the evaluator's own gene; it switches an optional gene on.
        own_space: Space of the evaluator.
        gene_options: Options of the evaluator that may become genes. Their allowed values are not checked here.
        option_values: Values of the options, which are the defaults of such genes.

    Raises:
        SpaceError: A gene is unknown, is not a gene, or has values of another type than the evaluator's own. Or an
            option cannot be a gene, or has no range of its own and is given none.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    user_genes = {}
    own_genes = {**own_space.genes, **own_space.optional}
    for name, gene in genes.items():
        own, field = own_genes.get(name), gene_options.get(name)
        if own is None and field is None:
            hint = did_you_mean(str(name), [*own_genes, *gene_options])
            raise SpaceError(f"--gene {name}: expected one of {', '.join(own_genes)}{hint}")
        if gene is None and name in own_space.genes:
            raise SpaceError(f"--gene {name}: it is on as it is; expected --gene {name}=GENE")
        if own is None and field is not None and field.gene is None:
            raise SpaceError(f"--gene {name}: this option cannot differ between genomes; set it with -o {name}=VALUE")
        if own is None and field is not None and gene is None:
            raise SpaceError(
                f"--gene {name}: this option ({field.kind}) offers no range of its own; give one, such as "
                f"--gene '{name}=float(LOW,HIGH)' or --gene '{name}=A|B'"
            )
        if field is not None and AUTO in field.choices and isinstance(gene, Choice) and AUTO in gene.values:
            raise SpaceError(f"--gene {name}: auto cannot be a value of a gene: give the values that auto chooses from")
        if gene is None:
            continue
        if not isinstance(gene, Gene):
            raise SpaceError(f"gene {name!r}: {gene!r} is not a Gene; expected Float, Int or Choice")
        with space_error_prefix(f"--gene {name}"):
            user_gene = _with_option_type(gene_options[name], gene) if own is None else _with_types_of(own, gene)
        if gene.default is None:
            default = option_values.get(name) if own is None else own.middle()
            with contextlib.suppress(SpaceError):
                user_gene = dataclasses.replace(user_gene, default=user_gene.check(default))  # type: ignore[type-var]
        user_genes[name] = user_gene
    known_genes = {**own_space.genes, **genes}
    for name, gene in user_genes.items():
        for condition_gene, _ in gene.when or ():
            if condition_gene not in known_genes:
                expected = f"{', '.join(known_genes)}{did_you_mean(condition_gene, known_genes)}"
                raise SpaceError(f"--gene {name}: when {condition_gene}: expected one of {expected}")
    return user_genes


def wider_user_genes(genes: Mapping[str, Gene | None], run_genes: Mapping[str, Gene]) -> dict[str, Gene]:
    """Return the user's genes, with all properties of a run's genes except the ranges.

    Args:
        genes: Genes that the user gave, by name.
        run_genes: Present genes of the run, by name.

    Raises:
        SpaceError: A gene is not one of the run, or has values of another type.
    """
    if not isinstance(genes, Mapping):
        raise SpaceError(f"genes {genes!r}: expected a dict of names to Float(…), Int(…) or Choice(…)")
    wider_genes: dict[str, Gene] = {}
    for name, gene in genes.items():
        if name not in run_genes:
            expected = f"{', '.join(run_genes)}{did_you_mean(name, run_genes)}"
            raise SpaceError(f"--gene {name}: expected a gene of the run: {expected}")
        old = run_genes[name]
        if not isinstance(gene, Gene):
            raise SpaceError(f"--gene {name}: expected its wider range, such as --gene '{name}=log(1e-5,1e-1)'")
        if gene.default is not None and gene.default != old.middle():
            present = f"its default is {old.middle()!r}, and was trained already"
            raise SpaceError(f"--gene {name}: {present}: leave {gene.default!r} out")
        with space_error_prefix(f"--gene {name}"):
            wider_genes[name] = _keep_properties(_with_types_of(old, gene), old)
    return wider_genes


def _keep_properties(new: Gene, old: Gene) -> Gene:
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


def _with_option_type(field: Option, gene: Gene) -> Gene:
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


def _with_types_of(old: Gene, new: Gene) -> Gene:
    """Return a gene in place of the evaluator's own, with values of the type that `evaluate` expects.

    Raises:
        SpaceError: The values are of another type. They may be outside the evaluator's own range.
    """
    kind = _kind_of(old)
    if isinstance(new, Choice) and kind in ("whole numbers", "text"):
        values = tuple(_as_whole(value) if kind == "whole numbers" else _as_text(value, old) for value in new.values)
        default = None if new.default is None else values[new.values.index(new.default)]
        new = dataclasses.replace(new, values=values, default=default)
    if kind is None or _kind_of(new) == kind or (kind == "numbers" and _kind_of(new) == "whole numbers"):
        return new
    values_text = ", ".join(map(repr, new.values)) if isinstance(new, Choice) else f"{type(new).__name__}(…)"
    raise SpaceError(f"{values_text} is not allowed: expected {kind}, as the evaluator's own gene has")


def _as_whole(value: Value) -> Value:
    """Return 8 for 8.0; other values unchanged."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def _as_text(value: Value, old: Gene) -> Value:
    """Return '8' for 8 if the own gene has this text, because typed text and numbers look the same."""
    texts = [str(text) for text in old.values] if isinstance(old, Choice) else []
    return next((text for text in texts if not isinstance(value, str) and text.lower() == str(value).lower()), value)
