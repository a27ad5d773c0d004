"""Tasks and their training runs: phases, evaluations on the way, early stopping, and the final metrics.

A `Task` supplies data, model, loss and metrics; trainers are built of them the same way for every task. A `TrainingRun`
is one training. It reports the same whether it runs in one go or in parts, because evaluations with an effect are at
fixed steps of the full training. This module knows nothing of checkpoint folders or searches.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from evo_tune.plugins.context import DETERMINISM, NOT_DETERMINISTIC, Context
from evo_tune.training.hardware.device import (
    Throughput,
    be_deterministic,
    clock_for,
    measure_peak_memory,
    mfu,
    nondeterministic_operators,
    peak_flops,
    process_memory,
)
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.optim.losses import Loss
from evo_tune.training.optim.watching import EarlyStopping
from evo_tune.training.recipe.hardware.memory import Memory, largest_pass
from evo_tune.training.recipe.metrics import metric_values, names_on_test_set
from evo_tune.training.recipe.optim.schedule import ForkedSchedule
from evo_tune.training.stepping.feeding import Source
from evo_tune.training.stepping.recipe import recipe_of
from evo_tune.training.trainer import Step, Trainer

# Seconds after which no more steps are timed, once there are three, of which the first is not counted.
ENOUGH = 1.5

# Number of times that steps with and without deterministic algorithms are timed, and number of steps each time.
PAIRS, PAIR_STEPS = 6, 2

# Share of the time of a training that ends early in which its learning rate falls: the default `decay_fraction`.
DECAY_TIME = 0.2


class SinglePhase(NamedTuple):
    """The only phase of a training: a part with a constant model shape.

    Args:
        windows: Windows or samples to train on, repetitions counted.
        per_step: Windows or samples in one step.
        end: Step after the last one.
    """

    windows: int
    per_step: int
    end: int


class StepSplit(NamedTuple):
    """Division of a step that fits the device.

    Args:
        micro_batch: Windows or samples in one pass.
        recompute: Blocks to compute again in the backward pass (see `GPT`); None: the model's own setting.
    """

    micro_batch: int
    recompute: int | None = None


class Task(ABC):
    """A training's data, model, loss and metrics, on a device.

    Args:
        plan: The evaluator's description.
        run: Device and seed.
        ranks: Processes that share each step; None: one process.
    """

    # Group of the rows of `metrics.METRICS` to report.
    group: ClassVar[str]

    def __init__(self, plan: Any, run: Context, ranks: Ranks | None = None) -> None:
        self.plan, self.run, self.ranks = plan, run, ranks
        # Phases of the full training, set by `training_run`.
        self.phases: Sequence[Any] = ()
        # Whether the test set takes the place of the held-out data.
        self.testing = False
        self._passes: dict[Any, StepSplit] = {}

    # Supplied by each task.

    @property
    def loss(self) -> Loss | None:
        """Loss to minimise; None: cross-entropy of logits."""
        return None

    @property
    def ceiling(self) -> float | None:
        """Loss above which the training counts as diverged after warm-up; None: no ceiling."""
        return None

    @abstractmethod
    def plan_phases(self) -> Sequence[Any]:
        """Return the phases of the full training."""

    @abstractmethod
    def model(self, phase: Any) -> nn.Module:
        """Return the model at step 0, on the device."""

    @abstractmethod
    def source(self, phase: Any, micro_batch: int) -> Source:
        """Return the batches of a phase."""

    @abstractmethod
    def curve_point(self, trainer: Trainer) -> Mapping[str, float]:
        """Return a point of the learning curve: `val_loss`, which controls early stopping, and further metrics."""

    @abstractmethod
    def training_loss(self, trainer: Trainer) -> float:
        """Return the loss on fixed training data."""

    @abstractmethod
    def result(self, training_run: TrainingRun, resumed: int | None) -> TrainingResult:
        """Return the object that provides the metrics of the rows of the group."""

    # Overridden by some tasks.

    def finish(self, model: nn.Module, trainer: Trainer) -> None:
        """Add to a trained model what an exported one needs besides its weights, measured by a trainer's settings."""
        del model, trainer

    # Units of the option micro_batch in one sample.
    tokens_per_sample: int = 1

    def pass_memory(self, model: nn.Module) -> Callable[[int], Memory] | None:
        """Return the function from the samples of a pass to the predicted memory; None: no formula has it."""
        return None

    def fit(self, phase: Any, model: nn.Module | None) -> StepSplit:
        """Return how a step of a phase fits the device.

        Args:
            phase: The phase.
            model: Its model, if it was built already.
        """
        if self.plan.options.micro_batch != "auto":
            return StepSplit(self.plan.options.pass_size(phase.per_step, self.tokens_per_sample))
        assert model is not None
        memory, per_process = self.pass_memory(model), self.share_of(phase)
        if memory is None:  # the trainer halves a pass that does not fit
            return StepSplit(per_process)
        return StepSplit(largest_pass(memory, per_process, process_memory(self.run.device, self.processes)))

    def predict_peak_memory(self, trainer: Trainer, largest: int) -> float | None:
        """Return the predicted peak memory of a training in bytes; None: no formula has it.

        Args:
            trainer: Its trainer.
            largest: Windows or samples in the largest pass.
        """
        memory = self.pass_memory(trainer.model)
        return None if memory is None else memory(largest).peak

    @property
    def memory_setup(self) -> dict[str, Any]:
        """Fields of `Setup` that determine the memory on this device."""
        options, kind = self.plan.options, torch.device(self.run.device).type
        return {**options.memory_setup, "recompute": options.recompute, "device": "cuda" if kind == "cuda" else "cpu"}

    def share(self, step: int) -> float:
        """Return the share of the full training's FLOPs before a step."""
        return step / self.ends[-1]

    def largest_step(self, trainer: Trainer) -> int:
        """Return the number of a step with the largest batch of the phase."""
        return 0

    def next_trainer(self, trainer: Trainer) -> Trainer:
        """Return the trainer of the next phase, given one at the end of its phase."""
        raise AssertionError(f"{type(self).__name__} is trained in one phase")

    # The same for every task.

    @property
    def ends(self) -> Sequence[int]:
        """Step after the last one of each phase; the last entry is the end of the full training."""
        return [phase.end for phase in self.phases]

    @property
    def processes(self) -> int:
        """Processes that share a step."""
        return 1 if self.ranks is None else self.ranks.size

    def share_of(self, phase: Any) -> int:
        """Return the windows or samples of a step of a phase that one process trains on."""
        per_step: int = phase.per_step
        return -(-per_step // self.processes)

    def on_test_set(self) -> Task:
        """Return the same task, judged by its test set instead of its validation set."""
        task = copy.copy(self)
        task.testing = True
        return task

    def passes(self, phase: Any, model: nn.Module | None = None) -> StepSplit:
        """Return how a step of a phase fits the device; computed once per phase."""
        if phase not in self._passes:
            self._passes[phase] = self.fit(phase, model)
        return self._passes[phase]

    def trainer(self, phase: Any) -> Trainer:
        """Return a trainer of a phase at step 0; its schedules extend over the full training."""
        options, run, model = self.plan.options, self.run, self.model(phase)
        passes = self.passes(phase, model)
        if passes.recompute is not None:
            model.recompute = passes.recompute  # type: ignore[assignment]
        numbers = {name: getattr(self.plan, name) for name in ("lr", "batch", "reference", "weight_decay", "warmup")}
        recipe = recipe_of(options, self.ends[-1], ceiling=self.ceiling, **numbers)
        place: dict[str, Any] = {"seed": run.seed, "device": run.device, "ranks": self.ranks}
        source = self.source(phase, passes.micro_batch)
        return Trainer(model, source, recipe, loss=self.loss, compiled=options.compile, **place)

    def training_run(self, saved: Mapping[str, Any]) -> TrainingRun:
        """Return the training run at step 0, or at the step of a checkpoint.

        Args:
            saved: State of the checkpoint; empty for none.

        Raises:
            UsageError: The options do not fit the model, or the data cannot be used.
        """
        self.phases = self.plan_phases()
        step = saved["trainer"]["step"] if saved else 0
        phase = next((phase for phase in self.phases if step <= phase.end), self.phases[-1])
        training_run = TrainingRun(self.trainer(phase), self)
        if saved:
            training_run.restore(saved)
        return training_run


class TrainingRun:
    """One training run: trains a model through its phases, evaluates it during training and judges it at the end.

    Args:
        trainer: Trainer of the phase that contains its step.
        task: The task; its phases are set.
    """

    def __init__(self, trainer: Trainer, task: Task) -> None:
        self.trainer, self.task, options = trainer, task, task.plan.options
        # Early stopping, which restores the best weights; None: no early stopping.
        self.stopping: EarlyStopping | None = None
        if options.patience is not None:
            settings = {name: getattr(options, name) for name in ("patience", "min_delta")}
            self.stopping = EarlyStopping(**settings)
        # Function called after each evaluation with the share of the full training, the point of the curve, and whether
        # the final decay of the learning rate has begun.
        self.report: Callable[[float, Mapping[str, float], bool], None] = lambda share, point, decayed: task.run.report(
            share, decayed=decayed, **point
        )
        # Function called between two steps, apart from ends of parts; it returns whether it took some time.
        self.between: Callable[[], bool] = lambda: False
        # Function called after each step; once it returns true, the training ends there with an evaluation.
        self.is_late: Callable[[], bool] = lambda: False
        # Steps at which the decay of a partial training began and ends; None before it.
        self.decaying: tuple[int, int] | None = None
        self._until = 0
        self.steps = task.ends[-1]
        self.marks = {-(-self.steps * point // options.evaluations) for point in range(1, options.evaluations + 1)}
        self._targets, self._seconds = 0, 0.0
        self._watch, self._peak = Throughput(), 0.0

    @property
    def model(self) -> nn.Module:
        """Model in its current state."""
        return self.trainer.model

    @property
    def stopped(self) -> bool:
        """Whether the training stopped early."""
        return self.stopping is not None and self.stopping.waited >= self.stopping.patience

    def run(self, stop: int) -> None:
        """Train up to step `stop`, exclusive, or until early stopping.

        Raises:
            Diverged: See `Trainer.run`.
        """
        start = self.trainer.step
        for mark in sorted({mark for mark in self.marks if start < mark < stop} | {max(start, stop)}):
            if self.stopped or self.trainer.step < self._until:
                return
            # Only evaluations at marks may have effects; otherwise a partial training would differ from a full one.
            self._train_and_evaluate(mark, has_effect=mark in self.marks and mark > start)

    def run_in_time(self, stop: int, ends_at: float) -> None:
        """Train up to step `stop`, or as far as there is time: then the learning rate falls over the last steps.

        At least one step is trained, and evaluated.

        Args:
            stop: Step after the last one.
            ends_at: Time by which the last step ends, in seconds of `time.monotonic`.

        Raises:
            Diverged: See `Trainer.run`.
        """
        first, began = self.trainer.step, time.monotonic()

        def is_late() -> bool:
            elapsed, steps = time.monotonic() - began, self.trainer.step - first
            left = ends_at - began - elapsed
            return left <= DECAY_TIME * (ends_at - began) and (stop - self.trainer.step) * elapsed > left * steps

        self.is_late = is_late
        self.run(stop)
        fork = self.trainer.step
        phase_end = next((end for end in self.task.ends if end > fork), stop)
        steps = int((fork - first) * DECAY_TIME / (1.0 - DECAY_TIME))
        self.is_late = lambda: time.monotonic() >= ends_at
        if fork < self._until and steps and not self.stopped and not self.is_late():
            self.decay(min(fork + steps, phase_end, stop))

    def decay(self, stop: int) -> None:
        """Train to step `stop` with a falling learning rate, and evaluate. The training cannot continue afterwards.

        Raises:
            Diverged: See `Trainer.run`.
        """
        if self.decaying is None:  # else it continues from a checkpoint inside the decay
            self._begin_decay(self.trainer.step, stop)
        self._train_and_evaluate(stop, has_effect=True)

    def _train_and_evaluate(self, step: int, has_effect: bool) -> None:
        """Train up to a step, evaluate, and record the peak memory.

        Args:
            step: Step after the last one.
            has_effect: Whether the evaluation may stop the training or change its weight decay.
        """

        def train_and_evaluate() -> None:
            self._train(step)
            trainer, point = self.trainer, self.task.curve_point(self.trainer)
            if has_effect and trainer.gap is not None and self.decaying is None:  # after a decay there is no step
                trainer.gap.update(self.task.training_loss(trainer), point["val_loss"])
            if has_effect and self.stopping is not None:
                self.stopping.update(point["val_loss"], self.model)
            self.report(trainer.step / self.steps, point, trainer.recipe.schedule.decay_has_begun(trainer.step))

        self._peak = max(self._peak, measure_peak_memory(self.trainer.device, train_and_evaluate) or 0.0)

    def _begin_decay(self, fork: int, stop: int) -> None:
        self.decaying = fork, stop
        schedule = ForkedSchedule.of(self.trainer.recipe.schedule, fork, stop)
        self.trainer.recipe = replace(self.trainer.recipe, schedule=schedule)

    def _train(self, step: int) -> None:
        """Train up to a step, switching models at the end of each phase."""
        before, first = time.perf_counter(), self.trainer.targets
        self._until = step
        self._watch.start()
        for end in self.task.ends[:-1]:
            if self.trainer.step <= end < step:
                self.trainer.run(end, self._on_step, self.is_late)
                if self.trainer.step < end:
                    break
                self.trainer = self.task.next_trainer(self.trainer)
        else:
            self.trainer.run(step, self._on_step, self.is_late)
        self._seconds += time.perf_counter() - before
        self._targets += self.trainer.targets - first

    def _on_step(self, step: Step) -> None:
        self._watch(step.targets)
        # At the end of a part an evaluation is due, which a training that continues from here would miss.
        if self.trainer.step < self._until and self.between():
            self._watch.start()

    def time_steps(self, steps: int, warm: int = 2) -> dict[str, float]:
        """Time a few steps and each kind of evaluation, and return the predicted time of the full training.

        Args:
            steps: Number of steps to time; fewer if the phase is shorter or the steps are slow.
            warm: Number of untimed steps before them; fewer if less than two full steps are left.

        Returns:
            'seconds', from the current step to the end; 'judging', the part of them that does not grow with the budget;
            'step', the seconds of a step.

        Raises:
            Diverged: See `Trainer.run`.
        """
        first, now = self.trainer.step, clock_for(self.trainer.device)
        last = min(first + warm + steps, self.task.ends[0])
        times, targets = [now()], list[int]()
        while self.trainer.step < last and (times[-1] - times[0] < ENOUGH or len(targets) < 3):
            self.trainer.run(self.trainer.step + 1, lambda step: targets.append(step.targets))
            times.append(now())
        share = self.task.share(self.trainer.step) - self.task.share(first)
        # Full steps only: the last one of an epoch may be small. On a busy machine a few slow ones dominate a mean.
        times_and_targets = zip(pairwise(times), targets, strict=True)
        full = [end - start for (start, end), count in times_and_targets if count > 0.75 * max(targets)]
        step_seconds = median(full[min(warm, max(0, len(full) - 2)) :])
        stepping = step_seconds * len(targets) / share
        times = [now()]
        self.task.curve_point(self.trainer)
        times.append(now())
        metric_values(self.task.result(self, None), self.task.group)
        times.append(now())
        judging = len(self.marks) * (times[1] - times[0]) + times[2] - times[1]
        return {"seconds": stepping + judging, "judging": judging, "step": step_seconds}

    def time_determinism(self, reserve: int) -> dict[str, float]:
        """Return what deterministic algorithms cost, from an evaluation and a few steps.

        Args:
            reserve: Number of steps of the phase to leave.

        Returns:
            `DETERMINISM`, the share that they add to the time of a step; empty if the phase has too few steps. If
            operators have no deterministic algorithm, `NOT_DETERMINISTIC` with each name instead, and the process is
            left without deterministic algorithms.
        """

        def step_and_evaluate() -> None:
            self.trainer.run(self.trainer.step + 1)
            self.task.curve_point(self.trainer)
            metric_values(self.task.result(self, None), self.task.group)

        last = self.task.ends[0] - reserve
        if self.trainer.step + 1 + 4 * PAIR_STEPS > last:
            return {}
        if operators := nondeterministic_operators(step_and_evaluate):
            be_deterministic(False)
            return {NOT_DETERMINISTIC + name: 1.0 for name in operators}
        now, ratios = clock_for(self.trainer.device), list[float]()
        while len(ratios) < PAIRS and self.trainer.step + 2 * PAIR_STEPS <= last:
            seconds = []
            for deterministic in (False, True):  # in turn, so that both meet the same load
                be_deterministic(deterministic)
                began = now()
                self.trainer.run(self.trainer.step + PAIR_STEPS)
                seconds.append(now() - began)
            ratios.append(seconds[1] / seconds[0])
        # The first steps of each kind choose kernels and allocate.
        return {DETERMINISM: median(ratios[1:]) - 1.0}

    def state(self) -> dict[str, Any]:
        """Return the state to store in a checkpoint."""
        stopping = self.stopping and self.stopping.state()
        return {"decay": self.decaying, "trainer": self.trainer.state(), "stopping": stopping}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state`.

        Raises:
            RecipeError: The state belongs to another training.
        """
        if state.get("decay") is not None:
            self._begin_decay(*state["decay"])
        self.trainer.restore(state["trainer"])
        if self.stopping is not None:
            self.stopping.restore(state["stopping"])

    def metrics(self, resumed: int | None = None, test: bool = False) -> dict[str, float]:
        """Return the final metrics, of the best weights if early stopping is on. Save the state before calling this.

        Args:
            resumed: Step of the checkpoint that the training continued from; None if there was none.
            test: Whether to evaluate on the test set as well.

        Returns:
            Metrics of the task's group (see `metrics.METRICS`).
        """
        if self.stopping is not None:
            self.stopping.restore_best(self.model)
        group = self.task.group
        metrics = metric_values(self.task.result(self, resumed), group)
        if test:
            test_metrics = metric_values(self.task.on_test_set().result(self, resumed), group)
            metrics |= {name: test_metrics[shown] for shown, name in names_on_test_set(group).items()}
        return metrics

    @property
    def speed(self) -> float:
        """Targets (tokens, samples) per second of wall time, the median over steps."""
        return self._watch.tokens_per_second or self._targets / max(self._seconds, 1e-9)

    @property
    def peak_memory(self) -> float | None:
        """Peak memory in bytes: measured on a GPU, predicted on a CPU; None: neither."""
        return self._peak or self.task.predict_peak_memory(self.trainer, self.largest_pass)

    @property
    def largest_pass(self) -> int:
        """Largest number of windows or samples in one pass of this process."""
        trainer = self.trainer
        window = trainer.source.window(self.task.largest_step(trainer))
        mine = window if trainer.ranks is None else trainer.ranks.share(window)
        largest = max((len(inputs) for inputs, _ in mine), default=1)
        return -(-largest // trainer.parts)


class TrainingResult:
    """A finished training run that provides the metrics of `metrics.METRICS`. Each task adds its own attributes.

    Args:
        training_run: Training run with the weights to judge.
        resumed: Step of the checkpoint that the run continued from; None if there was none.
        flops: FLOPs of the training.
        flops_per_target: FLOPs of training on one target (token or sample) in the last phase.
    """

    def __init__(
        self, training_run: TrainingRun, resumed: int | None, *, flops: float, flops_per_target: float
    ) -> None:
        self.training_run, self.trainer, self.resumed = training_run, training_run.trainer, resumed
        self.flops, self.flops_per_target = flops, flops_per_target
        self.speed, self.peak_memory = training_run.speed, training_run.peak_memory
        self.micro_batch = float(training_run.largest_pass)

    def loss_of(self, model: nn.Module) -> float:
        """Return the loss of a model on the held-out data."""
        raise NotImplementedError

    @property
    def ema_loss(self) -> float | None:
        """Loss of the moving average of the weights."""
        return None if self.trainer.averaged is None else self.loss_of(self.trainer.averaged.module)

    @property
    def mfu(self) -> float | None:
        """Share of the device's peak FLOP/s that was used; None if not on a GPU, or if the peak is unknown."""
        trainer = self.trainer
        if trainer.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(trainer.device), trainer.recipe.precision.name)
        devices = 1 if trainer.ranks is None else trainer.ranks.size
        return mfu(self.flops_per_target, self.speed, peak, devices=devices)
