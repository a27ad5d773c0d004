"""A task, and the course of its training: from where it is to where it stops, its evaluations, and how it is judged.

A `Task` supplies data, model, loss and metrics; here trainers are built of them, the same way for every task. A
`Course` tells the same whether it is run in one go or in parts: evaluations that change anything lie at fixed steps of
the full training. Knows nothing of checkpoints' places, or of searches.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import nn

from evo_tune.options.bounds import check_integer
from evo_tune.recipe.metrics import measured, tests_of
from evo_tune.recipe.optim.steps import Tail
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.hardware.memory import measured_peak
from evo_tune.training.hardware.throughput import SAFE, TIMED, Throughput, mfu, peak_flops, steps_in
from evo_tune.training.optim.losses import Loss
from evo_tune.training.optim.watching import EarlyStopping
from evo_tune.training.stepping.feeding import Source
from evo_tune.training.stepping.recipe import recipe_of
from evo_tune.training.trainer import Step, Trainer

ENOUGH = 1.5
"""Seconds after which no more steps are timed, once there are three."""


class Run(Protocol):
    """Where a training stands; `evo_tune.Context` is one, and says what each is."""

    device: str
    threads: int
    seed: int
    budget: float
    resume_folder: Path | None
    test: bool
    timing: int

    @property
    def folder(self) -> Path:
        """Folder of this training."""

    def report(self, fraction: float, **metrics: float) -> None:
        """Add a point to the learning curve."""


class Plan(Protocol):
    """What an evaluator says of a training, without torch: options, numbers, and what its checkpoints belong to."""

    @property
    def options(self) -> Any:
        """How it is trained: `evo_tune.recipe.Training`, and what the task needs."""

    @property
    def genome(self) -> Mapping[str, Any]:
        """What sets it apart from others, plain data."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to, plain data: its data by a hash of what is in it."""

    @property
    def save(self) -> bool:
        """Whether a full training leaves a checkpoint too."""

    @property
    def narrow(self) -> bool:
        """Whether its products are too small for a CPU to gain from computing them in less than float32."""

    @property
    def lr(self) -> float:
        """Peak learning rate, at the reference batch."""

    @property
    def batch(self) -> int:
        """Size of a step."""

    @property
    def reference(self) -> int:
        """Batch for which learning rates are meant (see `scale_lr`)."""

    @property
    def weight_decay(self) -> float:
        """λ at its beginning."""

    @property
    def warmup(self) -> float:
        """Share of the steps for warm-up."""

    def in_precision(self, precision: Any) -> Any:
        """Return the same plan with a precision, by name."""


class Phase(Protocol):
    """A part of a training in which the model's shape stays the same."""

    @property
    def windows(self) -> int:
        """Windows or samples that are trained on, repetitions counted."""

    @property
    def per_step(self) -> int:
        """Of these, in one step."""

    @property
    def end(self) -> int:
        """The step after its last."""


class Whole(NamedTuple):
    """The phase of a training that has only one (see `Phase`)."""

    windows: int
    per_step: int
    end: int


class Fitting(NamedTuple):
    """How a step fits the device.

    Args:
        micro_batch: Windows or samples in one pass.
        recompute: What is computed again in the backward pass, where that is not the option's (see `GPT`).
    """

    micro_batch: int
    recompute: int | None = None


