"""Builds the training of a classifier on samples: model, recipe, batches that fit the device, and the course.

From a `ClassifierTask`, which says what it is, and a `Run`, which says where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from evo_tune.recipe.classifying import ClassifierTask, Classifying, check_whole
from evo_tune.recipe.data.tables import stratified
from evo_tune.training.course import Course
from evo_tune.training.data.epochs import Epochs
from evo_tune.training.examples import Classified, Examples
from evo_tune.training.hardware.device import seed_for
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.hardware.memory import PassMemory, fit_pass
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.hardware.throughput import SAFE, TIMED, steps_in
from evo_tune.training.models.encoder import Classifier
from evo_tune.training.optim.watching import EarlyStopping
from evo_tune.training.session import Place, Run, told_to, train, train_together
from evo_tune.training.stepping.recipe import recipe_of
from evo_tune.training.trainer import Trainer

__all__ = ["classifier_course", "classify_together", "evaluate_classifier", "export_classifier", "write_classifier"]

TaskOf = Callable[[Mapping[str, Any], Any], ClassifierTask]
"""Makes the task of a genome under an evaluator's options."""


def evaluate_classifier(
    task_of: TaskOf,
    train_rank: Callable[..., dict[str, float]],
    genome: Mapping[str, Any],
    run: Run,
    options: Classifying,
) -> dict[str, float]:
    """Train a genome here, or by several processes, and return its metrics.

    Args:
        task_of: Makes its task.
        train_rank: Is each of the processes, at the top of the evaluator's file (see `classify_together`).
        genome: Values of the genes.
        run: Where it stands.
        options: The evaluator's.

    Raises:
        Diverged: The training was lost.
        OptionError: See `classifier_course`.
    """
    task = task_of(genome, options)
    if options.ranks == 1:
        return train(task, run, classifier_course)[1]
    _check_whole(task, run)
    return train_together(train_rank, run, options.to_json(), narrow=task.narrow, genome=dict(genome))


def classify_together(
    task_of: TaskOf,
    group: type[Classifying],
    ranks: Ranks,
    tell: Callable[[dict[str, float]], None],
    *,
    genome: Mapping[str, Any],
    run: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, float]:
    """Be one of the processes that train a genome together; `group` is the class of the evaluator's options."""
    return train(task_of(genome, group(**options)), Place.of(ranks, tell, run), classifier_course, ranks)[1]


def export_classifier(
    task_of: TaskOf, genome: Mapping[str, Any], run: Run, folder: Path | str, options: Classifying, usage: str
) -> dict[str, float]:
    """Train a genome once more, in one process, and write it as something to use (see `write_classifier`)."""
    course, metrics = train(task_of(genome, replace(options, ranks=1)), run, classifier_course)
    write_classifier(folder, course, metrics, usage, genome=genome, options=options, seed=run.seed)
    return metrics


def _check_whole(task: ClassifierTask, run: Run) -> None:
    if task.whole:
        check_whole(task.options, task.batch, ranks_on_cpu=torch.device(run.device).type == "cpu")


def classifier_course(
    task: ClassifierTask, run: Run, precision: str, saved: dict[str, Any], ranks: Ranks | None = None
) -> Course:
    """Return the training at step 0, or where a checkpoint ends.

    Args:
        task: What is trained.
        run: Where.
        precision: In what it computes, by name.
        saved: What was saved of it; empty: nothing.
        ranks: The processes that train it together.

    Raises:
        OptionError: The model cannot be trained by these ranks, or in these passes.
        RecipeError: A number is out of its range.
    """
    _check_whole(task, run)
    return _Builder(task.in_precision(precision), run, ranks).course(saved)


