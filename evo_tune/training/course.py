"""A training from where it is to where it stops: its phases, its evaluations on the way, and how it is judged.

What is told of it is the same whether it was done in one go or in parts: evaluations that change anything lie at
fixed steps of the full training. What is trained, and what its losses and scores mean, is the business of its
`Subject`. Knows nothing of where data, budgets or checkpoints come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from evo_tune.options.bounds import check_integer
from evo_tune.recipe.metrics import measured, tests_of
from evo_tune.recipe.optim.steps import Tail
from evo_tune.training.hardware.memory import measured_peak
from evo_tune.training.hardware.throughput import Throughput, mfu, peak_flops
from evo_tune.training.optim.watching import EarlyStopping
from evo_tune.training.trainer import Step, Trainer

__all__ = ["Course", "Judged", "Stretch", "Subject"]

ENOUGH = 1.5
"""Seconds after which no more steps are timed, once there are three."""


class Subject(Protocol):
    """What a course trains and is judged by: a text, samples with classes, a base to be tuned."""

    group: str
    """Whose rows of `metrics.METRICS` are told."""

    @property
    def ends(self) -> Sequence[int]:
        """The step after the last one of each phase; the last is the end of the full training."""

    def share(self, step: int) -> float:
        """Return the share of the full training's arithmetic that lies before a step."""

    def further(self, trainer: Trainer) -> Trainer:
        """Return the trainer of the next phase, from one that has ended its own."""

    def on_the_way(self, trainer: Trainer) -> Mapping[str, float]:
        """Return a point of the learning curve: `val_loss`, by which decisions are made, and what else it tells."""

    def seen_loss(self, trainer: Trainer) -> float:
        """Return the loss on what is trained on."""

    def judged(self, course: Course, resumed: int | None) -> Judged:
        """Judge the model as it is: what the rows of the group look at."""

    def tested(self) -> Subject:
        """Return the same one, judged by its test set in place of what is held out for validation."""

    def largest_step(self, trainer: Trainer) -> int:
        """Return the number of a step with as many samples as any in the phase."""

    def predicted_peak(self, trainer: Trainer, largest: int) -> float:
        """Return the memory that the training is predicted to take with so many samples in a pass, bytes."""

    def kept(self) -> dict[str, Any]:
        """Return plain data that a checkpoint must keep so that the same course can be made again."""


class Stretch(NamedTuple):
    """What a course wants next: its trainer, as it is then, is to be trained.

    Args:
        until: The step, not included.
        on_step: To be called after each step.
    """

    until: int
    on_step: Callable[[Step], None]