class Task(ABC):
    """A training's data, model, loss and metrics, on a device.

    Args:
        plan: What an evaluator says of it.
        run: Where it stands: device, seed.
        ranks: The processes that train it together.
    """

    group: ClassVar[str]
    """Whose rows of `metrics.METRICS` are told."""

    def __init__(self, plan: Any, run: Run, ranks: Ranks | None = None) -> None:
        self.plan, self.run, self.ranks = plan, run, ranks
        self.phases: Sequence[Any] = ()
        """The phases of the full training, once they are settled."""
        self.testing = False
        """Whether the test set stands in the place of what is held out."""
        self._passes: dict[Any, Fitting] = {}

    # What a task supplies.

    @property
    def loss(self) -> Loss | None:
        """What is minimised; None: the cross-entropy of logits."""
        return None

    @property
    def ceiling(self) -> float | None:
        """Loss above which the training counts as diverged after warm-up; None: no ceiling."""
        return None

    @abstractmethod
    def planned(self) -> Sequence[Any] | None:
        """Return the phases of the full training; None: only a clock can tell how long it is."""

    @abstractmethod
    def phase(self, windows: int) -> Any:
        """Return the only phase of a training on so many windows or samples."""

    @abstractmethod
    def model(self, phase: Any) -> nn.Module:
        """Return the model at step 0, on the device."""

    @abstractmethod
    def source(self, phase: Any, micro_batch: int) -> Source:
        """Return the batches of a phase."""

    @abstractmethod
    def fit(self, phase: Any, model: nn.Module | None) -> Fitting:
        """Return how a phase's steps fit the device; the model is that of a phase that is about to begin."""

    @abstractmethod
    def predicted_peak(self, trainer: Trainer, largest: int) -> float:
        """Return the memory that a training with so many windows or samples in a pass is predicted to take, bytes."""

    @abstractmethod
    def on_the_way(self, trainer: Trainer) -> Mapping[str, float]:
        """Return a point of the learning curve: `val_loss`, by which decisions are made, and what else it tells."""

    @abstractmethod
    def seen_loss(self, trainer: Trainer) -> float:
        """Return the loss on what is trained on."""

    @abstractmethod
    def judged(self, course: Course, resumed: int | None) -> Judged:
        """Judge the model as it is: what the rows of the group look at."""

    # What only a task of several phases has.

    def share(self, step: int) -> float:
        """Return the share of the full training's arithmetic that lies before a step."""
        return step / self.ends[-1]

    def largest_step(self, trainer: Trainer) -> int:
        """Return the number of a step with as many windows or samples as any in the phase."""
        del trainer
        return 0

    def further(self, trainer: Trainer) -> Trainer:
        """Return the trainer of the next phase, from one that has ended its own."""
        raise AssertionError(f"{type(self).__name__} is trained in one phase")

    # What follows.

    @property
    def ends(self) -> Sequence[int]:
        """The step after the last one of each phase; the last is the end of the full training."""
        return [phase.end for phase in self.phases]

    @property
    def processes(self) -> int:
        """Processes that share a step."""
        return 1 if self.ranks is None else self.ranks.size

    def tested(self) -> Task:
        """Return the same task, judged by its test set in place of what is held out for validation."""
        made = copy.copy(self)
        made.testing = True
        return made

    def passes(self, phase: Any, model: nn.Module | None = None) -> Fitting:
        """Return how a phase's steps fit the device, which is looked at once."""
        if phase not in self._passes:
            self._passes[phase] = self.fit(phase, model)
        return self._passes[phase]

    def trainer(
        self,
        phase: Any,
        steps: int,
        *,
        lr: float | None = None,
        passes: Fitting | None = None,
        ranks: Ranks | None = None,
    ) -> Trainer:
        """Return a trainer of a phase at step 0, its schedules laid over all `steps`.

        Args:
            phase: Which one.
            steps: Of the full training.
            lr: Peak learning rate; None: the plan's.
            passes: How its steps fit the device; None: as it is found out.
            ranks: The processes that train it together.
        """
        plan, options, run = self.plan, self.plan.options, self.run
        model = self.model(phase)
        passes = passes or self.passes(phase, model)
        if passes.recompute is not None:
            model.recompute = passes.recompute  # type: ignore[assignment]
        recipe = recipe_of(
            options,
            steps,
            lr=plan.lr if lr is None else lr,
            batch=plan.batch,
            reference=plan.reference,
            weight_decay=plan.weight_decay,
            warmup=plan.warmup,
            ceiling=self.ceiling,
        )
        source, compiled = self.source(phase, passes.micro_batch), options.compile
        return Trainer(
            model, source, recipe, loss=self.loss, seed=run.seed, device=run.device, ranks=ranks, compiled=compiled
        )

    def course(self, saved: Mapping[str, Any]) -> Course:
        """Return the training at step 0, or where a checkpoint ends.

        Args:
            saved: What was saved of it; empty: nothing.

        Raises:
            UsageError: The model cannot be trained so, or the data cannot be used.
        """
        options, planned = self.plan.options, self.planned()
        # A clock was asked once, and its answer stands.
        self.phases = [self.phase(saved["windows"] if saved else self._by_clock())] if planned is None else planned
        step = saved["trainer"]["step"] if saved else 0
        phase = next((phase for phase in self.phases if step <= phase.end), self.phases[-1])
        course = Course(
            self.trainer(phase, self.phases[-1].end, ranks=self.ranks),
            self,
            evaluations=options.evaluations,
            stopping=EarlyStopping.of(options),
            report=lambda share, point, decayed: self.run.report(share, decayed=decayed, **point),
        )
        if saved:
            course.restore(saved)
        return course

    def _by_clock(self) -> int:
        """Return how many windows or samples a budget in seconds is worth, by steps that are thrown away."""
        per_step: int = self.phase(1).per_step
        trial = self.phase(per_step * TIMED)
        return per_step * steps_in(self.plan.options.seconds, self.trainer(trial, trial.end, lr=SAFE))


