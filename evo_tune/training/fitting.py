"""A classifier's training from beginning to end: batches, steps, curve, checkpoint, scores.

The one course that all classification evaluators share. Where a training stands (device, seed, budget, folders)
comes as a `Run`, which an evaluator's context is. Knows nothing of genomes or of where data comes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evo_tune.training.accounting import stop_step
from evo_tune.training.checkpoint import CHECKPOINT, save_checkpoint, saved_in
from evo_tune.training.classification import Scores, score
from evo_tune.training.data.batch import MicroBatch
from evo_tune.training.data.epochs import Epochs
from evo_tune.training.hardware.allocator import keep_freed_memory
from evo_tune.training.metrics import measured
from evo_tune.training.models.encoder import Classifier
from evo_tune.training.optim.optimizer import AdamW
from evo_tune.training.optim.weight_decay import WeightDecay
from evo_tune.training.plan import Plan
from evo_tune.training.session import Run
from evo_tune.training.trainer import Recipe, Trainer

__all__ = ["Examples", "fit"]

CURVE_POINTS = 4
"""Points of the learning curve over the full training."""

SEEN = 1000
"""Most training samples that the training loss is measured on."""


@dataclass(frozen=True)
class Examples:
    """What a classifier learns from and what judges it, on the CPU.

    Args:
        inputs: (n, …), to train on.
        classes: (n,), int64, their class numbers.
        held_inputs: (m, …), held out.
        held_classes: (m,), int64.
    """

    inputs: Tensor
    classes: Tensor
    held_inputs: Tensor
    held_classes: Tensor

    @property
    def held_out(self) -> MicroBatch:
        """Inputs and classes held out."""
        return self.held_inputs, self.held_classes

    @property
    def seen(self) -> MicroBatch:
        """Up to `SEEN` training samples, evenly spread: the same ones in every training."""
        rows = torch.linspace(0, len(self.inputs) - 1, min(SEEN, len(self.inputs))).long()
        return self.inputs[rows], self.classes[rows]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A classifier's training that is over: what the rows of `metrics.METRICS` look at.

    Args:
        trainer: At its end.
        judged: Scores on what is held out.
        seen: Scores on training samples.
        rows: Number of training samples.
        parameters: Weights of the model.
        flops_per_sample: FLOPs of training on one sample.
        speed: Samples a second.
        resumed: Step at which it went on; None: it was not to go on from anything.
    """

    trainer: Trainer
    judged: Scores
    seen: Scores
    rows: int
    parameters: int
    flops_per_sample: float
    speed: float
    resumed: int | None

    @property
    def epochs(self) -> float:
        """Passes over the training samples."""
        return self.trainer.targets / self.rows

    @property
    def flops(self) -> float:
        """FLOPs spent."""
        return self.trainer.targets * self.flops_per_sample


def fit(
    model: Classifier,
    examples: Examples,
    run: Run,
    plan: Plan,
    *,
    lr: float,
    batch: int,
    weight_decay: float,
    warmup: float,
    flops_per_sample: float,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    task: Mapping[str, Any] | None = None,
    keep: bool = False,
) -> dict[str, float]:
    """Train a classifier up to the run's share of the plan, from its checkpoint if there is one.

    AdamW with β = (0.9, 0.999). The schedule is laid over the whole plan whatever the share. A training that
    stops early leaves a checkpoint in the run's folder.

    Args:
        model: Its weights at their beginning, on the run's device.
        examples: Data.
        run: Where it stands; the learning curve is reported there.
        plan: How long, along which schedule.
        lr: Peak learning rate.
        batch: Samples in a step.
        weight_decay: λ.
        warmup: Share of the steps for warm-up.
        flops_per_sample: FLOPs of training on one sample.
        label_smoothing: See `Epochs`.
        mixup: See `Epochs`.
        task: Plain data that says what is trained; a checkpoint goes on under the same only.
        keep: Leave a checkpoint of a full training too.

    Returns:
        The names in `CLASSIFIER_METRICS`; resumed_step too if it was to go on from a checkpoint (0: there
        was none, and it was trained from scratch).

    Raises:
        Diverged: The training was lost.
        RecipeError: A number is out of its range.
        OptionError: The checkpoint belongs to another training.
    """
    keep_freed_memory()
    source = Epochs(
        examples.inputs,
        examples.classes,
        classes=model.config.classes,
        batch=batch,
        total=plan.samples(len(examples.inputs), flops_per_sample),
        seed=run.seed,
        label_smoothing=label_smoothing,
        mixup=mixup,
    )
    recipe = Recipe(
        optimizer=AdamW(lr=lr, beta2=0.999),
        schedule=plan.rates(source.steps, warmup),
        weight_decay=WeightDecay(start=weight_decay),
        clip=plan.clip,
        ceiling=1.5 * math.log(model.config.classes),
    )
    trainer = Trainer(model, source, recipe, seed=run.seed, device=run.device)
    described = dict(task or {})
    if saved := saved_in(run.resume_folder, described):
        trainer.restore(saved["trainer"])
    start, first, began = trainer.step, trainer.targets, time.perf_counter()
    scores, judging = _train(trainer, examples, run)
    seconds = time.perf_counter() - began - judging
    if keep or trainer.step < recipe.schedule.steps:
        save_checkpoint(run.folder / CHECKPOINT, {"task": described, "trainer": trainer.state()})
    fitted = Fitted(
        trainer=trainer,
        judged=scores,
        seen=score(model, examples.seen, device=run.device),
        rows=len(examples.inputs),
        parameters=model.config.parameters,
        flops_per_sample=flops_per_sample,
        speed=(trainer.targets - first) / max(seconds, 1e-9),
        resumed=start if run.resume_folder else None,
    )
    return measured(fitted, "classes")


def _train(trainer: Trainer, examples: Examples, run: Run) -> tuple[Scores, float]:
    """Train up to the budget, reporting along the way; return the last scores and the seconds spent on scoring."""
    steps = trainer.recipe.schedule.steps
    stop = stop_step(steps, run.budget)
    marks = {-(-steps * point // CURVE_POINTS) for point in range(1, CURVE_POINTS)}
    judging = 0.0
    for mark in sorted({mark for mark in marks if trainer.step < mark < stop} | {stop}):
        trainer.run(max(mark, trainer.step))
        began = time.perf_counter()
        scores = score(trainer.model, examples.held_out, device=run.device)
        run.report(trainer.step / steps, val_loss=scores.loss, accuracy=scores.accuracy)
        judging += time.perf_counter() - began
    return scores, judging
