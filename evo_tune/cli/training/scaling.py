"""Recipes for other sizes: the search of `run --for-scale`, and the transfer of a run's recipe by `scale`.

`run --for-scale DEPTHxWIDTH` searches a recipe for a larger model. It trains proxies of two widths on two budgets,
which predict the loss at the target. Where the target's own training is so cheap that a search can afford it, the
search trains that size, and nothing is transferred.

The evaluator's `transfer` does the transfer, and `training.scale` adds the laws and the predicted loss. This module
collects for them what a run has trained.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from evo_tune.cli import shared
from evo_tune.errors import EvoTuneError, OptionError, UsageError
from evo_tune.genome.genes import Choice, Gene
from evo_tune.genome.trial import DECAYED, Trial
from evo_tune.options.target_size import TargetSize, parse_target_size
from evo_tune.plugins.command import is_command
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.report.charts.scale import TransferredRecipe, write_recipe
from evo_tune.report.data import fill
from evo_tune.report.recommendation import recommend_trial
from evo_tune.report.summary import candidate_costs
from evo_tune.store.run import Run
from evo_tune.store.run_folders import run_reference
from evo_tune.store.table import read_comparison
from evo_tune.training.recipe import (
    LargeTraining,
    Proxy,
    default_context_and_batch,
    default_head_dim,
    proxy_for,
)
from evo_tune.training.scale.laws import Observation, compute_optimal_tokens
from evo_tune.training.scale.recipe import (
    ScaledRecipe,
    TransferRequest,
    law_rates,
    recipe_at,
    target_duration,
    target_loss,
)

# Maximum factor between the sizes or texts of trainings of one kind.
SAME_KIND_FACTOR = 1.3

# Number of best trainings of a kind that are used for the loss at its size. The others have bad recipes.
BEST_PER_KIND = 3

# Rungs of a search with proxies; each partial training has a complete schedule.
BUDGETS = "1/4,1"

# Trainings of a search, by which `--hours` or the target's own training are divided into budgets.
TRAININGS = 30

# Multiple of the default budget up to which a target is searched at its own size, and of which a proxy's budget is.
CHEAP_FACTOR = 20

# Tokens per weight of a target without given tokens (arXiv:2203.15556).
PER_WEIGHT = 20

# Options and genes that the user gave; None: the gene as the evaluator declares it.
Options: TypeAlias = Mapping[str, Any]
Genes: TypeAlias = Mapping[str, Gene | None]


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


def plan_scale_search(
    target_size: TargetSize,
    plugin: Evaluator,
    options: Options,
    genes: Genes,
    measure_flops: Callable[[Options, Genes], float] | None = None,
) -> ScaleSearch:
    """Return the search for a larger model: of its own size where that is cheap, and of proxies otherwise.

    Args:
        target_size: Size of the larger model.
        plugin: Evaluator of the search.
        options: Options that the user gave.
        genes: Genes that the user gave.
        measure_flops: Function of the options and the genes of a small training, which it times: returns the FLOPs
            that all slots do in `--hours`. None without `--hours`.

    Raises:
        OptionError: The evaluator transfers no recipe to another size, or the width does not suit its heads.
    """
    if not hasattr(plugin.module, "transfer") or not {"param", "size", "tokens"} <= plugin.options.keys():
        missing = "no transfer(genome, target, options), or no options param, size and tokens; language_model has all"
        raise OptionError(f"--for-scale: evaluator {plugin.name} has {missing}")
    if options.get("seconds"):
        raise OptionError("--for-scale: expected no -o seconds=: give --hours, or -o tokens= or -o flops=")
    if "size" in options:
        raise OptionError("--for-scale: expected no -o size=: it chooses the sizes of its proxies")
    target = target_training(target_size, plugin, options)
    without_budget = {name: value for name, value in options.items() if name not in ("flops", "tokens")}
    bound = plugin.bind(without_budget).for_run(rungs=True)
    default_flops = bound.estimate(bound.space.default())["flops"]
    flops = max(default_flops, min(target.flops / TRAININGS, CHEAP_FACTOR * default_flops))
    tokens = int(float(options["tokens"])) if options.get("tokens") else None
    if options.get("flops") is not None:
        flops = float(options["flops"])
    elif tokens is None:
        # The largest proxy is timed: small models do fewer FLOPs in a second.
        proxy = proxy_for(target, CHEAP_FACTOR * default_flops)
        total = CHEAP_FACTOR * default_flops * TRAININGS
        why = f"it takes {target.flops:.2g} FLOPs, at most {CHEAP_FACTOR} times the default budget"
        if measure_flops is not None and proxy is not None:
            search = proxy_search(target, proxy, options, genes)
            total = measure_flops(search.options, search.genes)
            flops, why = total / TRAININGS, f"{total / target.flops:.0f} trainings of it fit into --hours"
        if proxy is None or TRAININGS * target.flops <= total:
            return _search_at_target_size(target, options, genes, why)
    proxy = proxy_for(target, flops, tokens)
    if proxy is None:
        return _search_at_target_size(target, options, genes, "no smaller model resembles it")
    return proxy_search(target, proxy, options, genes)


def _search_at_target_size(target: LargeTraining, options: Options, genes: Genes, reason: str) -> ScaleSearch:
    """Return a search at the target's own size, so that nothing is transferred."""
    batch = max(target.context, default_context_and_batch(target.tokens)[1])
    target_text = f"{target.depth}x{target.width} on {target.tokens:,} tokens"
    return ScaleSearch(
        options={**options, "size": f"{target.depth}x{target.width}x{target.context}x{batch}", "tokens": target.tokens},
        genes={"width": Choice((target.width,)), "depth": Choice((target.depth,)), **genes},
        explanation=f"--for-scale: searches at the target's own size, {target_text}: {reason}",
    )