class Course:
    """A training of a model along its phases.

    Args:
        trainer: In the phase that its step lies in.
        task: What it trains and is judged by; its phases are settled.
        evaluations: Evaluations along the full training.
        stopping: Ends it early, and then keeps the best weights; None: nothing does.
        report: Called after each evaluation with the share of the full training, the point of the curve, and whether
            the final fall of the learning rate has begun.

    Raises:
        RecipeError: evaluations is not a whole number from 1.
    """

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        *,
        evaluations: int = 4,
        stopping: EarlyStopping | None = None,
        report: Callable[[float, Mapping[str, float], bool], None] = lambda share, point, decayed: None,
    ) -> None:
        check_integer("evaluations", evaluations, 1)
        self.trainer, self.task = trainer, task
        self.stopping, self.report = stopping, report
        self.steps = task.ends[-1]
        self.marks = {-(-self.steps * point // evaluations) for point in range(1, evaluations + 1)}
        self._targets, self._seconds = 0, 0.0
        self._watch, self._peak = Throughput(), 0.0

    @property
    def model(self) -> nn.Module:
        """The model as it is now."""
        return self.trainer.model

    @property
    def stopped(self) -> bool:
        """Whether it has stopped early."""
        return self.stopping is not None and self.stopping.waited >= self.stopping.patience

    def run(self, stop: int) -> None:
        """Train up to step `stop`, not included, or less far where it stops early.

        Raises:
            Diverged: See `Trainer.run`.
        """
        self._measured(lambda: self._run(stop))

    def _run(self, stop: int) -> None:
        start = self.trainer.step
        for mark in sorted({mark for mark in self.marks if start < mark < stop} | {max(start, stop)}):
            if self.stopped:
                return
            self._train(mark)
            point = self.task.on_the_way(self.trainer)
            # A stop between two marks is the end of a part: what the whole would not see there, this must not.
            if mark in self.marks and mark > start:
                self._take_note(point["val_loss"])
            self._tell(point)

    def decay(self, stop: int) -> None:
        """Come down to step `stop`, to be judged there: what follows from here on is not the training's any more.

        Raises:
            Diverged: See `Trainer.run`.
        """
        schedule = Tail.of(self.trainer.recipe.schedule, self.trainer.step, stop)
        self.trainer.recipe = replace(self.trainer.recipe, schedule=schedule)

        def decay() -> None:
            self._train(stop)
            point = self.task.on_the_way(self.trainer)
            if self.stopping is not None:
                self.stopping.update(point["val_loss"], self.model)
            self._tell(point)

        self._measured(decay)

    def _measured(self, work: Callable[[], None]) -> None:
        """Do a part of the training, and take note of the most memory that was held meanwhile."""
        self._peak = max(self._peak, measured_peak(self.trainer.device, work) or 0.0)

    def _train(self, step: int) -> None:
        """Train up to a step, through the ends of phases."""
        before, first = time.perf_counter(), self.trainer.targets
        self._watch.start()
        for end in self.task.ends[:-1]:
            if self.trainer.step <= end < step:
                self.trainer.run(end, self._on_step)
                self.trainer = self.task.further(self.trainer)
        self.trainer.run(step, self._on_step)
        self._seconds += time.perf_counter() - before
        self._targets += self.trainer.targets - first

    def _on_step(self, step: Step) -> None:
        self._watch(step.targets)

    def _tell(self, point: Mapping[str, float]) -> None:
        step = self.trainer.step
        self.report(step / self.steps, point, self.trainer.recipe.schedule.decayed(step))

    def _take_note(self, loss: float) -> None:
        if self.trainer.gap is not None:
            self.trainer.evaluated(self.task.seen_loss(self.trainer), loss)
        if self.stopping is not None:
            self.stopping.update(loss, self.model)

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
        last = self.task.ends[0]
        first = self.trainer.step + max(0, min(warm, last - self.trainer.step - 1))
        stop = min(first + steps, last)
        self.trainer.run(first)
        done = [time.perf_counter()]
        while self.trainer.step < stop and (done[-1] - done[0] < ENOUGH or len(done) < 4):
            self.trainer.run(self.trainer.step + 1)
            done.append(time.perf_counter())
        stop = self.trainer.step
        # The median, since on a machine that has other work to do as well the mean is of a few steps that were kept.
        share = self.task.share(stop) - self.task.share(first)
        stepping = median(b - a for a, b in pairwise(done)) * (stop - first) / share
        done = [time.perf_counter()]
        self.task.on_the_way(self.trainer)
        done.append(time.perf_counter())
        measured(self.task.judged(self, None), self.task.group)
        done.append(time.perf_counter())
        judging = len(self.marks) * (done[1] - done[0]) + done[2] - done[1]
        return {"seconds": stepping + judging, "judging": judging}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        stopping = self.stopping and self.stopping.state()
        return {"windows": self.task.phases[0].windows, "trainer": self.trainer.state(), "stopping": stopping}

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
            The metrics of its task's group (see `metrics.METRICS`).
        """
        if self.stopping is not None:
            self.stopping.restore_best(self.model)
        group = self.task.group
        found = measured(self.task.judged(self, resumed), group)
        if test:
            other = measured(self.task.tested().judged(self, resumed), group)
            found |= {name: other[shown] for shown, name in tests_of(group).items()}
        return found

    @property
    def speed(self) -> float:
        """Targets a second (tokens, samples), the median over steps."""
        return self._watch.tokens_per_second or self._targets / max(self._seconds, 1e-9)

    @property
    def peak_memory(self) -> float:
        """Bytes: measured on a GPU, predicted on a CPU."""
        return self._peak or self.task.predicted_peak(self.trainer, self.largest_pass)

    @property
    def largest_pass(self) -> int:
        """Most windows or samples in one pass of this process."""
        trainer = self.trainer
        window = trainer.source.window(self.task.largest_step(trainer))
        mine = window if trainer.ranks is None else trainer.ranks.share(window)
        largest = max((len(inputs) for inputs, _ in mine), default=1)
        return -(-largest // trainer.parts)


class Judged:
    """A course that is over: what the rows of `metrics.METRICS` look at. Each kind of task adds what is its own.

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
