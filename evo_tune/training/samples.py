"""Tasks on samples with targets, evaluated on all held-out samples; export of encoders to folders."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo_tune.plugins.context import Context
from evo_tune.training.data.batches import Epochs, steps_of
from evo_tune.training.evaluation import Errors, Evaluation, Scores, model_outputs, score_logits
from evo_tune.training.hardware.device import MicroBatch, seed_for
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.models.encoder import Encoder
from evo_tune.training.optim.losses import CrossEntropy, Loss, QuantileLoss, SquaredError
from evo_tune.training.recipe.classifying import (
    MOST_FOLLOWED,
    ClassifierTask,
    RegressionTask,
    SampleTask,
    check_single_pass,
)
from evo_tune.training.recipe.data.forecasts import ForecastScores, ForecastWindows, conformal_offsets, unscale_outputs
from evo_tune.training.recipe.forecasting import ForecastTask
from evo_tune.training.recipe.hardware.memory import Memory, encoder_memory
from evo_tune.training.session import train_and_export
from evo_tune.training.trainer import Trainer
from evo_tune.training.training_run import SinglePhase, StepSplit, Task, TrainingResult, TrainingRun


@dataclass(frozen=True)
class Examples:
    """Inputs and targets on the CPU.

    Args:
        training: Training samples, with targets as they are trained on after `SampleTraining.training_targets`.
        held_out: Samples for validation, with targets as they are judged.
        test: The same for the test.
        training_sample: Up to `MOST_FOLLOWED` evenly spaced training samples, the same in every training.
    """

    training: MicroBatch
    held_out: MicroBatch
    test: MicroBatch
    training_sample: MicroBatch


@dataclass(frozen=True)
class PartPredictions:
    """Predictions of a model for the samples of a part, in the form in which several models are averaged.

    Args:
        values: Probabilities of classes, (n, classes), or numbers in the target's unit, (n, 1).
        truth: Class numbers, or true numbers, (n,).
        deviation: Standard deviation of the training targets; None: the targets are classes.
        seconds: Duration of the prediction.
    """

    values: NDArray[np.float64]
    truth: NDArray[Any]
    deviation: float | None = None
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())

    @property
    def losses(self) -> NDArray[np.float64]:
        """Loss of each sample, (n,): the cross-entropy, or the squared error of the standardised target."""
        if self.deviation is not None:
            return np.asarray(((self.values[:, 0] - self.truth) / self.deviation) ** 2)
        return np.asarray(-log_probabilities(self.values[np.arange(len(self.truth)), self.truth]))

    @property
    def scores(self) -> Scores | Errors:
        """Scores of probabilities, or errors of numbers."""
        if self.deviation is None:
            return Scores.of(self.values, self.truth, self.loss)
        return Errors.of(self.values[:, 0], self.truth, self.deviation)


def log_probabilities(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return finite logarithms of probabilities, one of which may be 0."""
    return np.asarray(np.log(np.maximum(shares, np.finfo(np.float64).tiny)))


def spaced_places(count: int) -> Tensor:
    """Return up to `MOST_FOLLOWED` evenly spaced places among `count` samples, int64."""
    # In float64: float32 would round the places of more than 16 million samples.
    return torch.linspace(0, count - 1, min(MOST_FOLLOWED, count), dtype=torch.float64).long()


