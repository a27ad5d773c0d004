"""A text as a course's subject: phases of rising context or size, and a `GPT` judged on held-out blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from evo_tune.recipe.hardware.computing import in_memory
from evo_tune.recipe.hardware.memory import predict_memory
from evo_tune.recipe.models.gpt_config import flops_per_token
from evo_tune.recipe.plan import Phase, phase_of, spent
from evo_tune.training.course import Course, Judged
from evo_tune.training.evaluation import Evaluation, evaluate, evaluate_by_position
from evo_tune.training.extension import next_trainer
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.models.gpt import GPT
from evo_tune.training.trainer import Source, Trainer

__all__ = ["JudgedText", "Material", "Reading"]

AT_ONCE = 4096
"""Tokens that are judged in one pass."""


class Material(Protocol):
    """What is read, and what judges."""

    def source(self, phase: Phase) -> Source:
        """Return the batches of a phase."""

    def held_out(self, context: int) -> list[MicroBatch]:
        """Return held-out blocks in windows of `context`; the same text whatever the context."""

    def seen(self, context: int) -> MicroBatch:
        """Return fixed windows of the text that is trained on."""

    def tested(self) -> Material:
        """Return the same, with the text to test with as the held-out one."""

    @property
    def held_out_bytes(self) -> int:
        """Bytes of text in the held-out blocks."""


class Reading:
    """A text that a `GPT` is trained on; a point of the curve is from every fourth held-out block.

    Args:
        phases: One, or more with longer and longer contexts, or larger and larger models.
        material: The text.
        extension: How positions are extended between phases (see `extend_context`).
        recompute: What blocks of a later phase's model are computed again (see `GPT`).
    """

    group = "language"

    def __init__(
        self,
        phases: Sequence[Phase],
        material: Material,
        *,
        extension: str = "linear",
        recompute: Callable[[Phase], int | None] = lambda phase: None,
    ) -> None:
        self.phases, self.material = phases, material
        self.extension, self.recompute = extension, recompute

    @property
    def ends(self) -> Sequence[int]:
        return [phase.end for phase in self.phases]

    def share(self, step: int) -> float:
        return spent(self.phases, step)["flops"] / spent(self.phases, self.ends[-1])["flops"]

    def phase_of(self, trainer: Trainer) -> Phase:
        """Return the phase that a model is in."""
        return phase_of(self.phases, cast(GPT, trainer.model).config)

    def further(self, trainer: Trainer) -> Trainer:
        phase = self.phases[self.phases.index(self.phase_of(trainer)) + 1]
        source, recompute = self.material.source(phase), self.recompute(phase)
        return next_trainer(trainer, source, phase.config, extension=self.extension, recompute=recompute)

    def on_the_way(self, trainer: Trainer) -> dict[str, float]:
        return {"val_loss": self.judge(trainer, self.held_out(trainer)[::4]).loss}

    def seen_loss(self, trainer: Trainer) -> float:
        return self.judge(trainer, [self.material.seen(self.phase_of(trainer).config.context)]).loss

    def held_out(self, trainer: Trainer) -> list[MicroBatch]:
        """Return the held-out blocks in windows of the model's context."""
        return self.material.held_out(self.phase_of(trainer).config.context)

    def judge(self, trainer: Trainer, blocks: Sequence[MicroBatch], model: nn.Module | None = None) -> Evaluation:
        """Score the trainer's model, or another, on blocks of windows."""
        judged = trainer.model if model is None else model
        return evaluate(judged, _joined(blocks), device=trainer.device, batch=_at_once(blocks), ranks=trainer.ranks)

    def judge_by_position(self, trainer: Trainer, blocks: Sequence[MicroBatch]) -> list[Evaluation]:
        """Score the model as `judge` does, each position of a window by itself."""
        windows, device, batch = _joined(blocks), trainer.device, _at_once(blocks)
        return evaluate_by_position(trainer.model, windows, device=device, batch=batch, ranks=trainer.ranks)

    def judged(self, course: Course, resumed: int | None) -> JudgedText:
        return JudgedText(self, course, resumed)

    def tested(self) -> Reading:
        return Reading(self.phases, self.material.tested(), extension=self.extension)

    def largest_step(self, trainer: Trainer) -> int:
        phase = self.phase_of(trainer)
        return max(phase.first_step, phase.end - 2)  # of a batch that grows, as it is at its end

    def predicted_peak(self, trainer: Trainer, largest: int) -> float:
        return predict_memory(
            self.phase_of(trainer).config,
            largest,
            recompute=cast(GPT, trainer.model).recompute,
            optimizer=type(trainer.recipe.optimizer).__name__.lower(),
            ema=trainer.averaged is not None,
            precision=in_memory(trainer.recipe.precision.name),
            z_loss=trainer.recipe.z_loss > 0.0,
            ranks=1 if trainer.ranks is None else trainer.ranks.size,
        ).peak

    def kept(self) -> dict[str, Any]:
        return {"windows": self.phases[0].windows}


class JudgedText(Judged):
    """A `GPT` whose training is over.

    Args:
        reading: Its text.
        course: See `Judged`.
        resumed: See `Judged`.
    """

    def __init__(self, reading: Reading, course: Course, resumed: int | None) -> None:
        self.reading, trainer = reading, course.trainer
        config = reading.phase_of(trainer).config
        cost = spent(reading.phases, trainer.step)
        super().__init__(course, resumed, flops=cost["flops"], flops_per_target=flops_per_token(config))
        self.micro_batch *= config.context
        self.blocks = reading.held_out(trainer)
        places = reading.judge_by_position(trainer, self.blocks)
        half = len(places) // 2
        self.halves = [sum(part, Evaluation(0.0, 0)) for part in (places[:half], places[half:])]
        self.judged = self.halves[0] + self.halves[1]
        self.bits_per_byte = self.judged.nll / math.log(2.0) / reading.material.held_out_bytes
        self.seen = reading.judge(trainer, [reading.material.seen(config.context)])
        self.tokens, self.parameters = cost["tokens"], float(config.parameters)

    def loss_of(self, model: nn.Module) -> float:
        return self.reading.judge(self.trainer, self.blocks, model).loss

    @property
    def context_gain(self) -> float | None:
        """By how much the loss falls when windows are as long as the context, and not as that of the first phase."""
        first = self.reading.phases[0]
        if self.reading.phase_of(self.trainer).config.context == first.config.context:
            return None
        short = self.reading.material.held_out(first.config.context)
        return self.reading.judge(self.trainer, short).loss - self.judged.loss


def _joined(blocks: Sequence[MicroBatch]) -> MicroBatch:
    return torch.cat([inputs for inputs, _ in blocks]), torch.cat([targets for _, targets in blocks])


def _at_once(blocks: Sequence[MicroBatch]) -> int:
    return max(1, AT_ONCE // blocks[0][0].shape[1])
