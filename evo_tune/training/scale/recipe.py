"""A recipe at another size: the evaluator's transfer, the laws, the predicted loss and time, its flags and its probes.

Everything is plain data; this module trains, reads and writes nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from evo_tune.errors import PluginError, UsageError
from evo_tune.genome.trial import Trial
from evo_tune.options.declare import Option
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.scripts.template import literal
from evo_tune.text import one_line
from evo_tune.training.recipe.transferring import TrainingSize, TransferResult
from evo_tune.training.scale import laws


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


class LawLearningRate(Struct, forbid_unknown_fields=True):
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
    law: laws.ScalingLaw | None = None
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


def recipe_at(evaluator: BoundEvaluator, request: TransferRequest, trial: Trial) -> TransferResult:
    """Return the recipe of a trial at another size.

    Raises:
        PluginError: `transfer` of the evaluator returns something other than a recipe.
        UsageError: The recipe cannot be transferred to this size.
    """
    target = {name: getattr(request, name) for name in ("width", "depth", "tokens", "batch", "memory")}
    recipe_data = evaluator.transfer(trial.genome, target)
    try:
        return msgspec.convert(recipe_data, TransferResult)
    except msgspec.ValidationError as error:
        raise PluginError(
            f"evaluator {evaluator.plugin.name}: no recipe from transfer() ({error}); docs/evaluators.md lists its keys"
        ) from None


def law_rates(recipe: TransferResult) -> list[LawLearningRate]:
    """Return the learning rate and batch of the recipe and of each law, at the run's size and at the target."""
    run_size, target = recipe.found, recipe.target
    of_run = "this run", "the best genome, transferred by its parametrisation"
    rows = [LawLearningRate(*of_run, target.lr, run_size.lr, target.lr, target.batch, outside="", outside_run="")]
    for law in laws.LAWS:
        lr, lr_at_run = law.lr_or_factor(target), law.lr_or_factor(run_size)
        rows.append(
            LawLearningRate(
                law.name,
                law.source,
                lr=None if law.gives_factor_only else lr,
                at_run=None if law.gives_factor_only else lr_at_run,
                moved=run_size.lr * lr / lr_at_run,
                batch=None if law.batch is None else law.batch(target),
                outside=law.describe_out_of_range(target),
                outside_run=law.describe_out_of_range(run_size),
            )
        )
    return rows


def target_loss(
    metric: str, observations: Sequence[laws.Observation], target: TrainingSize, is_own_size: bool
) -> TargetLoss:
    """Return the predicted loss at the target, or the reason why it is not predicted.

    Args:
        metric: Name of the loss.
        observations: Trainings behind the prediction.
        target: Size of the target's training.
        is_own_size: Whether the run trained at the target's own size.
    """
    training_count = len(observations)
    if is_own_size:
        reason = "the run trained at this size, and its losses are those of the target"
    else:
        reason = laws.reason_not_fittable(observations)
    if reason:
        return TargetLoss(metric=metric, trainings=training_count, identifiable=False, why=reason)
    prediction = laws.predict_loss(observations, target.parameters, target.tokens)
    most_parameters = max(observation.parameters for observation in observations)
    most_tokens = max(observation.tokens for observation in observations)
    return TargetLoss(
        metric=metric,
        trainings=training_count,
        identifiable=True,
        why="",
        **vars(prediction),  # loss, low, high, share and law
        extrapolation=max(target.parameters / most_parameters, target.tokens / most_tokens),
        narrow=laws.interval_advice(prediction),
    )


def target_duration(trial: Trial, target: TrainingSize, request: TransferRequest) -> tuple[float | None, str]:
    """Return the duration of the target's training in seconds, and the assumed speed in words."""
    if request.speed is not None:
        return target.tokens / request.speed, f"{request.speed:.6g} tokens a second, as given"
    metrics = trial.outcome.metrics
    if not {"tokens_per_second", "flops", "tokens"} <= metrics.keys():
        return None, "unknown: give --speed"
    flops_per_second = metrics["tokens_per_second"] * metrics["flops"] / metrics["tokens"]
    speed = f"{flops_per_second:.3g} FLOP/s, as measured in the run on {trial.outcome.device}"
    return target.flops / flops_per_second, speed


# Maximum loss of a confirmed transferred rate, as a multiple of the best loss of its neighbours.
CONFIRMED_WITHIN = 1.02


