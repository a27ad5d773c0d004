"""Transfer a run's recipe to another size, and forecast the training there.

The evaluator's `transfer` does the transfer, and `training.scale` adds the laws and the predicted loss. This module
collects for them what a run has trained. It reads runs and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from evo_tune.errors import StoreError, UsageError
from evo_tune.genome.trial import DECAYED, Trial
from evo_tune.options.sizes import parse_target_size
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.report.charts.scale import TransferredRecipe
from evo_tune.report.recommendation import recommend_trial
from evo_tune.report.summary import candidate_costs
from evo_tune.store.comparison import read_comparison
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run
from evo_tune.training.scale.laws import compute_optimal_tokens
from evo_tune.training.scale.loss import Observation
from evo_tune.training.scale.recipe import ScaledRecipe as ScaledRecipe
from evo_tune.training.scale.recipe import (
    TransferRequest,
    law_rates,
    recipe_at,
    target_duration,
    target_loss,
)

SAME_KIND_FACTOR = 1.3
"""Maximum factor between the sizes or texts of trainings of one kind."""

BEST_PER_KIND = 3
"""Number of best trainings of a kind that are used for the loss at its size. The others have bad recipes."""


def trial_to_transfer(run: Run, id: int | None = None) -> Trial:
    """Return the trial whose recipe is transferred: the one with `id`, or the recommended one if `id` is None.

    Raises:
        StoreError: The run has no full training with a value.
        UsageError: There is no such trial, or it has no value.
    """
    if id is None:
        best = recommend_trial(run)
        if best is None:
            raise StoreError(
                f"run {run.name} has no full training with a value: `evo-tune show {as_typed(run.folder)}` prints why"
            )
        return best
    trials = {trial.id: trial for trial in run.trials()}
    if id not in trials or trials[id].outcome.status != "ok":
        raise UsageError(
            f"--trial {id}: expected one that has a value: `evo-tune show {as_typed(run.folder)}` lists them"
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
    recipe.remarks += _batch_remarks(run, trial)
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
    for run in runs:
        for trial in run.trials():
            metrics = trial.outcome.metrics
            if not {metric, "params", "tokens"} <= metrics.keys() or not _ended_schedule(trial) or metrics[metric] <= 0:
                continue
            observation = Observation(metrics["params"], metrics["tokens"], metrics[metric])
            size, text = (
                round(math.log(value) / math.log(SAME_KIND_FACTOR))
                for value in (observation.parameters, observation.tokens)
            )
            kinds.setdefault((size, text), []).append(observation)
    best = [sorted(alike, key=lambda observation: observation.loss)[:BEST_PER_KIND] for alike in kinds.values()]
    return [observation for alike in best for observation in alike]


def _ended_schedule(trial: Trial) -> bool:
    """Return whether a training reached the end of a schedule."""
    if trial.outcome.status != "ok":
        return False
    curve = trial.outcome.curve
    return trial.candidate.budget == 1.0 or bool(curve and curve[-1][1].get(DECAYED))


def _batch_remarks(run: Run, trial: Trial) -> list[str]:
    """Return a warning if the batch of a trial is at an end of its range, widened where the run did so."""
    gene = run.genes.get("batch")
    if gene is None or gene.size == 1:
        return []
    ends = [gene.decode(0.0), gene.decode(1.0)]
    if trial.genome["batch"] not in ends:
        return []
    return [
        f"batch {trial.genome['batch']} is at an end of its range, {ends[0]} to {ends[1]}: the best one may be "
        f"beyond; widen it with `evo-tune resume --gene batch=…`, or give --batch"
    ]


def transfer_to_target(run: Run, evaluator: BoundEvaluator) -> TransferredRecipe | None:
    """Return a run's recipe at the target of its `--for-scale`; None without a target or a recipe.

    Raises:
        UsageError: The recipe cannot be transferred to the target.
    """
    best = recommend_trial(run)
    if not run.manifest.settings.for_scale or best is None:
        return None
    target_size = parse_target_size(run.manifest.settings.for_scale)
    tokens = target_size.tokens
    if tokens is None:
        target_request = TransferRequest(width=target_size.width, depth=target_size.depth, tokens=1)
        tokens = int(compute_optimal_tokens(recipe_at(evaluator, target_request, best).target.parameters))
    recipe = scale_run(
        run, evaluator, TransferRequest(width=target_size.width, depth=target_size.depth, tokens=tokens), trial=best
    )
    search_flops, target_flops = _search_flops(run), recipe.target.flops
    return TransferredRecipe(
        trial=best.id,
        width=target_size.width,
        depth=target_size.depth,
        tokens=tokens,
        given_tokens=target_size.tokens is not None,
        lr=recipe.target.lr,
        search_flops=search_flops,
        target_flops=target_flops,
        share=search_flops / target_flops if target_flops > 0 else 0.0,
        loss=recipe.loss.loss,
        low=recipe.loss.low,
        high=recipe.loss.high,
        why=recipe.loss.why,
        narrow=recipe.loss.narrow,
    )


def _search_flops(run: Run) -> float:
    """Return the FLOPs of all trainings of a run; a promotion counts from the rung that it continues."""
    share = candidate_costs(run)
    search = sum(
        trial.outcome.metrics.get("flops", 0.0) * share[trial.id] / trial.candidate.budget for trial in run.trials()
    )
    return search + sum(trial.outcome.metrics.get("flops", 0.0) for trial in read_comparison(run))
