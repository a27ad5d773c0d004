"""Train a plan up to its budget: resume its checkpoint, choose the precision, train, judge, and write a checkpoint.

Every training of an evaluator uses `train`, in one process or in several. An evaluator's context gives device, seed,
budget and folders. This module is independent of data and models.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from evo_tune.options.declare import AUTO
from evo_tune.plugins.context import Context
from evo_tune.plugins.ranks import RankFailed
from evo_tune.training.checkpoint import CHECKPOINT, Unfinished, read_checkpoint_of, save_checkpoint
from evo_tune.training.hardware import precision as probe
from evo_tune.training.hardware.device import clock_for, keep_freed_memory, reproducible
from evo_tune.training.hardware.distributed import Ranks, launch
from evo_tune.training.recipe.optim.schedule import fork_step, stop_step
from evo_tune.training.recipe.plan import TrainingPlan
from evo_tune.training.training_run import Task, TrainingRun


def evaluate_task(
    plan: TrainingPlan, kind: type[Task], train_rank: FunctionType | Callable[..., Any], run: Context
) -> dict[str, float]:
    """Train in this process, or in several processes, and return the metrics.

    Args:
        plan: The evaluator's description of the training.
        kind: Class of the task.
        train_rank: Function that each process calls (see `train_together`).
        run: Device, seed, budget and folders.

    Raises:
        Diverged: The training diverged.
        UsageError: The options do not fit the model or the data.
    """
    if plan.options.ranks == 1:
        return train(plan, run, kind)[1]
    kind(plan, run)  # raises before processes start
    genome = dict(plan.genome)
    return train_together(train_rank, run, plan.options.to_json(), narrow=plan.narrow, genome=genome)


def train(
    plan: TrainingPlan, run: Context, kind: type[Task], ranks: Ranks | None = None
) -> tuple[TrainingRun, dict[str, float]]:
    """Train up to the run's budget, from its checkpoint if there is one.

    Args:
        plan: The evaluator's description of the training.
        run: Device, seed, budget and folders; receives the learning curve.
        kind: Class of the task.
        ranks: Processes that share each step; all of them call this. None: one process.

    Returns:
        The finished run, and `TrainingRun.metrics`.

    Raises:
        Diverged: The training diverged.
        UsageError: The checkpoint belongs to another training.
    """
    now = clock_for(torch.device(run.device))
    began = now()
    keep_freed_memory()
    options, writes = plan.options, ranks is None or ranks.rank == 0
    with reproducible(run.threads, run.device, strict=bool(getattr(options, "deterministic", True))):
        unfinished = Unfinished(plan, run, writes=writes)
        saved = unfinished.saved or read_checkpoint_of(run.resume_folder, plan.identity)
        precision: str = options.precision
        if precision == "auto" and saved:  # a resumed training keeps its own; this machine's choice is ignored
            precision = str(saved.get("precision", "fp32"))
        elif precision == "auto":
            precision = probe.fastest_precision(run.device, narrow=plan.narrow)
        task = kind(replace_options(plan, precision=precision), run, ranks)
        training_run = task.training_run(saved)
        if run.timing:
            return training_run, _predict_cost(training_run, run.timing, now() - began, plan.save)
        resumed = training_run.trainer.step if unfinished.saved or run.resume_folder else None
        first = unfinished.saved.get("first", training_run.trainer.step)
        unfinished.attend(training_run, precision=precision, first=first)
        stop = stop_step(training_run.steps, run.budget)
        is_forked = training_run.decaying is not None
        if not is_forked:
            fork = max(first, fork_step(training_run.trainer.recipe.schedule, stop)) if options.fork else stop
            if run.ends_at < math.inf:
                training_run.run_in_time(fork, run.ends_at)
            else:
                training_run.run(fork)
            if writes and (plan.save or stop < training_run.steps):
                about = {"task": plan.identity, "precision": precision}
                save_checkpoint(run.folder / CHECKPOINT, {**about, **training_run.state()})
            is_forked = fork < stop and not training_run.stopped
        if is_forked:
            training_run.decay(stop)  # for the evaluation only: a longer training continues from the checkpoint
        return training_run, training_run.metrics(resumed, run.test)


def replace_options(plan: Any, **options: Any) -> Any:
    """Return the same plan with other options."""
    return replace(plan, options=replace(plan.options, **options))


def _predict_cost(training_run: TrainingRun, steps: int, built: float, saves: bool) -> dict[str, float]:
    """Return the predicted cost of a full training, from a few of its steps.

    Returns:
        'seconds', 'judging' and 'step' (see `TrainingRun.time_steps`), the first two including the time to build;
        'memory', GPU memory in bytes; 'checkpoint', approximate bytes of a partial training's checkpoint; 'kept', those
        of a full training's; on a GPU with `deterministic` auto, the entries of `time_determinism`.
    """
    determinism_is_open = getattr(training_run.task.plan.options, "deterministic", True) == AUTO
    on_gpu = training_run.trainer.device.type == "cuda"
    determinism = training_run.time_determinism(steps + 2) if determinism_is_open and on_gpu else {}
    seconds = training_run.time_steps(steps)
    # Weights, and at most two optimizer moments for each trained weight.
    checkpoint_bytes = sum(
        weight.numel() * weight.element_size() * (3 if weight.requires_grad else 1)
        for weight in training_run.model.parameters()
    )
    peak = training_run.peak_memory if on_gpu else None
    memory = {} if peak is None else {"memory": peak}
    took = {name: seconds[name] + built for name in ("seconds", "judging")}
    extra = {**memory, **determinism}
    return {**seconds, **took, **extra, "checkpoint": float(checkpoint_bytes), "kept": float(checkpoint_bytes) * saves}


# ---------------------------------------------------------------- several processes


class RankRun(Context):
    """The context of one of several processes; the first one sends the learning curve to the main process."""

    attempted = False
    tell: Callable[[dict[str, Any]], None] | None = None

    @classmethod
    def of(cls, ranks: Ranks, tell: Callable[[dict[str, Any]], None], run: Mapping[str, Any]) -> "RankRun":
        """Return a rank's context, from the data that `train_together` sent."""
        place = cls(str(ranks.device), **{name: value for name, value in run.items() if name != "attempted"})
        place.attempted, place.tell = run["attempted"], tell if ranks.rank == 0 else None
        return place

    def report(self, fraction: float, *, decayed: bool | None = None, **metrics: float) -> None:
        if self.tell is not None:
            self.tell({"fraction": fraction, "decayed": decayed, **metrics})


