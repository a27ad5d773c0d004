"""Table of the metrics of a training: names, units, meanings, and how each is read.

A row is a metric; add a row to add a metric. The evaluators' METRICS are built from the rows of their groups.
`evaluate` returns the values that the rows read from a `TrainingResult`. This module does not depend on how models are
trained, nor on torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Groups: classifiers, language models, and fine-tuned models.
CLASSES, LANGUAGE, TUNING = ("classes",), ("language",), ("tuning",)

# Groups of trainings on samples whose targets are real numbers: any, one number per sample in its own unit, and the
# next values of a time series.
NUMBERS, REGRESSION, SERIES = ("samples", "regression", "series"), ("regression",), ("series",)


# Group of the forecasts of the Theta method.
THETA = ("theta",)


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Args:
        name: Name under which it is optimised, plotted and saved.
        unit: '' for a share or a count.
        groups: Groups that report it.
        meaning: One-line description.
        read: Function that reads it from a finished training; it returns None for no value. Left out: the metric is
            known before training, and the evaluator's `estimate` returns it.
        when: Condition under which it is reported; '': always.
        declared: Whether METRICS lists it. Each listed metric is a column of every run's files, empty or not.
        test: Whether it is measured on the test set too.
    """

    name: str
    unit: str
    groups: tuple[str, ...]
    meaning: str
    read: Callable[[Any], float | None] | None = None
    when: str = ""
    declared: bool = True
    test: bool = False

    @property
    def test_name(self) -> str:
        """Name of the same metric on the test set: test_loss of val_loss, test_auc of auc."""
        return f"test_{self.name.removeprefix('val_')}"


NATS, WORDS = "nats", LANGUAGE + TUNING
SAMPLES = CLASSES + NUMBERS
ALL = SAMPLES + WORDS
PER_TOKEN = "nats per token"


def _final_lr_fraction(training: Any) -> float:
    return float(training.trainer.recipe.schedule(max(0, training.trainer.step - 1)))