def recipe_config_toml(
    evaluator: str, name: str, recipe: ScaledRecipe, options: Mapping[str, Any], declared: Mapping[str, Option]
) -> str:
    """Return a TOML file for `evo-tune run --config` that trains the transferred recipe once.

    The file is executed and may contain a stranger's names, so every name and value is quoted.

    Args:
        evaluator: Evaluator, as `run` takes it.
        name: Name of the run to make.
        recipe: The transferred recipe.
        options: Options of the original run.
        declared: Declared options of the evaluator; options at their default are left out.
    """
    # Options that differ from their default; genes follow in their own section.
    values = {
        key: "none" if value is None else value  # TOML has no null; `--config` reads this text as None
        for key, value in {**options, **recipe.options}.items()
        if key in declared and key not in recipe.genome and (declared[key].required or declared[key].default != value)
    }
    # `--gene` takes a fixed value as text.
    genes = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in recipe.genome.items()}
    lines = [
        f"# A recipe of run {one_line(str(recipe.run))}, transferred to depth {recipe.target.depth}, "
        f"width {recipe.target.width}:",
        "# evo-tune run --config FILE",
        f"evaluator = {literal(evaluator)}",
        f"name = {literal(name)}",
        "trials = 1",
        "final_seeds = 0",
        "",
        "[option]",
        *(f"{_key(key)} = {literal(value)}" for key, value in values.items()),
        "",
        "[gene]",
        *(f"{_key(key)} = {literal(value)}" for key, value in genes.items()),
    ]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else literal(name)


def probe_sizes(run_size: TrainingSize, target: TrainingSize, count: int) -> list[TransferRequest]:
    """Return sizes between a run and a target, each with as much text as the run's training.

    Up to five probes use one size, halfway in log width and log depth. More probes use two sizes, at one third and two
    thirds. Widths are multiples of the head width. Where no size is in between, the target's own is used.

    Args:
        run_size: Size of the original run.
        target: Size to which it is transferred.
        count: Number of probes.

    Raises:
        UsageError: The run is of the target's size.
    """
    end_sizes = [(size.width, size.depth) for size in (run_size, target)]
    if end_sizes[0] == end_sizes[1]:
        raise UsageError(f"--probe: the run is of the target's size, {target.depth}x{target.width}; leave it out")
    head_width = run_size.width // run_size.heads
    sizes = []
    for fraction in (0.5,) if count < 6 else (1 / 3, 2 / 3):
        width, depth = (start ** (1 - fraction) * end**fraction for start, end in zip(*end_sizes, strict=True))
        sizes.append((max(head_width, round(width / head_width) * head_width), max(1, round(depth))))
    sizes = [size for size in dict.fromkeys(sizes) if size not in end_sizes] or [end_sizes[1]]
    return [TransferRequest(width=width, depth=depth, tokens=round(run_size.tokens)) for width, depth in sizes]


def probe_rates(lr: float, count: int) -> list[float]:
    """Return learning rates around a transferred one: itself, half of it, twice it, then further out.

    Args:
        lr: The transferred rate.
        count: Number of rates (int ≥ 1).
    """
    powers = sorted(range(-count, count + 1), key=lambda power: (abs(power), power))[:count]  # 0, -1, 1, -2, …
    return [lr * 2.0**power for power in powers]


def probe_results(trials: Sequence[Trial], metric: str, rate_by_width: Mapping[int, float]) -> list[ProbeResult]:
    """Return for each probed size whether the transferred learning rate is about the best of its neighbours.

    Args:
        trials: Trials of the probes.
        metric: Name of the loss.
        rate_by_width: Transferred rate, by width.
    """
    losses_of_size: dict[tuple[int, int], list[tuple[float, float]]] = {}  # learning rate and loss
    for trial in trials:
        if metric in trial.outcome.metrics and trial.genome["width"] in rate_by_width:
            size = (int(trial.genome["width"]), int(trial.genome["depth"]))
            losses_of_size.setdefault(size, []).append((float(trial.genome["lr"]), trial.outcome.metrics[metric]))
    rows = []
    for (width, depth), points in sorted(losses_of_size.items()):
        transferred_lr = rate_by_width[width]
        best_lr, best_loss = min(points, key=lambda point: point[1])
        loss = next((loss for lr, loss in points if math.isclose(lr, transferred_lr, rel_tol=1e-6)), None)
        rows.append(
            ProbeResult(
                width=width,
                depth=depth,
                trainings=len(points),
                transferred=transferred_lr,
                loss=loss,
                best=best_lr,
                best_loss=best_loss,
                optimum=_optimal_lr(points),
                confirmed=None if loss is None or len(points) < 2 else loss <= CONFIRMED_WITHIN * best_loss,
            )
        )
    return rows


# Maximum distance of an optimal log lr outside the probed ones: a factor of 4.
MAX_LOG_EXCESS = math.log(4)


def _optimal_lr(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the minimum of a parabola through losses in log lr; None if there is none, or it is far outside."""
    if len(points) < 3:
        return None
    log_lr, losses = np.log([lr for lr, _ in points]), np.array([loss for _, loss in points])
    quadratic, linear, _ = np.polyfit(log_lr, losses, 2)
    minimum = -linear / (2 * quadratic) if quadratic > 0 else math.inf
    is_near = log_lr.min() - MAX_LOG_EXCESS <= minimum <= log_lr.max() + MAX_LOG_EXCESS
    return float(np.exp(minimum)) if is_near else None