def target_training(target_size: TargetSize, plugin: Evaluator, options: Options) -> LargeTraining:
    """Return the training for which a recipe is searched.

    Raises:
        OptionError: The width is not a multiple of the head width.
    """
    head = int(options.get("base_head") or default_head_dim(target_size.width))
    if target_size.width % head:
        nearest_width = max(1, round(target_size.width / head)) * head
        expected = f"expected a width that is a multiple of {head}, as a head has: {target_size.depth}x{nearest_width}"
        raise OptionError(f"--for-scale {target_size.depth}x{target_size.width}: {expected}")
    tokens = target_size.tokens or PER_WEIGHT * 12 * target_size.depth * target_size.width**2
    context = int(options.get("context") or default_context_and_batch(tokens)[0])
    return LargeTraining(width=target_size.width, depth=target_size.depth, tokens=tokens, context=context, head=head)


def proxy_search(target: LargeTraining, proxy: Proxy, options: Options, genes: Genes) -> ScaleSearch:
    """Return a search with proxies: two widths, one depth, batches about the usual one, and some genes fixed."""
    widths = (proxy.width, proxy.wider)
    proxy_genes: dict[str, Any] = {
        # The wider one is best, which must not widen the range.
        "width": Choice(widths, ordered=True, default=proxy.width, widest=widths),
        "depth": Choice((proxy.depth,)),
        "dropout": Choice((0.0,)),
        "batch": Choice(proxy.batches, ordered=True, default=max(proxy.batch, proxy.batches[0])),
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


def wider_default(plugin: Evaluator, options: Options, genes: Genes) -> list[dict[str, Any]]:
    """Return the default genome at the largest width, which is trained second.

    The first two genomes are always trained on both budgets, so both widths have partial and full trainings. The list
    is empty if the user's own genes leave one width.
    """
    from evo_tune.loop.genes import genes_with_defaults

    bound = plugin.bind(options).for_run(rungs=True)
    given_genes = genes_with_defaults(genes, bound.space, bound.gene_options, bound.options)
    space = bound.space.including(genes).with_genes(given_genes)
    default = space.default()
    widest = space.snap(space.encode({**default, "width": space.genes["width"].decode(1.0)}))
    return [] if widest["width"] == default["width"] else [widest]


def search_for_scale(
    reference: str, options: dict[str, str], genes: dict[str, Gene | None], settings: Mapping[str, Any], store: Path
) -> ScaleSearch:
    """Return the search for the larger model of `--for-scale`, as the command line asks for it.

    Args:
        reference: Evaluator of the run.
        options: Options that the user gave.
        genes: Genes that the user gave.
        settings: Settings of the run, with `for_scale`.
        store: Folder of the saved runs.

    Raises:
        OptionError: The target is no size, or the evaluator cannot transfer its recipe there.
    """
    from evo_tune.loop.plan import Request, plan_run
    from evo_tune.settings import parse_settings

    if is_command(reference):
        raise OptionError("--for-scale: a command transfers no recipe to another size; language_model does")
    target_size, plugin = parse_target_size(settings["for_scale"]), find_evaluator(reference)

    def flops_in_hours(options: Options, genes: Genes) -> float:
        """Time a few steps of a small training, and return the FLOPs that all slots do in `--hours`."""
        run_settings, session = parse_settings(settings)
        request = Request(options=options, genes=genes)
        plan = plan_run(plugin, request, run_settings, session, store, forecast=True)
        flops = plan.evaluator.estimate(plan.space.default())["flops"]
        if plan.pace is None or session.hours is None:
            raise OptionError("--for-scale with --hours: no step could be timed: leave out --hours, or give -o tokens=")
        return flops / plan.pace.mean_seconds * session.hours * 3600 * plan.slots

    search = plan_scale_search(target_size, plugin, options, genes, flops_in_hours if settings.get("hours") else None)
    if search.fidelity is None:
        return search
    return replace(search, first_genomes=wider_default(plugin, search.options, search.genes))


def trial_to_transfer(run: Run, id: int | None = None) -> Trial:
    """Return the trial whose recipe is transferred: the one with `id`, or the recommended one if `id` is None.

    Raises:
        StoreError: The run has no full training with a value.
        UsageError: There is no such trial, or it has no value.
    """
    if id is None:
        return shared.require_best_trial(run)
    trials = {trial.id: trial for trial in run.trials()}
    if id not in trials or trials[id].outcome.status != "ok":
        raise UsageError(
            f"--trial {id}: expected one with a value: `evo-tune show {run_reference(run.folder)}` lists them"
        )
    return trials[id]


def scale_run(
    run: Run,
    evaluator: BoundEvaluator,
    target_request: TransferRequest,
    *,
    trial: Trial,
    other_runs: Sequence[Run] = (),
) -> ScaledRecipe:
    """Return the recipe of a run at another size, with the cost and the loss of its training there.

    Args:
        run: Run with the recipe.
        evaluator: Evaluator of the run, with its options.
        target_request: Size of the target.
        trial: Trial with the recipe.
        other_runs: Runs at other sizes, whose trainings count for the predicted loss too.

    Raises:
        PluginError: `transfer` of the evaluator returns something other than a recipe.
        UsageError: The recipe cannot be transferred to this size.
    """
    recipe = recipe_at(evaluator, target_request, trial)
    batch_gene = run.genes.get("batch")
    if batch_gene is not None and batch_gene.size != 1:
        low, high = batch_gene.decode(0.0), batch_gene.decode(1.0)  # of the range as the run widened it
        if trial.genome["batch"] in (low, high):
            remedy = "the best one may be beyond; widen it with `evo-tune resume --gene batch=…`, or give --batch"
            recipe.remarks.append(f"batch {trial.genome['batch']} is at an end of its range, {low} to {high}: {remedy}")
    target, metric = recipe.target, run.objectives[0].metric
    is_own_size = target.parameters == recipe.found.parameters and target.tokens == recipe.found.tokens
    seconds, speed = target_duration(trial, target, target_request)
    hours = None if seconds is None else seconds / 3600
    return ScaledRecipe(
        run=run.name,
        trial=trial.id,
        **msgspec.structs.asdict(recipe),
        laws=law_rates(recipe),
        loss=target_loss(metric, [] if is_own_size else observations([run, *other_runs], metric), target, is_own_size),
        optimal_tokens=compute_optimal_tokens(target.parameters),
        tokens_per_parameter=target.tokens / target.parameters,
        hours=hours,
        speed=speed,
        price=None if hours is None or target_request.price is None else hours * target_request.price,
    )


def observations(runs: Iterable[Run], metric: str) -> list[Observation]:
    """Return the losses of the best few trainings of each kind, with their size and text.

    A training counts if it reached the end of its schedule, so a rung counts if it has its own decay (see
    `Context.report`).

    Args:
        runs: Runs on the same data.
        metric: Name of the loss.
    """
    kinds: dict[tuple[int, int], list[Observation]] = {}
    for trial in (trial for run in runs for trial in run.trials()):
        metrics, curve = trial.outcome.metrics, trial.outcome.curve
        has_decayed = trial.candidate.budget == 1.0 or bool(curve and curve[-1][1].get(DECAYED))
        if trial.outcome.status != "ok" or not has_decayed:
            continue
        if not {metric, "params", "tokens"} <= metrics.keys() or metrics[metric] <= 0:
            continue
        size, text = (round(math.log(metrics[name]) / math.log(SAME_KIND_FACTOR)) for name in ("params", "tokens"))
        observation = Observation(metrics["params"], metrics["tokens"], metrics[metric])
        kinds.setdefault((size, text), []).append(observation)
    best = [sorted(kind, key=lambda observation: observation.loss)[:BEST_PER_KIND] for kind in kinds.values()]
    return [observation for kind in best for observation in kind]


def transfer_to_target(run: Run, evaluator: BoundEvaluator) -> TransferredRecipe | None:
    """Return a run's recipe at the target of its `--for-scale`; None without a target or a recipe.

    Raises:
        UsageError: The recipe cannot be transferred to the target.
    """
    best = recommend_trial(run)
    if not run.manifest.settings.for_scale or best is None:
        return None
    target_size = parse_target_size(run.manifest.settings.for_scale)
    request = TransferRequest(width=target_size.width, depth=target_size.depth, tokens=target_size.tokens or 1)
    if target_size.tokens is None:
        parameters = recipe_at(evaluator, request, best).target.parameters
        request = replace(request, tokens=int(compute_optimal_tokens(parameters)))
    recipe = scale_run(run, evaluator, request, trial=best)
    # A promotion counts from the rung that it continues.
    shares = candidate_costs(run)
    search_flops = sum(
        trial.outcome.metrics.get("flops", 0.0) * shares[trial.id] / trial.candidate.budget for trial in run.trials()
    ) + sum(trial.outcome.metrics.get("flops", 0.0) for trial in read_comparison(run))
    target_flops = recipe.target.flops
    return fill(
        TransferredRecipe,
        recipe.loss,
        request,
        trial=best.id,
        given_tokens=target_size.tokens is not None,
        lr=recipe.target.lr,
        search_flops=search_flops,
        target_flops=target_flops,
        share=search_flops / target_flops if target_flops > 0 else 0.0,
    )


def write_recipe_at_target(run: Run, evaluator: BoundEvaluator) -> None:
    """Write the recipe at the target size beside the run; an error becomes a warning."""
    try:
        if (recipe := transfer_to_target(run, evaluator)) is not None:
            write_recipe(run, recipe)
    except EvoTuneError as error:
        shared.echo(f"Warning: --for-scale {run.manifest.settings.for_scale}: {error}", err=True)
