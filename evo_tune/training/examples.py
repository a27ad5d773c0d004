"""Samples with classes as a course's subject: a classifier, judged on all that is held out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from evo_tune.recipe.hardware.memory import Memory
from evo_tune.training.course import Course, Judged
from evo_tune.training.evaluation import Scores, score
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.one_phase import OnePhase
from evo_tune.training.trainer import Trainer

__all__ = ["Classified", "Examples", "JudgedClassifier"]

SEEN = 1000
"""Most training samples that the training loss is measured on."""


@dataclass(frozen=True)
class Examples:
    """What a classifier learns from and what judges it, on the CPU.

    Args:
        inputs: (n, …), to train on.
        classes: (n,), int64, their class numbers.
        held_inputs: (m, …), held out for validation.
        held_classes: (m,), int64.
        test_inputs: (k, …), to test with.
        test_classes: (k,), int64.
    """

    inputs: Tensor
    classes: Tensor
    held_inputs: Tensor
    held_classes: Tensor
    test_inputs: Tensor
    test_classes: Tensor

    @property
    def held_out(self) -> MicroBatch:
        """Inputs and classes held out."""
        return self.held_inputs, self.held_classes

    def tested(self) -> Examples:
        """Return the same ones, with those to test with as those held out."""
        return replace(self, held_inputs=self.test_inputs, held_classes=self.test_classes)

    @property
    def seen(self) -> MicroBatch:
        """Up to `SEEN` training samples, evenly spread: the same ones in every training."""
        rows = torch.linspace(0, len(self.inputs) - 1, min(SEEN, len(self.inputs))).long()
        return self.inputs[rows], self.classes[rows]


class Classified(OnePhase):
    """Samples that a classifier is trained on.

    Args:
        examples: They.
        steps: Of the full training.
        total: Samples in it, repetitions counted.
        flops_per_sample: FLOPs of training on one.
        memory: Predicts the memory of a training with so many samples in a pass.
    """

    group = "classes"

    def __init__(
        self,
        examples: Examples,
        *,
        steps: int,
        total: int,
        flops_per_sample: float,
        memory: Callable[[int], Memory],
    ) -> None:
        super().__init__(steps, memory)
        self.examples, self.total, self.flops_per_sample = examples, total, flops_per_sample

    def on_the_way(self, trainer: Trainer) -> dict[str, float]:
        scores = self.judge(trainer, self.examples.held_out)
        return {"val_loss": scores.loss, "accuracy": scores.accuracy}

    def seen_loss(self, trainer: Trainer) -> float:
        return self.judge(trainer, self.examples.seen).loss

    def judge(self, trainer: Trainer, samples: MicroBatch, model: nn.Module | None = None) -> Scores:
        """Score the trainer's model, or another, on samples."""
        return score(trainer.model if model is None else model, samples, device=trainer.device, ranks=trainer.ranks)

    def judged(self, course: Course, resumed: int | None) -> JudgedClassifier:
        return JudgedClassifier(self, course, resumed)

    def tested(self) -> Classified:
        made = copy.copy(self)
        made.examples = self.examples.tested()
        return made

    def kept(self) -> dict[str, Any]:
        return {"samples": self.total}


class JudgedClassifier(Judged):
    """A classifier whose training is over.

    Args:
        subject: Its samples.
        course: See `Judged`.
        resumed: See `Judged`.
    """

    def __init__(self, subject: Classified, course: Course, resumed: int | None) -> None:
        self.subject, trainer, each = subject, course.trainer, subject.flops_per_sample
        super().__init__(course, resumed, flops=trainer.targets * each, flops_per_target=each)
        self.judged = subject.judge(trainer, subject.examples.held_out)
        self.seen = subject.judge(trainer, subject.examples.seen)

    def loss_of(self, model: nn.Module) -> float:
        return self.subject.judge(self.trainer, self.subject.examples.held_out, model).loss

    @cached_property
    def parameters(self) -> int:
        """Weights of the model."""
        count: int = self.trainer.model.config.parameters  # type: ignore[union-attr, assignment]
        return count

    @property
    def epochs(self) -> float:
        """Passes over the training samples."""
        return self.trainer.targets / len(self.subject.examples.inputs)