class SampleTraining(Task):
    """Train on samples whose targets are real numbers."""

    group = "samples"
    plan: SampleTask
    # Number of classes, set when a model is built; None: targets are not classes.
    classes: int | None = None
    # Scores in the points of the curve, in addition to the loss.
    curve_metrics: tuple[str, ...] = ()

    @cached_property
    def examples(self) -> Examples:
        """Samples of each part."""
        training, held_out, test = self.plan.parts
        spaced = training[spaced_places(len(training)).numpy()]
        return Examples(*(self.samples(rows) for rows in (training, held_out, test, spaced)))

    def samples(self, rows: NDArray[np.int64]) -> MicroBatch:
        """Return inputs and targets of some samples, as they are judged."""
        places = torch.from_numpy(rows)
        inputs, targets = torch.from_numpy(self.plan.inputs), torch.from_numpy(self.plan.targets)
        return inputs[places], self.exact_targets(targets[places])

    def exact_targets(self, targets: Tensor) -> Tensor:
        """Return targets as they are judged."""
        return targets.float() if targets.is_floating_point() else targets.long()

    def training_targets(self, targets: Tensor) -> Tensor:
        """Return judged targets as they are trained on."""
        return targets

    @cached_property
    def loss(self) -> Loss:
        return SquaredError()

    @cached_property
    def target_counts(self) -> Tensor | None:
        """Counted targets of each training sample; None: all count."""
        return None

    def plan_phases(self) -> Sequence[SinglePhase]:
        plan, rows = self.plan, len(self.examples.training[0])
        samples = plan.options.samples(rows, plan.flops_per_sample, plan.batch, plan.work)
        return [SinglePhase(samples, plan.batch, steps_of(samples, rows, plan.batch))]

    def model(self, phase: SinglePhase) -> nn.Module:
        model: nn.Module = self.plan.build(seed_for(self.run.seed, "weights"))
        if isinstance(model, Encoder):
            model.standardise(self.examples.training[0])
            model.recompute = self.plan.options.recompute
        return model.to(self.run.device)

    def source(self, phase: SinglePhase, micro_batch: int) -> Epochs:
        inputs, targets = self.examples.training
        return Epochs(
            inputs,
            self.training_targets(targets),
            classes=self.classes,
            batch=phase.per_step,
            total=phase.windows,
            seed=self.run.seed,
            label_smoothing=float(self.plan.genome.get("label_smoothing", 0.0)),
            mixup=float(self.plan.genome.get("mixup", 0.0)),
            augment=self.plan.augment,
            micro_batch=micro_batch,
            target_counts=self.target_counts,
        )

    def fit(self, phase: SinglePhase, model: nn.Module | None) -> StepSplit:
        if self.plan.whole:  # batch norm statistics are per pass, so one pass must be the whole step
            return StepSplit(phase.per_step)
        return super().fit(phase, model)

    def pass_memory(self, model: nn.Module) -> Callable[[int], Memory] | None:
        return partial(encoder_memory, model.config, **self.memory_setup) if isinstance(model, Encoder) else None

    # Judging.

    def score(self, outputs: Tensor, targets: Tensor) -> Evaluation | Scores | Errors:
        """Return the scores of a model's outputs, (n, outputs), float32."""
        return Evaluation(float(self.loss.sum_losses(outputs.double(), targets)), self.loss.count(targets))

    def predictions(self, outputs: Tensor, targets: Tensor, seconds: float = 0.0) -> PartPredictions:
        """Return the predictions that a model's outputs, (n, outputs), float32, stand for, with the truth."""
        raise AssertionError(f"the models of {type(self).__name__} form no ensembles")

    def finish(self, model: nn.Module, trainer: Trainer) -> None:
        if model is trainer.model and self.run.predictions is not None:  # not the moving average of its weights
            for part in ("held_out", "test"):
                began, (inputs, targets) = time.perf_counter(), getattr(self.examples, part)
                outputs = model_outputs(model, (inputs, targets), **trainer.evaluation)
                self.run.predictions[part] = self.predictions(outputs, targets, time.perf_counter() - began)

    @property
    def held_out(self) -> MicroBatch:
        """Inputs and targets for evaluation."""
        return self.examples.test if self.testing else self.examples.held_out

    def evaluate(
        self, trainer: Trainer, samples: MicroBatch, model: nn.Module | None = None
    ) -> Evaluation | Scores | Errors | ForecastScores:
        """Evaluate the trainer's model, or another, on samples."""
        outputs = model_outputs(trainer.model if model is None else model, samples, **trainer.evaluation)
        return self.score(outputs, samples[1])

    def curve_point(self, trainer: Trainer) -> Mapping[str, float]:
        (inputs, targets), places = self.held_out, spaced_places(len(self.held_out[1]))
        scores = self.evaluate(trainer, (inputs[places], targets[places]))
        return {"val_loss": scores.loss, **{name: getattr(scores, name) for name in self.curve_metrics}}

    def training_loss(self, trainer: Trainer) -> float:
        return self.evaluate(trainer, self.examples.training_sample).loss

    def result(self, training_run: TrainingRun, resumed: int | None) -> "SampleResult":
        return SampleResult(self, training_run, resumed)


