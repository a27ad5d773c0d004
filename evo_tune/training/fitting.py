"""Train a model that is fitted in steps, such as boosted trees, and judge it as all models are judged.

Data, split, losses and scores are those of the task, so its results can be compared with a network's.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evo_tune.plugins.context import Context
from evo_tune.training.evaluation import Errors, Evaluation, Scores, model_outputs
from evo_tune.training.hardware.device import MicroBatch, reproducible, seed_for
from evo_tune.training.models.model_files import FitRows, FittedModel, Floats
from evo_tune.training.recipe.classifying import SampleTask
from evo_tune.training.recipe.metrics import METRICS
from evo_tune.training.samples import ClassifierTraining, SampleTraining
from evo_tune.training.session import training_notes

# Seconds that a fit has after its first step even if `Context.ends_at` has passed: trees of one step are no model.
LATE_SECONDS = 2.0

# Most steps without an improvement, if there is patience: LightGBM is often given so many.
LONGEST_PATIENCE = 50


@dataclass(frozen=True)
class Fit:
    """A model that is fitted and judged.

    Args:
        model: The model, on the CPU.
        metrics: The rows of `METRICS` that it has.
        rows: Number of rows that it has learned from; 0: its steps were timed only.
    """

    model: FittedModel
    metrics: dict[str, float]
    rows: int = 0


def fit_task(plan: SampleTask, kind: type[SampleTraining], run: Context, refit: str = "none") -> Fit:
    """Fit a model to the training rows up to the run's budget, and judge it on the validation rows, or on all folds.

    The model is the one of the step with the smallest validation loss. With `patience`, the fit ends after the steps of
    so many evaluations without an improvement, `LONGEST_PATIENCE` steps at most; also with the step at `run.ends_at`,
    but not within `LATE_SECONDS` of the first one.

    Args:
        plan: The evaluator's description of the training, with `fit_steps`.
        kind: Class of the task.
        run: Device, seed, budget and folders; receives the learning curve.
        refit: 'none': return the best model. 'validation': fit another one with as many steps, to the training and the
            validation rows. The metrics of the test set are its own. 'all': then fit another one to all rows, which has
            no metrics. A fit that cannot end by `run.ends_at` is left out.

    """
    began = time.perf_counter()
    with reproducible(run.threads):
        seed = seed_for(run.seed, "weights")
        task, model = kind(plan, run), plan.build(seed)
        parts = task.examples
        if isinstance(task, ClassifierTraining):
            task.classes = model.config.outputs
        steps = plan.fit_steps or 1
        most = max(1, round(steps * run.budget))
        fit_began = time.monotonic()
        further = [(task.samples(rows), task.samples(judged)) for rows, judged in plan.folds[1:]]
        folds = [(parts.training, parts.held_out), *further]
        models = [model, *(plan.build(seed) for _ in folds[1:])]
        fits = [
            fitted.fit(_fit_rows(task, judged[0], learned), plan.genome, most, seed)
            for fitted, (learned, judged) in zip(models, folds, strict=True)
        ]
        steps_outputs, truth = _join_outputs(fits), torch.cat([judged[1] for _, judged in folds])
        if run.timing:
            return Fit(model, _time_steps(steps_outputs, steps, run.timing, began))
        best = _keep_best(model, steps_outputs, truth, task, steps, most)
        # An exported model is judged by what it will predict. A search saves the time, as the fit followed these rows.
        outputs = torch.from_numpy(best.outputs).float()
        if run.test:
            outputs = torch.cat([model_outputs(model, parts.held_out), outputs[len(parts.held_out[0]) :]])
        train_loss = task.score(model_outputs(model, parts.training_sample), parts.training_sample[1]).loss
        seconds = (time.monotonic() - fit_began) / len(folds)  # of a fit

        def fit_again(*learned: MicroBatch) -> FittedModel:
            again: FittedModel = plan.build(seed)
            for _ in again.fit(_fit_rows(task, parts.held_out[0][:0], *learned), plan.genome, best.step, seed):
                pass
            again.finish(again.state())
            return again

        learned = [parts.training]
        if refit != "none" and time.monotonic() + seconds < run.ends_at:
            learned.append(parts.held_out)
            model = fit_again(*learned)
        test_began, test = time.perf_counter(), None
        if run.test:
            test = model_outputs(model, parts.test)
        if run.predictions is not None and test is not None:
            run.predictions["test"] = task.predictions(test, parts.test[1], time.perf_counter() - test_began)
            run.predictions["held_out"] = task.predictions(outputs, truth)
        if refit == "all" and time.monotonic() + seconds < run.ends_at:
            learned.append(parts.test)
            model = fit_again(*learned)
        metrics = dict.fromkeys(("steps", "epochs"), float(best.last))
        metrics |= {"samples": float(best.last * len(parts.training[0])), "train_loss": train_loss}
        metrics |= {"params": float(model.config.parameters)}
        test_scores = None if test is None else task.score(test, parts.test[1])
        metrics |= score_metrics(task.group, task.score(outputs, truth), test_scores)
        return Fit(model, metrics, sum(len(part[0]) for part in learned))


def score_metrics(
    group: str, held_out: Evaluation | Scores | Errors, test: Evaluation | Scores | Errors | None
) -> dict[str, float]:
    """Return the rows of `METRICS` that are scores of predictions.

    Args:
        group: Group of the rows: 'classes' or 'regression'.
        held_out: Scores of the validation part.
        test: Scores of the test part; None: not wanted.
    """
    metrics = {}
    for row in METRICS:
        if row.test and row.read is not None and group in row.groups:
            metrics[row.name] = float(row.read(SimpleNamespace(scores=held_out)) or 0.0)
            if test is not None:
                metrics[row.test_name] = float(row.read(SimpleNamespace(scores=test)) or 0.0)
    return metrics


def export_fitted(plan: SampleTask, kind: type[SampleTraining], run: Context, folder: Path | str) -> dict[str, float]:
    """Fit a model, write it to a folder, and return its metrics.

    By the option `refit`, it has learned from validation or from all rows, if there is time (`run.ends_at`).

    Args:
        plan: See `fit_task`.
        kind: Class of the task.
        run: Device, seed, budget and folders.
        folder: Folder to write; created if missing.
    """
    options: Any = plan.options
    fit = fit_task(plan, kind, run, options.refit)
    rows = {name: len(part) for name, part in zip(("training", "held_out", "test"), plan.parts, strict=True)}
    rows["last_fit"] = fit.rows
    notes = training_notes(plan, run, "fp32", fit.metrics, rows=rows)
    fit.model.save(folder, **{**notes, "evaluated": {**notes["evaluated"], "device": "cpu"}})
    return fit.metrics


def _fit_rows(task: SampleTraining, followed: Tensor, *parts: MicroBatch) -> FitRows:
    """Return the rows of some parts to learn from, and those whose outputs are followed."""
    targets = torch.cat([task.training_targets(part[1]) for part in parts])
    weights = task.plan.class_weights(task.classes or 1) if isinstance(task, ClassifierTraining) else ()
    return FitRows(
        torch.cat([part[0] for part in parts]).numpy(),
        (targets[:, 0].double() if targets.ndim > 1 else targets).numpy(),
        np.array(weights)[targets.numpy()] if weights else np.ones(len(targets)),
        followed.numpy(),
    )


@dataclass(frozen=True)
class BestStep:
    """The step of a fit whose model is kept.

    Args:
        step: Its number.
        last: Number of the last step.
        outputs: Outputs of the rows to judge by after it, (m, outputs).
    """

    step: int
    last: int
    outputs: NDArray[np.float64]


def _join_outputs(fits: Sequence[Iterator[Floats]]) -> Iterator[Floats]:
    """Yield what several fits yield, one below the other, until the last of them has converged."""
    latest: list[Floats | None] = [None] * len(fits)
    for step in zip_longest(*fits):
        latest = [before if outputs is None else outputs for before, outputs in zip(latest, step, strict=True)]
        yield np.concatenate([outputs for outputs in latest if outputs is not None])


def _keep_best(
    model: FittedModel, outputs: Iterator[Floats], truth: Tensor, task: SampleTraining, steps: int, last: int
) -> BestStep:
    """Fit, report the learning curve, and leave the model of the best step.

    With patience every step is judged, otherwise those of the evaluations are.

    Args:
        model: The model.
        outputs: Outputs of the rows to judge by after each step.
        truth: Their targets.
        task: Task with the validation rows, the options, and the run's context.
        steps: Number of steps of the full training.
        last: The last step of this one.
    """
    options: Any = task.plan.options
    aims = task.training_targets(truth)
    marks = {-(-steps * point // options.evaluations) for point in range(1, options.evaluations + 1)} | {last}
    most_waiting = np.inf
    if options.patience is not None:
        most_waiting = min(LONGEST_PATIENCE, options.patience * max(1, steps // options.evaluations))
    ends_at = task.run.ends_at
    best, state, kept, step = np.inf, None, BestStep(0, 0, np.zeros(0)), 0
    for step, values in enumerate(outputs, 1):
        if step == 1:  # which loads LightGBM and prepares the rows
            ends_at = max(ends_at, time.monotonic() + LATE_SECONDS)
        late = time.monotonic() >= ends_at
        if step not in marks and options.patience is None and not late:
            continue
        predicted = torch.from_numpy(np.ascontiguousarray(values))
        loss = float(F.cross_entropy(predicted, aims) if aims.ndim == 1 else F.mse_loss(predicted, aims.double()))
        if loss < best:
            best, state, kept = loss, model.state(), BestStep(step, step, values)
        if step in marks:
            task.run.report(step / steps, val_loss=loss)
        if late or step - kept.step >= most_waiting:
            break
    if not kept.step:  # none was judged, or their losses are NaN
        state, kept = model.state(), BestStep(step, step, values)
    model.finish(state)
    return replace(kept, last=step)


def _time_steps(outputs: Iterator[Any], steps: int, count: int, began: float) -> dict[str, float]:
    """Return the predicted seconds of a full fit, from a few of its steps; see `forecast.timing`."""
    next(outputs)  # with the preparation of the rows
    times = [time.perf_counter()]
    built = times[0] - began
    for _, _ in zip(range(count), outputs, strict=False):
        times.append(time.perf_counter())
    step = float(median(np.diff(times))) if len(times) > 1 else built
    return {"seconds": built + steps * step, "judging": built, "step": step, "checkpoint": 0.0, "kept": 0.0}
