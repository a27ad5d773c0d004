"""A recipe at another size: the evaluator's transfer, the published laws, and the loss and the time that are predicted.

Everything is plain data; this module trains, reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from evo_tune.errors import PluginError
from evo_tune.genome.trial import Trial
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.training.scale.laws import LAWS, Scale
from evo_tune.training.scale.loss import Observation, ScalingLaw, interval_advice, predict_loss, reason_not_fittable


@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """Target of a transfer.

    Args:
        width: Width of the model.
        depth: Number of blocks.
        tokens: Training text in tokens.
        batch: Tokens per step; None for the rule's value.
        speed: Tokens per second of the target's training; None for the run's own FLOP/s.
        price: Price of an hour; None for no price.
        memory: GiB of a GPU; None for the usual sizes.
    """

    width: int
    depth: int
    tokens: int
    batch: int | None = None
    speed: float | None = None
    price: float | None = None
    memory: float | None = None

    @property
    def target(self) -> dict[str, Any]:
        """The `target` argument of the evaluator's `transfer`."""
        return {name: getattr(self, name) for name in ("width", "depth", "tokens", "batch", "memory")}


class GeneMove(Struct, forbid_unknown_fields=True, kw_only=True):
    """The value of a gene at another size.

    Args:
        gene: Name of the gene.
        kind: kept, scaled or not transferable.
        found: Value in the run.
        target: Value at the target.
        factor: Target value divided by the found one; null unless both are numbers.
        rule: Rule that was applied.
        source: Reference for the rule; '' if it has none.
    """

    gene: str
    kind: str
    found: Any
    target: Any
    factor: float | None
    rule: str
    source: str


