"""`run --for-scale DEPTHxWIDTH`: a search whose recipe is transferred to a larger size.

The search trains proxies of two widths on two budgets. They predict the loss at the target (`forecast.loss`).
Where the target's own training is so cheap that a search can afford it, the search trains that size, and nothing is
transferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evo_tune.cli import shared
from evo_tune.errors import EvoTuneError, OptionError

if TYPE_CHECKING:
    from evo_tune.genome.genes import Gene
    from evo_tune.options.sizes import TargetSize
    from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
    from evo_tune.report.charts.scale import TransferredRecipe
    from evo_tune.store.run import Run
    from evo_tune.training.recipe import LargeTraining, Proxy

BUDGETS = "1/4,1"
"""Rungs of a search with proxies; each partial training has a complete schedule."""

TRAININGS = 30
"""Trainings of a search, by which `--hours` or the target's own training are divided into budgets."""

CHEAP_FACTOR = 20
"""Multiple of the default budget up to which a target is searched at its own size, and of which a proxy's budget is."""

PER_WEIGHT = 20
"""Tokens per weight of a target without given tokens (arXiv:2203.15556)."""

UNTRANSFERABLE = {"dropout": 0.0, "context": None, "window": None}
"""Genes that depend on the text and not on the size: fixed at this value; None: at the default of the space."""


@dataclass(frozen=True, kw_only=True)
class ScaleSearch:
    """A search for a larger model.

    Args:
        options: Options of the evaluator.
        genes: Genes that replace those of the evaluator.
        first_genomes: Genomes that are trained first, after the default one.
        fidelity: Rungs; None: as usual.
        explanation: Choice and its reason, in one line.
    """

    options: dict[str, Any]
    genes: dict[str, Any]
    first_genomes: list[dict[str, Any]] = field(default_factory=list)
    fidelity: str | None = None
    explanation: str


Rate = Callable[[Mapping[str, Any], Mapping[str, Any]], float]
"""Function that returns the FLOPs that all slots do in the given hours, for options and genes of a small training."""


def plan_scale_search(
    target_size: TargetSize,
    plugin: Evaluator,
    options: Mapping[str, Any],
    genes: Mapping[str, Gene | None],
    measure_flops: Rate | None = None,
) -> ScaleSearch:
    """Return the search for a larger model: of its own size where that is cheap, and of proxies otherwise.

    Args:
        target_size: Size of the larger model.
        plugin: Evaluator of the search.
        options: Options that the user gave.
        genes: Genes that the user gave.
        measure_flops: Measures the FLOPs that fit into `--hours`; None without `--hours`.

    Raises:
        OptionError: The evaluator transfers no recipe to another size, or the width does not suit its heads.
    """
    from evo_tune.training.recipe import proxy_for

    if not hasattr(plugin.module, "transfer") or not {"param", "size", "tokens"} <= plugin.options.keys():
        raise OptionError(
            f"--for-scale: evaluator {plugin.name} has no transfer(genome, target, options), or no options param, size "
            "and tokens; language_model has all"
        )
    if options.get("seconds"):
        raise OptionError("--for-scale: expected no -o seconds=: give --hours, or -o tokens= or -o flops=")
    target = target_training(target_size, plugin, options)
    if "size" in options:
        return _search_at_given_size(target, plugin, options, genes)
    default_flops = _default_flops(plugin, options)
    flops = max(default_flops, min(target.flops / TRAININGS, CHEAP_FACTOR * default_flops))
    tokens = int(float(options["tokens"])) if options.get("tokens") else None
    if options.get("flops") is not None:
        flops = float(options["flops"])
    elif tokens is None:
        proxy = proxy_for(
            target, CHEAP_FACTOR * default_flops
        )  # the largest that is timed: small models do fewer FLOPs in a second
        total = CHEAP_FACTOR * default_flops * TRAININGS
        why = f"it takes {target.flops:.2g} FLOPs, at most {CHEAP_FACTOR} times the default budget"
        if measure_flops is not None and proxy is not None:
            search = proxy_search(target, proxy, options, genes)
            total = measure_flops(search.options, search.genes)
            flops, why = total / TRAININGS, f"{total / target.flops:.0f} trainings of it fit into --hours"
        if proxy is None or TRAININGS * target.flops <= total:
            return _own_search(target, options, genes, why)
    proxy = proxy_for(target, flops, tokens)
    if proxy is None:
        return _own_search(target, options, genes, "no smaller model resembles it")
    return proxy_search(target, proxy, options, genes)


