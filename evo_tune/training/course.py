"""A training from where it is to where it stops: its phases, its evaluations on the way, and how it is judged.

What is told of it is the same whether it was done in one go or in parts: evaluations that change anything lie at
fixed steps of the full training. Knows nothing of where texts, budgets or checkpoints come from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import nn

from evo_tune.options.bounds import check_integer
from evo_tune.training.data.batch import MicroBatch
from evo_tune.training.evaluation import Evaluation, evaluate, evaluate_by_position
from evo_tune.training.extension import extend_trainer
from evo_tune.training.hardware.capacity import measured_peak
from evo_tune.training.hardware.flops import flops_per_token
from evo_tune.training.hardware.memory import predict_memory
from evo_tune.training.hardware.throughput import Throughput, mfu, peak_flops
from evo_tune.training.metrics import measured
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.early_stopping import EarlyStopping
from evo_tune.training.optim.fork import Tail
from evo_tune.training.phases import Phase, spent
from evo_tune.training.trainer import Source, Trainer

__all__ = ["Course", "Material"]

AT_ONCE = 4096
"""Tokens that are judged in one pass."""


class Material(Protocol):
    """What a course trains on and is judged by."""

    def source(self, phase: Phase) -> Source:
        """Return the batches of a phase."""

    def held_out(self, context: int) -> list[MicroBatch]:
        """Return held-out blocks in windows of `context`; the same text whatever the context."""

    def seen(self, context: int) -> MicroBatch:
        """Return fixed windows of the text that is trained on."""


class Course:
    """A training of a `GPT` along its phases.

    Args:
        trainer: In the phase that its step lies in.
        phases: One, or more with longer and longer contexts.
        material: What it trains on and is judged by.
        evaluations: Evaluations along the full training, each on every fourth held-out block.
        extension: How positions are extended between phases (see `extend_context`).
        stopping: Ends it early, and then keeps the best weights; None: nothing does.
        report: Called after each evaluation with the share of the full training, the loss, and whether the learning
            rate's final fall has begun.

    Raises:
        RecipeError: evaluations is not a whole number from 1.
    """

    def __init__(
        self,
        trainer: Trainer,
        phases: Sequence[Phase],
        material: Material,
        *,
        evaluations: int = 4,
        extension: str = "linear",
        stopping: EarlyStopping | None = None,
        report: Callable[[float, float, bool], None] = lambda fraction, loss, decayed: None,
    ) -> None:
        check_integer("evaluations", evaluations, 1)
        self.trainer, self.phases, self.material = trainer, phases, material
        self.extension, self.stopping, self.report = extension, stopping, report
        self.steps = phases[-1].end
        self.marks = {-(-self.steps * point // evaluations) for point in range(1, evaluations + 1)}
        self._tokens, self._seconds = 0, 0.0
        self._watch, self._peak = Throughput(), 0.0

    @property
    def model(self) -> GPT:
        """The model as it is now."""
        return cast(GPT, self.trainer.model)

    @property
    def phase(self) -> Phase:
        """The phase that the model is in."""
        return next(phase for phase in self.phases if phase.config.context == self.model.config.context)

    def run(self, stop: int) -> None:
        """Train up to step `stop`, not included, or less far where it stops early.

        Raises:
            Diverged: See `Trainer.run`.
        """
        self._peak = max(self._peak, measured_peak(self.trainer.device, lambda: self._run(stop)) or 0.0)

    def _run(self, stop: int) -> None:
        start = self.trainer.step
        for mark in sorted({mark for mark in self.marks if start < mark < stop} | {max(start, stop)}):
            if self.stopped:
                return
            self._train(mark)
            loss = self.judge(self._held_out()[::4]).loss
            # A stop between two marks is the end of a part: what the whole would not see there, this must not.
            if mark in self.marks and mark > start:
                self._take_note(loss)
            self._tell(loss)

    def _tell(self, loss: float) -> None:
        step = self.trainer.step
        self.report(step / self.steps, loss, self.trainer.recipe.schedule.decayed(step))

    @property
    def stopped(self) -> bool:
        """Whether it has stopped early."""
        return self.stopping is not None and self.stopping.waited >= self.stopping.patience

    def decay(self, stop: int) -> None:
        """Come down to step `stop`, to be judged there: what follows from here on is not the training's any more.

        Raises:
            Diverged: See `Trainer.run`.
        """
        schedule = Tail.of(self.trainer.recipe.schedule, self.trainer.step, stop)
        self.trainer.recipe = replace(self.trainer.recipe, schedule=schedule)
        self._peak = max(self._peak, measured_peak(self.trainer.device, lambda: self._train(stop)) or 0.0)
        loss = self.judge(self._held_out()[::4]).loss
        if self.stopping is not None:
            self.stopping.update(loss, self.model)
        self._tell(loss)

    def _train(self, step: int) -> None:
        before, first = time.perf_counter(), self.trainer.targets
        self._watch.start()
        while step > self.phase.end:
            self.trainer.run(self.phase.end, lambda step: self._watch(step.targets))
            longer = self.phases[self.phases.index(self.phase) + 1]
            source = self.material.source(longer)
            self.trainer = extend_trainer(self.trainer, source, longer.config.context, self.extension)
        self.trainer.run(step, lambda step: self._watch(step.targets))
        self._seconds += time.perf_counter() - before
        self._tokens += self.trainer.targets - first

    def _take_note(self, loss: float) -> None:
        if self.trainer.gap is not None:
            self.trainer.evaluated(self._train_loss(), loss)
        if self.stopping is not None:
            self.stopping.update(loss, self.model)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {"trainer": self.trainer.state(), "stopping": self.stopping and self.stopping.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            RecipeError: It belongs to another training.
        """
        self.trainer.restore(state["trainer"])
        if self.stopping is not None:
            self.stopping.restore(state["stopping"])

    def judge(self, blocks: Sequence[MicroBatch], model: nn.Module | None = None) -> Evaluation:
        """Score the model, or another, on blocks of windows."""
        device, batch = self.trainer.device, _at_once(blocks)
        judged = self.model if model is None else model
        return evaluate(judged, _joined(blocks), device=device, batch=batch, ranks=self.trainer.ranks)

    def _held_out(self) -> list[MicroBatch]:
        return self.material.held_out(self.phase.config.context)

    def _train_loss(self) -> float:
        return self.judge([self.material.seen(self.phase.config.context)]).loss

    def metrics(self, held_out_bytes: int, resumed: int | None = None) -> dict[str, float]:
        """Judge the model, with its best weights if it could stop early; save its state before.

        Args:
            held_out_bytes: Bytes of text in the held-out blocks.
            resumed: Step of the checkpoint that it went on from; None: it was to go on from none.

        Returns:
            The language models' metrics (see `metrics.METRICS`).
        """
        if self.stopping is not None:
            self.stopping.restore_best(self.model)
        return measured(Judged(self, held_out_bytes, resumed), "language")

    @property
    def speed(self) -> float:
        """Tokens a second, the median over steps."""
        return self._watch.tokens_per_second or self._tokens / max(self._seconds, 1e-9)

    @property
    def peak_memory(self) -> float:
        """Bytes: measured on a GPU, predicted on a CPU."""
        trainer = self.trainer
        predicted = predict_memory(
            self.phase.config,
            self.largest_pass,
            recompute=self.model.recompute,
            optimizer=type(trainer.recipe.optimizer).__name__.lower(),
            ema=trainer.averaged is not None,
            precision=trainer.recipe.precision.name,
        )
        return self._peak or predicted.peak

    @property
    def largest_pass(self) -> int:
        """Most windows in one pass."""
        largest = max((len(inputs) for inputs, _ in self._window()), default=1)
        return -(-largest // self.trainer.parts)

    def _window(self) -> Sequence[MicroBatch]:
        """Return a step's micro-batches, as this rank gets them; of a batch that grows, as it is at its end."""
        window = self.trainer.source.window(max(self.phase.first_step, self.phase.end - 2))
        return window if self.trainer.ranks is None else self.trainer.ranks.share(window)

    def judge_by_position(self, blocks: Sequence[MicroBatch]) -> list[Evaluation]:
        """Score the model as `judge` does, each position of a window by itself."""
        device, batch = self.trainer.device, _at_once(blocks)
        return evaluate_by_position(self.model, _joined(blocks), device=device, batch=batch, ranks=self.trainer.ranks)


class Judged:
    """A course that is over: what the rows of `metrics.METRICS` look at.

    Args:
        course: It, its model as it is to be judged.
        held_out_bytes: Bytes of text in the held-out blocks.
        resumed: Step of the checkpoint that it went on from; None: it was to go on from none.
    """

    def __init__(self, course: Course, held_out_bytes: int, resumed: int | None) -> None:
        self.course, self.trainer, self.resumed = course, course.trainer, resumed
        self.blocks = course.material.held_out(course.phase.config.context)
        places = course.judge_by_position(self.blocks)
        half = len(places) // 2
        self.halves = [sum(part, Evaluation(0.0, 0)) for part in (places[:half], places[half:])]
        self.judged = self.halves[0] + self.halves[1]
        self.bits_per_byte = self.judged.nll / math.log(2.0) / held_out_bytes
        self.seen = course.judge([course.material.seen(course.phase.config.context)])
        cost = spent(course.phases, course.trainer.step)
        self.tokens, self.flops = cost["tokens"], cost["flops"]
        self.parameters = float(course.phase.config.parameters)
        self.speed, self.peak_memory = course.speed, course.peak_memory
        self.micro_batch = float(course.largest_pass * course.phase.config.context)

    @property
    def ema_loss(self) -> float | None:
        """Loss of the moving average of the weights."""
        averaged = self.trainer.averaged
        return None if averaged is None else self.course.judge(self.blocks, averaged.module).loss

    @property
    def context_gain(self) -> float | None:
        """By how much the loss falls when windows are as long as the context, and not as that of the first phase."""
        first = self.course.phases[0]
        if self.course.phase is first:
            return None
        return self.course.judge(self.course.material.held_out(first.config.context)).loss - self.judged.loss

    @property
    def mfu(self) -> float | None:
        """Share of the device's peak that was made use of."""
        trainer = self.trainer
        if trainer.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(trainer.device), trainer.recipe.precision.name)
        devices = 1 if trainer.ranks is None else trainer.ranks.size
        return mfu(flops_per_token(self.course.phase.config), self.speed, peak, devices=devices)


def _joined(blocks: Sequence[MicroBatch]) -> MicroBatch:
    return torch.cat([inputs for inputs, _ in blocks]), torch.cat([targets for _, targets in blocks])


def _at_once(blocks: Sequence[MicroBatch]) -> int:
    return max(1, AT_ONCE // blocks[0][0].shape[1])