class TrainingSize(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The size of a model and of its training.

    Args:
        width: Width of the model.
        depth: Blocks of the model.
        heads: Attention heads.
        context: Longest window. Unit: tokens.
        parameters: Number of weights.
        without_embeddings: Number of weights without embeddings.
        tokens: Length of the training. Unit: tokens.
        flops: Cost of the training. Unit: FLOPs.
        batch: Size of a step. Unit: tokens.
        steps: Number of updates of the weights.
        lr: Peak learning rate.
        lr_hidden: Peak learning rate of the matrices in blocks.
        epochs: Passes over the text. Given for the target only.
    """

    width: int
    depth: int
    heads: int
    context: int
    parameters: int
    without_embeddings: int
    tokens: float
    flops: float
    batch: int
    steps: int
    lr: float
    lr_hidden: float
    epochs: float | None = None


class MemoryFit(Struct, forbid_unknown_fields=True, kw_only=True):
    """A step of the target's training on GPUs of one memory size.

    Args:
        memory: Memory of each GPU. Unit: GiB.
        ranks: Number of GPUs that train together.
        micro_batch: Windows of each GPU in a pass; null if not even one fits.
        passes: Number of passes of each GPU in a step.
        recompute: Whether blocks are recomputed for the gradient.
        predicted: Memory used on each GPU. Unit: GiB.
    """

    memory: float
    ranks: int
    micro_batch: int | None
    passes: int | None
    recompute: bool | None
    predicted: float | None


class LawLearningRate(Struct, forbid_unknown_fields=True, kw_only=True):
    """A learning rate according to a scaling law.

    Args:
        law: Name of the law; 'this run' is the transferred recipe.
        source: Reference for the law.
        lr: Peak learning rate at the target; null if the law gives only a factor.
        at_run: Peak learning rate according to the law for the run's own training.
        moved: Learning rate of the run, changed by the factor of the law.
        batch: Batch at the target; null if the law gives none. Unit: tokens.
        outside: Properties of the target outside the range of the law's fit; '' for none.
        outside_run: Properties of the run outside that range; '' for none.
    """

    law: str
    source: str
    lr: float | None
    at_run: float | None
    moved: float | None
    batch: float | None
    outside: str
    outside_run: str


class TargetLoss(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The predicted loss of the target's training; the keys from `loss` on are left out if it cannot be predicted.

    Args:
        metric: Metric that is predicted.
        trainings: Number of trainings behind the prediction.
        identifiable: Whether the loss can be predicted.
        why: Reason why not, and what would help; '' if it can.
        loss: Median of the prediction.
        low: Lower end of the interval.
        high: Upper end of the interval.
        share: Share of cases within the interval.
        law: Fitted law.
        extrapolation: Weights or tokens of the target, divided by the largest that were trained.
        narrow: Advice that would narrow the interval; left out if it is within ±5 %.
    """

    metric: str
    trainings: int
    identifiable: bool
    why: str
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    share: float | None = None
    law: ScalingLaw | None = None
    extrapolation: float | None = None
    narrow: str = ""


class ProbeResult(Struct, forbid_unknown_fields=True, kw_only=True):
    """The result of probes at a size between the run and the target.

    Args:
        width: Width of the model.
        depth: Blocks of the model.
        trainings: Number of probes of this size.
        transferred: Transferred learning rate.
        loss: Loss with that rate; null if it was not reached.
        best: Best learning rate of the probes.
        best_loss: Loss with that rate.
        optimum: Minimum of a parabola in log lr; null if it has none.
        confirmed: Whether the loss of the transferred rate is within 2 % of the best; null if unknown.
    """

    width: int
    depth: int
    trainings: int
    transferred: float
    loss: float | None
    best: float
    best_loss: float
    optimum: float | None
    confirmed: bool | None


class TransferResult(Struct, forbid_unknown_fields=True, kw_only=True):
    """A recipe at another size, as `transfer` of an evaluator returns it.

    Args:
        genome: Genome at the target.
        options: Options of the target's training that differ from those of the run.
        rows: Change of each gene.
        remarks: Further remarks, a sentence each.
        found: Size of the run's training.
        target: Size of the target's training.
        fits: Memory use on GPUs.
    """

    genome: dict[str, Any]
    options: dict[str, Any]
    rows: list[GeneMove]
    remarks: list[str]
    found: TrainingSize
    target: TrainingSize
    fits: list[MemoryFit]


class ScaledRecipe(TransferResult, kw_only=True):
    """The recipe of a run at another size, with the cost and the loss of its training there.

    Args:
        run: Run with the recipe.
        trial: Trial with the recipe.
        laws: Learning rates according to scaling laws.
        loss: Predicted loss.
        optimal_tokens: Compute-optimal length of the target's training. Unit: tokens.
        tokens_per_parameter: Tokens of the target for each weight.
        hours: Duration of the target's training on one device; null if no speed is known. Unit: h.
        speed: Speed behind that duration, and its source.
        price: Price of these hours; null if no price was given.
        probe: Results of probes; null without `--probe`.
        emitted: File of flags that was written; null without `--emit`.
    """

    run: str
    trial: int
    laws: list[LawLearningRate]
    loss: TargetLoss
    optimal_tokens: float
    tokens_per_parameter: float
    hours: float | None
    speed: str
    price: float | None
    probe: list[ProbeResult] | None = None
    emitted: str | None = None


def recipe_at(evaluator: BoundEvaluator, wanted: TransferRequest, trial: Trial) -> TransferResult:
    """Return the recipe of a trial at another size.

    Raises:
        PluginError: `transfer` of the evaluator returns something other than a recipe.
        UsageError: The recipe cannot be transferred to this size.
    """
    given = evaluator.transfer(trial.genome, wanted.target)
    try:
        return msgspec.convert(given, TransferResult)
    except msgspec.ValidationError as error:
        raise PluginError(
            f"evaluator {evaluator.plugin.name}: no recipe from transfer() ({error}); docs/evaluators.md lists its keys"
        ) from None


def _scale(size: TrainingSize) -> Scale:
    return Scale(
        width=size.width,
        depth=size.depth,
        context=size.context,
        parameters=size.without_embeddings,
        tokens=size.tokens,
        flops=size.flops,
        batch=size.batch,
    )


def law_rates(recipe: TransferResult) -> list[LawLearningRate]:
    """Return the learning rate and batch of the recipe and of each law, at the run's size and at the target."""
    target, rate = recipe.target, recipe.found.lr
    here, there = _scale(recipe.found), _scale(target)
    rows = [
        LawLearningRate(
            law="this run",
            source="the best genome, transferred by its parametrisation",
            lr=target.lr,
            at_run=rate,
            moved=target.lr,
            batch=target.batch,
            outside="",
            outside_run="",
        )
    ]
    for law in LAWS:
        lr, at_run = law.lr(there), law.lr(here)
        rows.append(
            LawLearningRate(
                law=law.name,
                source=law.source,
                lr=None if law.relative else lr,
                at_run=None if law.relative else at_run,
                moved=rate * lr / at_run,
                batch=None if law.batch is None else law.batch(there),
                outside=law.outside(there),
                outside_run=law.outside(here),
            )
        )
    return rows


def target_loss(metric: str, seen: Sequence[Observation], target: TrainingSize, own: bool) -> TargetLoss:
    """Return the predicted loss at the target, or the reason why it is not predicted.

    Args:
        metric: Name of the loss.
        seen: Trainings behind the prediction.
        target: Size of the target's training.
        own: Whether the run trained at the target's own size.
    """
    why = "the run trained at this size, and its losses are those of the target" if own else reason_not_fittable(seen)
    if why:
        return TargetLoss(metric=metric, trainings=len(seen), identifiable=False, why=why)
    found = predict_loss(seen, target.parameters, target.tokens)
    extrapolation = max(
        target.parameters / max(one.parameters for one in seen), target.tokens / max(one.tokens for one in seen)
    )
    return TargetLoss(
        metric=metric,
        trainings=len(seen),
        identifiable=True,
        why="",
        loss=found.loss,
        low=found.low,
        high=found.high,
        share=found.share,
        law=found.law,
        extrapolation=extrapolation,
        narrow=interval_advice(seen, target.parameters, target.tokens, found),
    )


def target_duration(trial: Trial, target: TrainingSize, wanted: TransferRequest) -> tuple[float | None, str]:
    """Return the duration of the target's training in seconds, and the assumed speed in words."""
    if wanted.speed is not None:
        return target.tokens / wanted.speed, f"{wanted.speed:.6g} tokens a second, as given"
    known = trial.outcome.metrics
    if not {"tokens_per_second", "flops", "tokens"} <= known.keys():
        return None, "unknown: give --speed"
    rate = known["tokens_per_second"] * known["flops"] / known["tokens"]
    return target.flops / rate, f"{rate:.3g} FLOP/s, as measured in the run on {trial.outcome.device}"