@dataclass(frozen=True)
class _Builder:
    task: ClassifierTask
    run: Run
    ranks: Ranks | None

    def course(self, saved: dict[str, Any]) -> Course:
        options = self.task.options
        total = saved.get("samples") or self._total()
        trainer = self._trainer(total, ranks=self.ranks)
        subject = Classified(
            self.examples,
            steps=trainer.recipe.schedule.steps,
            total=total,
            flops_per_sample=self.task.flops_per_sample,
            memory=lambda largest: self._memory(cast(Classifier, trainer.model))(largest),
        )
        course = Course(
            trainer,
            subject,
            evaluations=options.evaluations,
            stopping=EarlyStopping.of(options),
            report=told_to(self.run),
        )
        if saved:
            course.restore(saved)
        return course

    @cached_property
    def examples(self) -> Examples:
        inputs, classes = torch.from_numpy(self.task.inputs), torch.from_numpy(self.task.classes).long()
        parts = stratified(self.task.classes, self.task.options.held_out, self.task.options.test)
        training, held, test = (torch.from_numpy(rows) for rows in parts)
        return Examples(inputs[training], classes[training], inputs[held], classes[held], inputs[test], classes[test])

    def _total(self) -> int:
        """Return the samples of the full training; of a budget in seconds, by the clock."""
        options, task = self.task.options, self.task
        if options.seconds is None:
            return options.samples(len(self.examples.inputs), task.flops_per_sample)
        # One of its own, to be thrown away.
        return task.batch * steps_in(options.seconds, self._trainer(task.batch * TIMED, lr=SAFE))

    def _trainer(self, total: int, *, lr: float | None = None, ranks: Ranks | None = None) -> Trainer:
        """Return a trainer at step 0, its schedules laid over so many samples."""
        task, options, seed = self.task, self.task.options, self.run.seed
        model = self._model()
        source = Epochs(
            self.examples.inputs,
            self.examples.classes,
            classes=model.config.classes,
            batch=task.batch,
            total=total,
            seed=seed,
            label_smoothing=task.label_smoothing,
            mixup=task.mixup,
            augment=task.augment,
            micro_batch=self._micro_batch(model),
        )
        recipe = recipe_of(
            options,
            source.steps,
            lr=task.lr if lr is None else lr,
            batch=task.batch,
            reference=task.reference,
            weight_decay=task.weight_decay,
            warmup=task.warmup,
            ceiling=1.5 * math.log(model.config.classes),
        )
        compiled = options.compile
        return Trainer(model, source, recipe, seed=seed, device=self.run.device, ranks=ranks, compiled=compiled)

    def _model(self) -> Classifier:
        model: Classifier = self.task.build(seed_for(self.run.seed, "weights"))
        model.standardise(self.examples.inputs)
        model.recompute = self.task.options.recompute
        return model.to(self.run.device)

    def _micro_batch(self, model: Classifier) -> int:
        options, size = self.task.options, self.ranks.size if self.ranks else 1
        each = -(-self.task.batch // size)
        if self.task.whole:  # a batch norm sees one pass, which must be the whole step
            return self.task.batch
        if options.micro_batch != "auto":
            return min(each, options.micro_batch or each)
        return fit_pass(self._memory(model), each, self.run.device, sharing=size)

    def _memory(self, model: Classifier) -> PassMemory:
        options, config, device = self.task.options, model.config, torch.device(self.run.device)
        inputs = self.examples.inputs
        return PassMemory(
            model,
            torch.ones(2, *inputs.shape[1:], dtype=inputs.dtype, device=device),
            autocast=lambda: Precision(name=options.precision).autocast(device),
            optimizer=options.optimizer_name,
            ema=options.ema is not None,
            outputs=config.classes,
            blocks=config.depth,
            recompute=options.recompute,
            block_input=config.tokens * config.width,
        )


AVERAGED = "\nThe folder averaged has the moving average of the weights, as a model of its own.\n"


def write_classifier(
    folder: Path | str,
    course: Course,
    metrics: Mapping[str, float],
    usage: str,
    *,
    genome: Mapping[str, Any],
    options: Classifying,
    seed: int,
) -> None:
    """Write a trained classifier as something to use: weights, config.json and README.md; its average beside it.

    Args:
        folder: Where; made if it is not there.
        course: Of its training.
        metrics: Of its training; config.json and README.md name them.
        usage: Text of README.md: {folder!r}, {labels}, the names of metrics and of the model's shape stand in it.
        genome: What it was made of.
        options: And with which options.
        seed: And with which seed.
    """
    folder, average = Path(folder), course.trainer.averaged
    notes = {"genome": dict(genome), "options": options.to_json(), "seed": seed, "metrics": dict(metrics)}
    model = cast("Classifier", course.model)
    model.save(folder, **notes)
    if average is not None:
        cast("Classifier", average.module).save(folder / "averaged", **notes)
    shape = model.config.to_json()
    text = usage.format(**{**shape, **metrics, "folder": str(folder), "labels": ", ".join(model.labels)})
    (folder / "README.md").write_text(text + (AVERAGED if average is not None else ""), encoding="utf-8")