class ClassifierTraining(SampleTraining):
    """Train a classifier; also report accuracy and AUC.

    Raises:
        OptionError: A batch norm does not allow these ranks or this micro-batch.
    """

    group = "classes"
    plan: ClassifierTask
    curve_metrics = ("accuracy",)

    def __init__(self, plan: ClassifierTask, run: Context, ranks: Ranks | None = None) -> None:
        if plan.whole:
            check_single_pass(plan.options, plan.batch, ranks_on_cpu=torch.device(run.device).type == "cpu")
        super().__init__(plan, run, ranks)

    @cached_property
    def loss(self) -> Loss:
        assert self.classes is not None
        smoothing = float(self.plan.genome.get("label_smoothing", 0.0))
        return CrossEntropy(self.plan.class_weights(self.classes), smoothing)

    @property
    def ceiling(self) -> float:
        assert self.classes is not None
        return 1.5 * math.log(self.classes)

    def model(self, phase: SinglePhase) -> Encoder:
        model = cast(Encoder, super().model(phase))
        self.classes = model.config.outputs
        return model

    def score(self, outputs: Tensor, targets: Tensor) -> Scores:
        return score_logits(outputs, targets)

    def predictions(self, outputs: Tensor, targets: Tensor, seconds: float = 0.0) -> PartPredictions:
        return PartPredictions(outputs.double().softmax(-1).numpy(), targets.numpy(), seconds=seconds)


class RegressionTraining(SampleTraining):
    """Predict real numbers; also report errors in their own unit."""

    group = "regression"
    plan: RegressionTask
    curve_metrics = ("rmse",)

    def exact_targets(self, targets: Tensor) -> Tensor:
        return targets.double()  # in their own unit, and float32 would round what is reported

    def training_targets(self, targets: Tensor) -> Tensor:
        mean, deviation = self.plan.scale
        return ((targets - mean) / deviation).float()

    def score(self, outputs: Tensor, targets: Tensor) -> Errors:
        predicted = self.predictions(outputs, targets)
        return Errors.of(predicted.values[:, 0], predicted.truth, self.plan.scale[1])

    def predictions(self, outputs: Tensor, targets: Tensor, seconds: float = 0.0) -> PartPredictions:
        mean, deviation = self.plan.scale
        values = mean + deviation * outputs.double().numpy()
        return PartPredictions(values, targets[:, 0].numpy(), deviation, seconds)


class SampleResult(TrainingResult):
    """A finished training on samples.

    Args:
        task: Task with the data and the loss.
        training_run: See `TrainingResult`.
        resumed: See `TrainingResult`.
    """

    def __init__(self, task: SampleTraining, training_run: TrainingRun, resumed: int | None) -> None:
        self.task, trainer = task, training_run.trainer
        self.samples = cast(Epochs, trainer.source).samples_before(trainer.step)
        flops_per_sample = task.plan.flops_per_sample
        super().__init__(
            training_run, resumed, flops=self.samples * flops_per_sample, flops_per_target=flops_per_sample
        )
        self.speed *= self.samples / max(1, trainer.targets)
        self.scores = task.evaluate(trainer, task.held_out)
        self.training_scores = task.evaluate(trainer, task.examples.training_sample)
        self.parameters = sum(weight.numel() for weight in trainer.model.parameters())
        self.epochs = self.samples / len(task.examples.training[0])

    def loss_of(self, model: nn.Module) -> float:
        return self.task.evaluate(self.trainer, self.task.held_out, model).loss


def export_encoder(
    task: SampleTask, run: Context, folder: Path | str, kind: type[SampleTraining] = ClassifierTraining
) -> dict[str, float]:
    """Train an encoder in one process, write weights and config.json to a folder, and return its metrics.

    Args:
        task: Training to run.
        run: Device, seed, budget and folders.
        folder: Folder to write; created if missing. Its `averaged` has the moving average of the weights, if any.
        kind: Class of the task.
    """
    parts = zip(("training", "held_out", "test"), task.parts, strict=True)
    notes: dict[str, Any] = {"rows": {name: len(rows) for name, rows in parts}}
    if task.inputs.ndim == 4:  # images: their values say which files and arrays are alike
        low, high = float(task.inputs.min()), float(task.inputs.max())
        notes["inputs"] = {"dtype": str(task.inputs.dtype), "low": low, "high": high}
    return train_and_export(task, run, kind, folder, **notes)


