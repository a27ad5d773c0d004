"""Wider ranges in a run: how far each may go, and ranges that the user widens by hand on resume.

The limits are settled when a run begins and saved in its manifest. So widening a range later needs neither the
evaluator nor the machine (law 2). `rules.widening` decides when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evo_tune.errors import EvoTuneError, SpaceError
from evo_tune.genome.genes import Gene, range_ends
from evo_tune.genome.space import SearchSpace, widen_genes
from evo_tune.genome.trial import Objective
from evo_tune.genome.widening import ENDS, WIDENINGS, End, Range, end_value, widening_limits, widening_steps
from evo_tune.loop.checks import as_before, check_ends, check_repair, check_suited
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.store.run import Run


def limits_for(
    evaluator: BoundEvaluator, space: SearchSpace, strategy: Strategy, objectives: Sequence[Objective]
) -> dict[str, Range]:
    """Return the lowest and highest value to which a run may widen each gene by itself, by name.

    A limit is that of the gene (`genome.widening.limits_of`), or the last step before it that the evaluator accepts.
    Genes that keep their range are left out. With several objectives, or a strategy that needs fixed ranges, all do.

    Args:
        evaluator: Evaluator of the run.
        space: Space of the run.
        strategy: Strategy of the run.
        objectives: Objectives of the run.
    """
    if len(objectives) > 1 or not strategy.widens:
        return {}
    wide = {name: _accepted(evaluator, space, name) for name in space.genes}
    wide = {name: gene for name, gene in wide.items() if gene != space.genes[name]}
    whole = SearchSpace(space.repair, None, **{**space.genes, **wide})
    try:
        check_repair(whole)
    except SpaceError:
        return {}
    if strategy.unsuited(whole, objectives):
        return {}
    return {name: ends for name, gene in wide.items() if (ends := range_ends(gene)) is not None}


def _accepted(evaluator: BoundEvaluator, space: SearchSpace, name: str) -> Gene:
    """Return a gene with all steps up to its limits, or up to the first end that the evaluator refuses."""
    gene = space.genes[name]
    for end in ENDS:
        found = list(widening_steps(gene, end, widening_limits(space.genes[name])))
        if found and not _accepts(evaluator, space, name, found[-1], end):
            refused = [not _accepts(evaluator, space, name, one, end) for one in found]
            found = found[: refused.index(True)]
        gene = found[-1] if found else gene
    return gene


def _accepts(evaluator: BoundEvaluator, space: SearchSpace, name: str, wide: Gene, end: End) -> bool:
    """Return whether the repair keeps the new end of a gene in the default genome, and the evaluator accepts it."""
    value, trial = end_value(wide, end), SearchSpace(space.repair, None, **{**space.genes, name: wide})
    try:
        kept = trial.check({**trial.default(), name: value})
        if name in evaluator.gene_options:
            evaluator.gene_options[name].check(value)
        evaluator.estimate(kept)
    except EvoTuneError:
        return False
    return wide.when is not None or kept[name] == value  # a gene that is inactive by default keeps its default


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
    given = as_before(genes, run.genes)
    space = SearchSpace(evaluator.space.repair, None, **widen_genes(run.genes, given))
    check_repair(space)
    check_ends(evaluator, space, given)
    inner = strategy.inner if isinstance(strategy, StrategyWithRules) else strategy
    check_suited(run.manifest.strategy, inner, space, run.objectives)
    if len(run.widened) >= WIDENINGS:
        raise SpaceError(f"--gene: the genes of this run were widened {WIDENINGS} times: begin another, --warm-start")
    run.widen(given)