def target_training(target_size: TargetSize, plugin: Evaluator, options: Mapping[str, Any]) -> LargeTraining:
    """Return the training for which a recipe is searched.

    Raises:
        OptionError: The width is not a multiple of the head width.
    """
    from evo_tune.training.recipe import LargeTraining, default_context_and_batch, default_head_dim

    head = int(options.get("base_head") or default_head_dim(target_size.width))
    if target_size.width % head:
        nearest_width = max(1, round(target_size.width / head)) * head
        raise OptionError(
            f"--for-scale {target_size.depth}x{target_size.width}: expected a width that is a multiple of {head}, as a "
            f"head has: {target_size.depth}x{nearest_width}"
        )
    tokens = target_size.tokens or PER_WEIGHT * 12 * target_size.depth * target_size.width**2
    context = int(options.get("context") or default_context_and_batch(tokens)[0])
    return LargeTraining(width=target_size.width, depth=target_size.depth, tokens=tokens, context=context, head=head)


def _default_flops(plugin: Evaluator, given: Mapping[str, Any]) -> float:
    """Return the FLOPs of the training that the evaluator does without a size and a budget."""
    options = {name: value for name, value in given.items() if name not in ("flops", "tokens")}
    bound = plugin.bind(options).for_run(rungs=True)
    return bound.estimate(bound.space.default())["flops"]


def _own_search(
    target: LargeTraining, options: Mapping[str, Any], genes: Mapping[str, Gene | None], why: str
) -> ScaleSearch:
    """Return a search at the target's own size, so that nothing is transferred."""
    from evo_tune.genome.genes import Choice
    from evo_tune.training.recipe import default_context_and_batch

    batch = max(target.context, default_context_and_batch(target.tokens)[1])
    size = f"{target.depth}x{target.width}x{target.context}x{batch}"
    target_text = f"{target.depth}x{target.width} on {target.tokens:,} tokens"
    return ScaleSearch(
        options={**options, "size": size, "tokens": target.tokens},
        genes={"width": Choice((target.width,)), "depth": Choice((target.depth,)), **genes},
        explanation=f"--for-scale: searches at the target's own size, {target_text}: {why}",
    )


def proxy_search(
    target: LargeTraining, proxy: Proxy, options: Mapping[str, Any], genes: Mapping[str, Gene | None]
) -> ScaleSearch:
    """Return a search with proxies: two widths, one depth, batches about the usual one, and some genes fixed."""
    from evo_tune.genome.genes import Choice

    batches = proxy.batches
    usual = max(proxy.batch, batches[0])
    proxy_genes: dict[str, Any] = {
        "width": _two_widths(proxy.width, proxy.wider),
        "depth": Choice((proxy.depth,)),
        "dropout": Choice((0.0,)),
        "batch": Choice(batches, ordered=True, default=usual),
    }
    if not options.get("context"):
        proxy_genes["context"] = Choice((target.context,))
    fewer = "" if proxy.share > 0.99 else f", {proxy.share:.0%} of the target's tokens per weight (--hours allows more)"
    explanation = (
        f"--for-scale: searches with proxies of {proxy.depth}x{proxy.width} and {proxy.depth}x{proxy.wider} on "
        f"{proxy.tokens:,} tokens{fewer}, context {proxy.context} as at the target"
    )
    base = {"param": "completep", "base_head": target.head, "size": proxy.size}
    budget = {} if options.get("flops") is not None else {"tokens": proxy.tokens}
    return ScaleSearch(
        options={**base, **budget, **options}, genes={**proxy_genes, **genes}, fidelity=BUDGETS, explanation=explanation
    )


def _two_widths(width: int, wider: int) -> Gene:
    """Return the gene of the widths of the proxies; the wider one is best, which must not widen the range."""
    from evo_tune.genome.genes import Choice

    return Choice((width, wider), ordered=True, default=width, widest=(width, wider))