def train_together(
    function: FunctionType | Callable[..., Any],
    run: Context,
    options: Mapping[str, Any],
    *,
    narrow: bool = False,
    **arguments: Any,
) -> dict[str, float]:
    """Train a task in several processes, and return the metrics.

    If a rank has no memory for a pass, all ranks restart from the same checkpoint with passes of half the size. The
    training is the same up to rounding, and each point of the curve is reported once.

    Args:
        function: Module-level function that each process calls: `function(ranks, tell, *, run, options, **arguments)`.
            It trains in `RankRun.of(ranks, tell, run)`.
        run: Device, seed, budget and folders.
        options: Options of the task, plain data, including `ranks` and `precision`.
        narrow: See `TrainingPlan`.
        arguments: Further plain data for the function.

    Raises:
        RankFailed: See `launch`.
    """
    if options["precision"] == "auto" and not run.resume_folder:  # all ranks need the same precision
        options = {**options, "precision": probe.fastest_precision(run.device, narrow=narrow)}
    place = {name: getattr(run, name) for name in ("threads", "seed", "budget", "test", "timing", "attempted")}
    for name in ("folder", "resume_folder"):
        place[name] = getattr(run, name) and str(getattr(run, name))
    reported = heard = 0  # points of the curve; each is reported once, even if the training restarts

    def report_once(point: dict[str, Any]) -> None:
        nonlocal reported, heard
        heard += 1
        if heard > reported:
            reported = heard
            run.report(**point)

    parts = 1
    while True:
        try:
            values = {"run": place, "options": dict(options), **arguments}
            settings: dict[str, Any] = {"device": run.device, "threads": run.threads, "on_message": report_once}
            return dict(launch(function, values, ranks=options["ranks"], parts=parts, **settings))
        except RankFailed as failure:
            if not failure.smaller:
                raise
            parts *= 2
            print(f"{failure}: all ranks begin again, with {parts} parts of each", file=sys.stderr, flush=True)
            heard = 0


def train_and_export(
    plan: Any, run: Context, kind: type[Task], folder: Path | str, *, tokenizer: Any = None, **further_notes: Any
) -> dict[str, float]:
    """Train in one process, write weights and config.json to a folder, and return the metrics.

    Args:
        plan: The evaluator's description of the training.
        run: Device, seed, budget and folders.
        kind: Class of the task.
        folder: Folder to write; created if missing. Its `averaged` has the moving average of the weights, if any.
        tokenizer: Tokenizer of a `GPT`.
        further_notes: See `training_notes`.
    """
    training_run, metrics = train(replace_options(plan, ranks=1), run, kind)
    trained: Any = training_run.model
    models = {Path(folder): (trained, metrics)}
    if training_run.trainer.averaged is not None:
        averaged = training_run.trainer.averaged.module
        models[Path(folder) / "averaged"] = averaged, {"val_loss": metrics["val_loss_ema"]}
    for into, (model, model_metrics) in models.items():
        if tokenizer is not None:
            model.tokenizer = tokenizer
        training_run.task.finish(model, training_run.trainer)
        precision = training_run.trainer.recipe.precision.name
        model.save(into, **training_notes(plan, run, precision, model_metrics, **further_notes))
    return metrics


def training_notes(
    plan: TrainingPlan, run: Context, precision: str, metrics: Mapping[str, float], **further_notes: Any
) -> dict[str, Any]:
    """Return the notes on a training, as plain data for a model's folder.

    Args:
        plan: The evaluator's description of the training.
        run: Device, threads and seed.
        precision: Name of the precision of the evaluation.
        metrics: Metrics of the training.
        further_notes: Notes of this kind of model only.
    """
    evaluated = {"device": torch.device(run.device).type, "threads": run.threads, "precision": precision}
    return {
        "genome": dict(plan.genome),
        "options": plan.options.to_json(),
        "seed": run.seed,
        "metrics": dict(metrics),
        "data": plan.identity["data"],
        "evaluated": evaluated,
        **further_notes,
    }