METRICS: tuple[Metric, ...] = (
    Metric("val_loss", NATS, CLASSES, "cross-entropy of held-out samples", lambda t: t.scores.loss, test=True),
    Metric("val_loss", "", NUMBERS, "mean loss of held-out samples", lambda t: t.scores.loss, test=True),
    Metric("val_loss", PER_TOKEN, WORDS, "cross-entropy of held-out text", lambda t: t.scores.loss, test=True),
    Metric("accuracy", "", CLASSES, "share of those classified rightly", lambda t: t.scores.accuracy, test=True),
    Metric(
        "balanced_accuracy", "", CLASSES, "mean accuracy of a class", lambda t: t.scores.balanced_accuracy, test=True
    ),
    Metric("macro_f1", "", CLASSES, "mean over the classes of their F1", lambda t: t.scores.macro_f1, test=True),
    Metric("auc", "", CLASSES, "area under the ROC curve of held-out samples", lambda t: t.scores.auc, test=True),
    Metric("rmse", "", REGRESSION, "root of the mean squared error", lambda t: t.scores.rmse, "of numbers", test=True),
    Metric("mae", "", REGRESSION, "mean absolute error", lambda t: t.scores.mae, "of numbers", test=True),
    Metric("r2", "", REGRESSION, "coefficient of determination", lambda t: t.scores.r2, "of numbers", test=True),
    Metric("mase", "", SERIES, "mean absolute scaled error", lambda t: t.scores.mase, test=True),
    Metric("smape", "%", SERIES, "symmetric mean absolute error", lambda t: t.scores.smape, test=True),
    Metric("quantile_loss", "", SERIES, "scaled quantile loss", lambda t: t.scores.quantile_loss, test=True),
    Metric("val_bpb", "bits per byte", WORDS, "val_loss for any tokens", lambda t: t.bits_per_byte, test=True),
    Metric("perplexity", "", LANGUAGE, "exp(val_loss)", lambda t: math.exp(min(t.scores.loss, 700.0))),
    Metric("val_loss_first_half", PER_TOKEN, LANGUAGE, "of each window's first half", lambda t: t.halves[0].loss),
    Metric("val_loss_second_half", PER_TOKEN, LANGUAGE, "of each window's second half", lambda t: t.halves[1].loss),
    Metric("base_val_loss", PER_TOKEN, TUNING, "val_loss of the base, before training", lambda t: t.base_loss),
    Metric("train_loss", NATS, CLASSES, "on fixed training samples", lambda t: t.training_scores.loss),
    Metric("train_loss", "", NUMBERS, "on fixed training samples", lambda t: t.training_scores.loss),
    Metric("train_loss", PER_TOKEN, WORDS, "on fixed training text", lambda t: t.training_scores.loss),
    Metric("trainable_params", "", TUNING, "weights that are trained", lambda t: t.trainable),
    Metric("samples", "", SAMPLES, "samples trained on, repetitions counted", lambda t: t.samples),
    Metric("epochs", "", SAMPLES, "passes over the training samples", lambda t: t.epochs),
    Metric("tokens", "", WORDS, "tokens trained on, repetitions counted", lambda t: t.tokens),
    Metric("steps", "", ALL, "updates of the weights", lambda t: t.trainer.step),
    Metric("flops", "", ALL, "arithmetic of the training, by count", lambda t: t.flops),
    Metric("params", "", SAMPLES + LANGUAGE, "weights of the model", lambda t: t.parameters),
    Metric("samples_per_second", "1/s", SAMPLES, "in wall time, without evaluations", lambda t: t.speed),
    Metric("tokens_per_second", "1/s", WORDS, "in wall time, without evaluations", lambda t: t.speed),
    Metric("peak_memory", "bytes", ALL, "measured on a GPU, predicted on a CPU", lambda t: t.peak_memory),
    Metric("gpu_memory", "bytes", ALL, "what a GPU of any size would hold of it"),
    Metric("micro_batch", "samples", SAMPLES, "most samples in one pass", lambda t: t.micro_batch),
    Metric("micro_batch", "tokens", WORDS, "most tokens in one pass", lambda t: t.micro_batch),
    Metric("final_lr_fraction", "", ALL, "last learning rate, as a share of its peak", _final_lr_fraction),
    Metric("clipped_fraction", "", ALL, "share of clipped steps", lambda t: t.trainer.clipped / max(1, t.trainer.step)),
    Metric("bf16", "", ALL, "1: products in bfloat16", lambda t: float(t.trainer.recipe.precision.name == "bf16")),
    Metric("val_loss_ema", NATS, CLASSES, "val_loss of the average", lambda t: t.ema_loss, "with ema"),
    Metric("val_loss_ema", "", NUMBERS, "val_loss of the average", lambda t: t.ema_loss, "with ema"),
    Metric("val_loss_ema", PER_TOKEN, WORDS, "val_loss of the average", lambda t: t.ema_loss, "with ema"),
    Metric("context_gain", PER_TOKEN, LANGUAGE, "gain of long windows", lambda t: t.context_gain, "with extend_from"),
    Metric("mfu", "", ALL, "share of the device's peak", lambda t: t.mfu, "on a GPU whose peak is known"),
    Metric("theta_loss", "", THETA, "val_loss of the Theta method", lambda t: t.loss, "with compare=theta"),
    Metric("theta_mase", "", THETA, "mase of the Theta method", lambda t: t.mase, "with compare=theta"),
    Metric("resumed_step", "", ALL, "step of the checkpoint; 0: none", lambda t: t.resumed, "resumed", declared=False),
)


def metric_units(*groups: str) -> dict[str, str]:
    """Return the names and units of the metrics of `groups`, in the form of an evaluator's METRICS."""
    return {row.name: row.unit for row in METRICS if row.declared and set(row.groups) & set(groups)}


def names_on_test_set(*groups: str) -> dict[str, str]:
    """Return the test-set names of the metrics of `groups`, in the form of an evaluator's TEST."""
    return {row.name: row.test_name for row in METRICS if row.test and set(row.groups) & set(groups)}


def metric_values(training: Any, group: str) -> dict[str, float]:
    """Return the metrics of a group for a training, without those that have no value.

    Args:
        training: Finished training that the rows of this group read.
        group: 'classes', 'samples', 'regression', 'series', 'language', 'tuning' or 'theta'.
    """
    readers = {row.name: row.read for row in METRICS if group in row.groups and row.read is not None}
    values = {name: read(training) for name, read in readers.items()}
    return {name: value for name, value in values.items() if value is not None}