def _search_at_given_size(
    target: LargeTraining, plugin: Evaluator, options: Mapping[str, Any], genes: Mapping[str, Gene | None]
) -> ScaleSearch:
    """Return a search of the size that the user gave, with a second width.

    Raises:
        OptionError: The size is not below the target.
    """
    from evo_tune.genome.genes import Choice
    from evo_tune.training.recipe import second_width

    options_ = {"param": "completep", **options}
    bound = plugin.bind(options_).for_run(rungs=True)
    space = bound.space
    usual = space.default()
    width, depth = int(usual["width"]), int(usual["depth"])
    head = int(bound.options["base_head"] or width // int(usual["heads"]))
    wider = second_width(width, head)
    if target.width < wider or target.depth < depth or target.width % head:
        raise OptionError(
            f"--for-scale {target.depth}x{target.width}: expected at least the search's own {depth}x{wider}, and a "
            f"multiple of {head}, as a head has; leave out -o size="
        )
    fixed = {
        name: Choice((usual[name] if value is None else value,))
        for name, value in UNTRANSFERABLE.items()
        if name in space.genes
    }
    sizes = {"width": _two_widths(width, wider), "depth": Choice((depth,))}
    explanation = f"--for-scale: searches with the given size, {depth}x{width} and {depth}x{wider}"
    return ScaleSearch(options=options_, genes={**fixed, **sizes, **genes}, fidelity=BUDGETS, explanation=explanation)


def wider_default(
    plugin: Evaluator, options: Mapping[str, Any], genes: Mapping[str, Gene | None]
) -> list[dict[str, Any]]:
    """Return the default genome at the largest width, which is trained second.

    The first two genomes are always trained on both budgets, so both widths have partial and full trainings. The list
    is empty if the user's own genes leave one width.
    """
    from evo_tune.loop.genes import genes_with_defaults

    bound = plugin.bind(options).for_run(rungs=True)
    given_genes = genes_with_defaults(genes, bound.space, bound.gene_options, bound.options)
    space = bound.space_with(genes, given_genes)
    usual = space.default()
    widest = space.snap(
        [1.0 if name == "width" else unit for name, unit in zip(space.genes, space.encode(usual), strict=True)]
    )
    return [] if widest["width"] == usual["width"] else [widest]


def write_recipe_at_target(run: Run, evaluator: BoundEvaluator) -> None:
    """Write the recipe at the target size beside the run; an error becomes a warning."""
    if not run.manifest.settings.for_scale:
        return
    from evo_tune.cli.training.scaling import transfer_to_target
    from evo_tune.report.charts.scale import write_recipe

    try:
        if (recipe := transfer_to_target(run, evaluator)) is not None:
            write_recipe(run, recipe)
    except EvoTuneError as error:
        shared.echo(f"Warning: --for-scale {run.manifest.settings.for_scale}: {error}", err=True)


def recipe_lines(run: Run, recipe: TransferredRecipe) -> Iterator[str]:
    """Yield lines about the cost of the search, the predicted loss at the target, and the next command."""
    from evo_tune.store.places import as_typed

    rule = "" if recipe.given_tokens else ", 20 a weight"
    size = f"{recipe.depth}x{recipe.width}"
    yield (
        f"the recipe took {recipe.search_flops:.3g} FLOPs, {recipe.share:.2%} of the {recipe.target_flops:.3g} "
        f"that the target, {size} on {recipe.tokens:,} tokens{rule}, takes"
    )
    metric = run.objectives[0].metric
    if recipe.loss is None or recipe.low is None or recipe.high is None:
        yield f"predicted {metric} of the target: none: {recipe.why}"
    else:
        interval = f"80 % interval {recipe.low:.4g} to {recipe.high:.4g}"
        yield f"predicted {metric} of the target: {recipe.loss:.4g} ({interval})"
    if recipe.narrow:
        yield recipe.narrow
    yield (
        f"transfer it: evo-tune scale {as_typed(run.folder)} --depth {recipe.depth} --width {recipe.width} "
        f"--tokens {recipe.tokens}"
    )
