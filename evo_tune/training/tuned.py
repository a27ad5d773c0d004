"""A base that is tuned to a text as a course's subject: judged on held-out windows, beside the base itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from evo_tune.recipe.hardware.memory import Memory
from evo_tune.training.course import Course, Judged
from evo_tune.training.evaluation import Evaluation, evaluate
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.one_phase import OnePhase
from evo_tune.training.trainer import Trainer
from evo_tune.training.tuning.pretrained import TuningText

__all__ = ["JudgedTuning", "Tuned"]


class Tuned(OnePhase):
    """A text that a base is tuned to; a point of the curve is from every fourth held-out window.

    Args:
        text: It, in the base's tokens.
        steps: Of the full training.
        windows: In the full training.
        trainable: Number of trained weights.
        flops_per_token: FLOPs of training on one.
        base_loss: Gives the loss of the base on the held-out text.
        memory: Predicts the memory of a training with so many windows in a pass.
    """

    group = "tuning"

    def __init__(
        self,
        text: TuningText,
        *,
        steps: int,
        windows: int,
        trainable: int,
        flops_per_token: float,
        base_loss: Callable[[], float],
        memory: Callable[[int], Memory],
    ) -> None:
        super().__init__(steps, memory)
        self.text, self.windows, self.trainable = text, windows, trainable
        self.flops_per_token, self.base_loss = flops_per_token, base_loss

    def on_the_way(self, trainer: Trainer) -> dict[str, float]:
        return {"val_loss": self.judge(trainer, self.parts[0]).loss}

    def seen_loss(self, trainer: Trainer) -> float:
        return self.judge(trainer, self.text.seen()).loss

    @cached_property
    def parts(self) -> tuple[MicroBatch, MicroBatch]:
        """The held-out windows of the curve, and the others."""
        inputs, targets = self.text.to_judge()
        curve = torch.arange(len(inputs)) % 4 == 0
        return (inputs[curve], targets[curve]), (inputs[~curve], targets[~curve])

    def judge(self, trainer: Trainer, windows: MicroBatch, model: nn.Module | None = None) -> Evaluation:
        """Score the trainer's model, or another, on windows, in the precision in which the base is stored."""
        device, batch = trainer.device, max(1, 4096 // windows[0].shape[1])
        with trainer.recipe.precision.autocast(device):
            judged = trainer.model if model is None else model
            return evaluate(judged, windows, device=device, batch=batch, ranks=trainer.ranks)

    def judged(self, course: Course, resumed: int | None) -> JudgedTuning:
        return JudgedTuning(self, course, resumed)

    def tested(self) -> Tuned:
        made = copy.copy(self)
        made.text = self.text.tested()
        made.__dict__.pop("parts", None)  # of what is held out
        return made

    def kept(self) -> dict[str, Any]:
        return {"windows": self.windows}


class JudgedTuning(Judged):
    """A tuning that is over.

    Args:
        subject: Its text.
        course: See `Judged`.
        resumed: See `Judged`.
    """

    def __init__(self, subject: Tuned, course: Course, resumed: int | None) -> None:
        self.subject, trainer, each = subject, course.trainer, subject.flops_per_token
        super().__init__(course, resumed, flops=trainer.targets * each, flops_per_target=each)
        self.micro_batch *= subject.text.context
        self.judged = self._on_all(trainer.model)
        self.bits_per_byte = self.judged.bits * subject.text.tokens_per_byte
        self.seen = subject.judge(trainer, subject.text.seen())
        self.base_loss = subject.base_loss()
        self.trainable, self.tokens = subject.trainable, trainer.targets

    def _on_all(self, model: nn.Module) -> Evaluation:
        first, others = (self.subject.judge(self.trainer, part, model) for part in self.subject.parts)
        return first + others

    def loss_of(self, model: nn.Module) -> float:
        return self._on_all(model).loss
