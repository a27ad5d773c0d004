"""`run --for-scale WIDTHxDEPTH`: a search whose recipe is transferred to a larger size.

The search uses a parametrisation that transfers and fixes the genes that no rule transfers. It trains genomes at two
widths and two budgets, from which the loss at the target is predicted (`forecast.loss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evo_tune.cli import _shared as shared
from evo_tune.errors import EvoTuneError, OptionError

if TYPE_CHECKING:
    from evo_tune.forecast.scale import Aim
    from evo_tune.genome.genes import Gene
    from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
    from evo_tune.report.charts.scale import TransferredRecipe
    from evo_tune.store.run import Run

WIDER = 1.5
"""Ratio of the two widths: large enough that the size matters, and not much more expensive."""

BUDGETS = "1/4,1"
"""Rungs of the search; each partial training has a complete schedule."""

UNTRANSFERABLE = {"dropout": 0.0, "context": None, "window": None}
"""Genes that depend on the text and not on the size: fixed at this value; None: at the default of the space."""


def options_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with a parametrisation that transfers, unless the user gave one."""
    return {"param": "completep", **given}


def genes_for(
    aim: Aim, plugin: Evaluator, options: Mapping[str, Any], given: Mapping[str, Gene | None]
) -> dict[str, Any]:
    """Return the genes of a search: those given, two widths, one depth, and fixed ones.

    Args:
        aim: Size of the larger model.
        plugin: Evaluator of the search.
        options: Options of the evaluator, with the parametrisation.
        given: Genes that the user gave.

    Raises:
        OptionError: The evaluator carries no recipe to another size.
    """
    from evo_tune.genome.genes import Choice

    if not hasattr(plugin.module, "carry") or "param" not in plugin.options:
        raise OptionError(
            f"--for-scale: evaluator {plugin.name} has no carry(genome, target, options), or no parametrisation; "
            "language_model has both"
        )
    bound = plugin.bind(options).settled(rungs=True)
    space = bound.space
    usual = space.default()
    width, depth = int(usual["width"]), int(usual["depth"])
    head = width // int(usual["heads"]) if "heads" in usual else bound.options["base_head"] or 1
    wider = -(-int(WIDER * width) // head) * head
    if aim.width < wider or aim.depth < depth:
        raise OptionError(
            f"--for-scale {aim.width}x{aim.depth}: expected more than the search's own {wider}x{depth}; "
            "what is no larger needs no scaling"
        )
    if aim.width % head:
        near = round(aim.width / head) * head
        raise OptionError(
            f"--for-scale {aim.width}x{aim.depth}: expected a width that is a multiple of {head}, as a head has, which "
            f"stays as it is: {near}x{aim.depth}"
        )
    fixed = {
        name: Choice((usual[name] if value is None else value,))
        for name, value in UNTRANSFERABLE.items()
        if name in space.genes
    }
    sizes = {"width": Choice((width, wider), ordered=True, default=width), "depth": Choice((depth,))}
    return {**fixed, **sizes, **given}


def wider_default(
    plugin: Evaluator, options: Mapping[str, Any], genes: Mapping[str, Gene | None]
) -> list[dict[str, Any]]:
    """Return the default genome at the largest width, which is trained second.

    So both widths are trained in part and in full whatever the search comes to prefer: its first births are. Empty
    where the user's own genes leave one width.
    """
    from evo_tune.genome.space import SearchSpace
    from evo_tune.loop.checks import with_defaults

    bound = plugin.bind(options).settled(rungs=True)
    own = bound.space
    given = with_defaults(genes, own, bound.gene_options, bound.options)
    space = SearchSpace(own.repair, None, **{**own.including(genes).genes, **given})
    usual = space.default()
    widest = space.snap(
        [1.0 if name == "width" else at for name, at in zip(space.genes, space.encode(usual), strict=True)]
    )
    return [] if widest["width"] == usual["width"] else [widest]


def note(run: Run, evaluator: BoundEvaluator) -> None:
    """Write the recipe at the target size beside the run; an error becomes a warning."""
    if not run.manifest.settings.for_scale:
        return
    from evo_tune.forecast.scale import carried
    from evo_tune.report.charts.scale import write_recipe

    try:
        if (found := carried(run, evaluator)) is not None:
            write_recipe(run, found)
    except EvoTuneError as error:
        shared.echo(f"Warning: --for-scale {run.manifest.settings.for_scale}: {error}", err=True)


def in_lines(run: Run, found: TransferredRecipe) -> Iterator[str]:
    """Yield lines about the cost of the search, the predicted loss at the target, and the next command."""
    from evo_tune.store.places import as_typed

    enough = "" if found.given_tokens else ", 20 a weight"
    size = f"{found.width}x{found.depth}"
    yield (
        f"the recipe took {found.spent:.3g} FLOPs, {found.share:.2%} of the {found.takes:.3g} that the target, "
        f"{size} on {found.tokens:,} tokens{enough}, takes"
    )
    metric = run.objectives[0].metric
    if found.loss is None or found.low is None or found.high is None:
        yield f"{metric} there: not identifiable: {found.why}"
    else:
        yield f"{metric} there: {found.loss:.4g}, four fifths between {found.low:.4g} and {found.high:.4g}"
    yield (
        f"carry it: evo-tune scale {as_typed(run.folder)} --width {found.width} --depth {found.depth} "
        f"--tokens {found.tokens} --probe 3"
    )