class Slices:
    """Rows of overlapping values, (n, last − first), made when they are asked for: all at once, they take much memory.

    It has the part of a tensor's interface that `Epochs` uses.

    Args:
        values: Values of all series.
        start: (n,), place that the row counts from.
        lowest: (n,), place before which the value there is repeated.
        first: First place of the row, counted from `start`.
        last: Place after its last.
    """

    def __init__(self, values: Tensor, start: Tensor, lowest: Tensor, first: int, last: int) -> None:
        self.values, self.start, self.lowest, self.first, self.last = values, start, lowest, first, last
        self.shape, self.dtype, self.device = (len(start), last - first, *values.shape[1:]), values.dtype, values.device

    @property
    def nbytes(self) -> int:
        """Bytes of values and places."""
        return self.values.nbytes + self.start.nbytes + self.lowest.nbytes

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        places = self.start[rows][:, None] + torch.arange(self.first, self.last, device=self.device)
        return self.values[torch.maximum(places, self.lowest[rows][:, None])]

    def to(self, device: torch.device) -> "Slices":
        """Return the same rows on a device."""
        values, start, lowest = (tensor.to(device) for tensor in (self.values, self.start, self.lowest))
        return Slices(values, start, lowest, self.first, self.last)


class ForecastTraining(SampleTraining):
    """Forecast series; also report MASE, sMAPE and the quantile loss."""

    group = "series"
    plan: ForecastTask
    curve_metrics = ("mase",)

    @cached_property
    def examples(self) -> Examples:
        """Samples; judged targets are centre, scale and horizon values in the units of the series, float64."""
        divided, context = self.plan.split_series, self.plan.context
        windows, values = divided.training(context), torch.from_numpy(self.plan.inputs)
        last = divided.horizon if values.ndim > 1 else 0  # covariates that are known ahead

        def inputs_of(part: ForecastWindows) -> Slices:
            start, lowest = torch.from_numpy(part.start), torch.from_numpy(part.first)
            return Slices(values, start, lowest, -context, last)

        inputs = inputs_of(windows)
        targets = Slices(torch.from_numpy(self.plan.targets), inputs.start, inputs.lowest, 0, divided.horizon)
        numbers = spaced_places(len(windows)).numpy()
        training_sample = ForecastWindows(windows.start[numbers], windows.first[numbers], windows.series[numbers])
        scored_parts = []
        for part in (divided.held_out, divided.test, training_sample):
            centre_and_scale = np.stack([statistic[part.series] for statistic in (divided.centres, divided.scales)], 1)
            scored_parts.append(
                (inputs_of(part)[:], torch.from_numpy(np.concatenate([centre_and_scale, divided.truth(part)], 1)))
            )
        return Examples((cast(Tensor, inputs), cast(Tensor, targets)), *scored_parts)

    @cached_property
    def target_counts(self) -> Tensor | None:
        split = self.plan.split_series
        return torch.from_numpy(split.observed_ahead[split.training(self.plan.context).start])

    @cached_property
    def loss(self) -> Loss:
        levels = self.plan.options.quantiles
        return QuantileLoss(levels) if levels else SquaredError()

    def evaluate(self, trainer: Trainer, samples: MicroBatch, model: nn.Module | None = None) -> ForecastScores:
        forecast, truth, scales = self._forecast(trainer, samples, trainer.model if model is None else model)
        return ForecastScores.of(forecast, truth, scales, self.plan.options.quantiles)

    def finish(self, model: nn.Module, trainer: Trainer) -> None:
        """Calibrate the bands of a model on the test part, after it was scored there."""
        levels = self.plan.options.quantiles
        if levels:
            model.offsets = conformal_offsets(*self._forecast(trainer, self.examples.test, model), levels)  # type: ignore

    def _forecast(self, trainer: Trainer, samples: MicroBatch, model: nn.Module) -> tuple[Any, Any, Any]:
        """Return forecasts, true values and scales of windows, in the units of the series."""
        about = samples[1].numpy()
        outputs = model_outputs(model, samples, **trainer.evaluation).double().numpy()
        levels = len(self.plan.options.quantiles)
        return unscale_outputs(outputs, about[:, 0], about[:, 1], levels), about[:, 2:], about[:, 1]