class Course:
    """A training of a model along its phases.

    Args:
        trainer: In the phase that its step lies in.
        subject: What it trains and is judged by.
        evaluations: Evaluations along the full training.
        stopping: Ends it early, and then keeps the best weights; None: nothing does.
        report: Called after each evaluation with the share of the full training, the point of the curve, and whether
            the learning rate's final fall has begun.

    Raises:
        RecipeError: evaluations is not a whole number from 1.
    """

    def __init__(
        self,
        trainer: Trainer,
        subject: Subject,
        *,
        evaluations: int = 4,
        stopping: EarlyStopping | None = None,
        report: Callable[[float, Mapping[str, float], bool], None] = lambda fraction, point, decayed: None,
    ) -> None:
        check_integer("evaluations", evaluations, 1)
        self.trainer, self.subject = trainer, subject
        self.stopping, self.report = stopping, report
        self.steps = subject.ends[-1]
        self.marks = {-(-self.steps * point // evaluations) for point in range(1, evaluations + 1)}
        self.abreast = 1
        """Trainings that take their steps with this one, whose time they share."""
        self._targets, self._seconds = 0, 0.0
        self._watch, self._peak = Throughput(), 0.0

    @property
    def model(self) -> nn.Module:
        """The model as it is now."""
        return self.trainer.model

    def run(self, stop: int) -> None:
        """Train up to step `stop`, not included, or less far where it stops early.

        Raises:
            Diverged: See `Trainer.run`.
        """
        self._do(self.running(stop))

    def _do(self, stretches: Iterator[Stretch]) -> None:
        def do() -> None:
            for stretch in stretches:
                self.trainer.run(*stretch)

        self.saw(measured_peak(self.trainer.device, do))

    def saw(self, peak: float | None) -> None:
        """Take note of the most memory that was held meanwhile, bytes; None: it cannot be measured."""
        self._peak = max(self._peak, peak or 0.0)

    def running(self, stop: int) -> Iterator[Stretch]:
        """Do as `run`, for whoever trains the stretches himself."""
        start = self.trainer.step
        for mark in sorted({mark for mark in self.marks if start < mark < stop} | {max(start, stop)}):
            if self.stopped:
                return
            yield from self._trained(mark)
            point = self.subject.on_the_way(self.trainer)
            # A stop between two marks is the end of a part: what the whole would not see there, this must not.
            if mark in self.marks and mark > start:
                self._take_note(point["val_loss"])
            self._tell(point)

    def _tell(self, point: Mapping[str, float]) -> None:
        step = self.trainer.step
        self.report(step / self.steps, point, self.trainer.recipe.schedule.decayed(step))

    @property
    def stopped(self) -> bool:
        """Whether it has stopped early."""
        return self.stopping is not None and self.stopping.waited >= self.stopping.patience

    def decay(self, stop: int) -> None:
        """Come down to step `stop`, to be judged there: what follows from here on is not the training's any more.

        Raises:
            Diverged: See `Trainer.run`.
        """
        self._do(self.decaying(stop))

    def decaying(self, stop: int) -> Iterator[Stretch]:
        """Do as `decay`, for whoever trains the stretches himself."""
        schedule = Tail.of(self.trainer.recipe.schedule, self.trainer.step, stop)
        self.trainer.recipe = replace(self.trainer.recipe, schedule=schedule)
        yield from self._trained(stop)
        point = self.subject.on_the_way(self.trainer)
        if self.stopping is not None:
            self.stopping.update(point["val_loss"], self.model)
        self._tell(point)

    def _trained(self, step: int) -> Iterator[Stretch]:
        before, first = time.perf_counter(), self.trainer.targets
        self._watch.start()
        for end in self.subject.ends[:-1]:
            if self.trainer.step <= end < step:
                yield Stretch(end, self._on_step)
                self.trainer = self.subject.further(self.trainer)
        yield Stretch(step, self._on_step)
        self._seconds += (time.perf_counter() - before) / self.abreast
        self._targets += self.trainer.targets - first

    def _on_step(self, step: Step) -> None:
        self._watch(step.targets * self.abreast)

    def timed(self, steps: int, warm: int = 2) -> dict[str, float]:
        """Time a few steps from where it stands, and each kind of judging once; what the full training will take.

        Args:
            steps: To be timed; fewer where the phase is shorter, or they are slow.
            warm: Steps before them, which are slower than all others.

        Returns:
            'seconds' from here to the end, and 'judging', the part of them that no budget makes longer.

        Raises:
            Diverged: See `Trainer.run`.
        """
        last = self.subject.ends[0]
        first = self.trainer.step + max(0, min(warm, last - self.trainer.step - 1))
        stop = min(first + steps, last)
        self.trainer.run(first)
        done = [time.perf_counter()]
        while self.trainer.step < stop and (done[-1] - done[0] < ENOUGH or len(done) < 4):
            self.trainer.run(self.trainer.step + 1)
            done.append(time.perf_counter())
        stop = self.trainer.step
        # The median, since on a machine that has other work to do as well the mean is of a few steps that were kept.
        share = self.subject.share(stop) - self.subject.share(first)
        stepping = median(b - a for a, b in pairwise(done)) * (stop - first) / share
        done = [time.perf_counter()]
        self.subject.on_the_way(self.trainer)
        done.append(time.perf_counter())
        measured(self.subject.judged(self, None), self.subject.group)
        done.append(time.perf_counter())
        judging = len(self.marks) * (done[1] - done[0]) + done[2] - done[1]
        return {"seconds": stepping + judging, "judging": judging}

    def _take_note(self, loss: float) -> None:
        if self.trainer.gap is not None:
            self.trainer.evaluated(self.subject.seen_loss(self.trainer), loss)
        if self.stopping is not None:
            self.stopping.update(loss, self.model)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        stopping = self.stopping and self.stopping.state()
        return {**self.subject.kept(), "trainer": self.trainer.state(), "stopping": stopping}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            RecipeError: It belongs to another training.
        """
        self.trainer.restore(state["trainer"])
        if self.stopping is not None:
            self.stopping.restore(state["stopping"])

    def metrics(self, resumed: int | None = None, test: bool = False) -> dict[str, float]:
        """Judge the model, with its best weights if it could stop early; save its state before.

        Args:
            resumed: Step of the checkpoint that it went on from; None: it was to go on from none.
            test: Whether it is judged by its test set as well.

        Returns:
            The metrics of its subject's group (see `metrics.METRICS`).
        """
        if self.stopping is not None:
            self.stopping.restore_best(self.model)
        found, group = measured(self.subject.judged(self, resumed), self.subject.group), self.subject.group
        if test:
            other = measured(self.subject.tested().judged(self, resumed), group)
            found |= {name: other[shown] for shown, name in tests_of(group).items()}
        return found

    @property
    def speed(self) -> float:
        """Targets a second (tokens, samples), the median over steps."""
        return self._watch.tokens_per_second or self._targets / max(self._seconds, 1e-9)

    @property
    def peak_memory(self) -> float:
        """Bytes: measured on a GPU, predicted on a CPU."""
        return self._peak or self.subject.predicted_peak(self.trainer, self.largest_pass)

    @property
    def largest_pass(self) -> int:
        """Most samples in one pass of this process."""
        trainer = self.trainer
        window = trainer.source.window(self.subject.largest_step(trainer))
        mine = window if trainer.ranks is None else trainer.ranks.share(window)
        largest = max((len(inputs) for inputs, _ in mine), default=1)
        return -(-largest // trainer.parts)


class Judged:
    """A course that is over: what the rows of `metrics.METRICS` look at. Each kind of subject adds what is its own.

    Args:
        course: It, its model as it is to be judged.
        resumed: Step of the checkpoint that it went on from; None: it was to go on from none.
        flops: FLOPs of the training.
        flops_per_target: FLOPs of training on one target (a token, a sample), as it went in the end.
    """

    def __init__(self, course: Course, resumed: int | None, *, flops: float, flops_per_target: float) -> None:
        self.course, self.trainer, self.resumed = course, course.trainer, resumed
        self.flops, self.flops_per_target = flops, flops_per_target
        self.speed, self.peak_memory = course.speed, course.peak_memory
        self.micro_batch = float(course.largest_pass)

    def loss_of(self, model: nn.Module) -> float:
        """Return the loss of a model on what is held out."""
        raise NotImplementedError

    @property
    def ema_loss(self) -> float | None:
        """Loss of the moving average of the weights."""
        return None if self.trainer.averaged is None else self.loss_of(self.trainer.averaged.module)

    @property
    def mfu(self) -> float | None:
        """Share of the device's peak that was made use of."""
        trainer = self.trainer
        if trainer.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(trainer.device), trainer.recipe.precision.name)
        devices = 1 if trainer.ranks is None else trainer.ranks.size
        return mfu(self.flops_per_target, self.speed, peak, devices=devices)
