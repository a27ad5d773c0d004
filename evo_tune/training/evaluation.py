"""Evaluation of a model: the loss on text, also by position, a classifier's scores, and errors of real numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import nn

from evo_tune.genome import values
from evo_tune.options.declare import check_integer
from evo_tune.training.hardware.device import IGNORE, MicroBatch
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.optim.losses import CrossEntropy, Loss, cross_entropy_sum, token_losses_in_pieces

# Maximum number of tokens in one evaluation pass.
AT_ONCE = 4096


@dataclass(frozen=True)
class Evaluation:
    """Sums over the scored targets; two evaluations can be added.

    Args:
        nll: Summed loss; for a cross-entropy, the negative log-likelihood in nats.
        count: Number of targets.
    """

    nll: float
    count: int

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.nll + other.nll, self.count + other.count)

    @property
    def loss(self) -> float:
        """Mean loss, such as nats per target; NaN without targets."""
        return self.nll / self.count if self.count else math.nan

    @property
    def bits(self) -> float:
        """Bits per target: bits per byte if the targets are bytes."""
        return self.loss / math.log(2.0)


def evaluate(
    model: nn.Module,
    windows: MicroBatch,
    *,
    loss: Loss | None = None,
    device: torch.device | str = "cpu",
    batch: int = 32,
    ranks: Ranks | None = None,
    precision: Precision | None = None,
) -> Evaluation:
    """Evaluate a model on fixed windows, without dropout, gradients or random numbers.

    Args:
        model: Module that maps inputs to the loss's inputs, such as logits (…, classes); its training mode is restored.
        windows: Inputs and targets (see `evaluation_windows`).
        loss: Loss to sum; None: the cross-entropy.
        device: Device of the model.
        batch: Windows per pass (int ≥ 1); it changes the speed, not the result.
        ranks: Processes that share the windows, each with the same model and the same windows. Each window
            is scored once; torch's sampler pads all shares to one length and so scores some windows twice.
        precision: Precision of the model's computations; None: float32. Losses are at least float32, and their sum
            is float64.

    Raises:
        RecipeError: batch is not an integer of at least 1.
    """
    _, targets = windows = _share(windows, ranks)
    loss = loss or CrossEntropy()
    in_pieces = torch.sum if isinstance(loss, CrossEntropy) else None
    how: dict[str, Any] = {"device": device, "batch": batch, "precision": precision}
    sums = map_batches(model, windows, loss.sum_losses, in_pieces, **how)
    # Summed on the CPU in float64, which some devices lack.
    nll = torch.stack(sums).cpu().double().sum() if sums else torch.zeros((), dtype=torch.float64)
    total = torch.stack((nll, torch.tensor(float(loss.count(targets)), dtype=torch.float64)))
    if ranks is not None:
        total = ranks.sum(total)
    return Evaluation(float(total[0]), int(total[1]))


def _share(windows: MicroBatch, ranks: Ranks | None) -> MicroBatch:
    """Return the windows of this rank; the ranks' shares do not overlap."""
    if ranks is None:
        return windows
    return windows[0][ranks.rank :: ranks.size], windows[1][ranks.rank :: ranks.size]


def evaluate_windows(model: nn.Module, windows: MicroBatch, **how: Any) -> Evaluation:
    """Evaluate a language model on windows.

    Args:
        model: The model.
        windows: Inputs and targets.
        how: Device, ranks and precision, as in `evaluate`.
    """
    return evaluate(model, windows, batch=windows_per_pass(windows), **how)


def windows_per_pass(windows: MicroBatch) -> int:
    """Return the number of windows of tokens to evaluate in one pass."""
    return max(1, AT_ONCE // windows[0].shape[1])


def map_batches(
    model: nn.Module,
    windows: MicroBatch,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    of_losses: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    batch: int = 32,
    precision: Precision | None = None,
) -> list[torch.Tensor]:
    """Return `score(logits, targets)` of each batch of windows: dropout off, no gradients, logits in float32.

    The model computes in `precision`; None: in float32.

    If `of_losses` computes the same from the loss of each target, a large vocabulary's logits are made in pieces.
    """
    check_integer("batch", batch, 1)
    shorten = getattr(model, "shorten", lambda inputs: inputs)
    precision, was_training, scores = precision or Precision(), model.training, []
    model.eval()
    try:
        with torch.inference_mode(), precision.products(), precision.autocast(torch.device(device)):
            for first in range(0, len(windows[0]), batch):
                inputs, targets = (part[first : first + batch] for part in windows)
                inputs, targets = shorten(inputs).to(device), targets.to(device)
                if len(inputs) == 1 < batch and getattr(model, "compiled", False):
                    inputs = torch.cat((inputs, inputs))  # a single sample would be compiled separately
                if of_losses is not None and getattr(model, "in_pieces", False):
                    scores.append(of_losses(model(inputs, partial(_token_losses, targets))))
                else:
                    scores.append(score(model(inputs)[: len(targets)].float(), targets))
    finally:
        model.train(was_training)
    return scores


def _token_losses(targets: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return token_losses_in_pieces(x[: len(targets)], weight, targets=targets)


def evaluate_by_position(
    model: nn.Module, windows: MicroBatch, *, ranks: Ranks | None = None, **how: Any
) -> list[Evaluation]:
    """Evaluate a model as `evaluate` does, separately for each position of a window; the results add up to the whole.

    Only this shows whether a model uses a longer context.

    Raises:
        RecipeError: batch is not an integer of at least 1.
    """
    _, targets = windows = _share(windows, ranks)

    def places(losses: torch.Tensor) -> torch.Tensor:
        return losses.sum(0).cpu().double()

    def by_position(logits: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), aims.flatten(), ignore_index=IGNORE, reduction="none")
        return places(losses.view_as(aims))

    parts = map_batches(model, windows, by_position, places, **how)
    sums = sum(parts, torch.zeros(targets.shape[1], dtype=torch.float64))
    total = torch.stack((sums, (targets != IGNORE).sum(0).double()))
    if ranks is not None:
        total = ranks.sum(total)
    return [Evaluation(nll, int(count)) for nll, count in zip(*total.tolist(), strict=True)]


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one set of samples.

    Args:
        loss: Cross-entropy, in nats per sample.
        accuracy: Share of the samples whose most likely class is correct (top-1).
        balanced_accuracy: Mean over the classes of the share of their samples that are classified correctly; classes
            without samples are left out.
        macro_f1: Mean over the classes of F1, 2 TP / (2 TP + FP + FN); classes without samples that are never
            predicted are left out.
        auc: Area under the ROC curve: of the second class of two, or the mean over all classes, each
            against the rest. NaN if a class is missing.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auc: float

    @classmethod
    def of(cls, probabilities: ArrayLike, classes: ArrayLike, loss: float) -> Scores:
        """Return the scores of predicted probabilities.

        Args:
            probabilities: Class probabilities, (n, classes).
            classes: Class numbers, (n,).
            loss: See `Scores`.
        """
        shares, truth = np.asarray(probabilities, float), np.asarray(classes)
        predicted, number = shares.argmax(1), shares.shape[1]
        right = np.bincount(truth[predicted == truth], minlength=number)
        true_counts, predicted_counts = np.bincount(truth, minlength=number), np.bincount(predicted, minlength=number)
        present, used = true_counts > 0, true_counts + predicted_counts > 0
        return cls(
            loss=loss,
            accuracy=float((predicted == truth).mean()),
            balanced_accuracy=float((right[present] / true_counts[present]).mean()),
            macro_f1=float((2 * right[used] / (true_counts + predicted_counts)[used]).mean()),
            auc=auc(shares, truth),
        )


@dataclass(frozen=True)
class Errors:
    """Errors of predicted real numbers on one set of samples.

    Args:
        loss: Mean squared error of standardised targets, a share of the training targets' variance.
        rmse: Root of the mean squared error, in the target's unit.
        mae: Mean absolute error, in the target's unit.
        r2: Coefficient of determination: 1 − squared errors / squared deviations from the mean of these targets. If
            all these targets are equal, 1 for exact predictions and 0 for others.
    """

    loss: float
    rmse: float
    mae: float
    r2: float

    @classmethod
    def of(cls, predicted: ArrayLike, truth: ArrayLike, deviation: float = 1.0) -> Errors:
        """Return the errors of predictions.

        Args:
            predicted: Predicted numbers, (n,), in the target's unit.
            truth: True numbers, (n,).
            deviation: Standard deviation of the training targets, above 0.
        """
        real = np.asarray(truth, np.float64)
        errors = np.asarray(predicted, np.float64) - real
        square, spread = float(np.mean(errors**2)), float(np.mean((real - real.mean()) ** 2))
        r2 = 1.0 - square / spread if spread else float(square == 0.0)
        return cls(square / deviation**2, math.sqrt(square), float(np.abs(errors).mean()), r2)


def model_outputs(
    model: nn.Module,
    samples: MicroBatch,
    *,
    device: torch.device | str = "cpu",
    batch: int = 256,
    ranks: Ranks | None = None,
    precision: Precision | None = None,
) -> torch.Tensor:
    """Return a model's outputs for samples, (samples, outputs), on the CPU; without dropout and gradients.

    Args:
        model: Module that maps inputs to outputs, (samples, outputs); its training mode is restored.
        samples: Inputs and targets; the targets are not used.
        device: Device of the model.
        batch: Samples per pass (int ≥ 1); it changes the speed, and the result only by rounding.
        ranks: Processes that share the samples, each with the same model and samples; all return the same outputs.
        precision: Precision of the model's computations; None: float32.

    Raises:
        RecipeError: batch is not an integer of at least 1.
    """
    inputs = samples[0] if ranks is None else samples[0][ranks.rank :: ranks.size]
    how: dict[str, Any] = {"device": device, "batch": batch, "precision": precision}
    parts = map_batches(model, (inputs, inputs), lambda outputs, _: outputs.cpu(), **how)
    if ranks is None:
        return torch.cat(parts)
    outputs = int(ranks.sum(torch.tensor(parts[0].shape[1] if parts and ranks.rank == 0 else 0)))
    everyone = torch.zeros(len(samples[0]), outputs)
    if parts:
        everyone[ranks.rank :: ranks.size] = torch.cat(parts)
    return ranks.sum(everyone)  # each row comes from one rank; the others add zeros


def score_classifier(model: nn.Module, samples: MicroBatch, **how: Any) -> Scores:
    """Evaluate a classifier: its outputs are logits. Scores are computed in float64.

    Args:
        model: See `model_outputs`.
        samples: Inputs and class numbers.
        how: Device, batch, ranks and precision, as in `model_outputs`.

    Raises:
        RecipeError: batch is not an integer of at least 1.
    """
    return score_logits(model_outputs(model, samples, **how), samples[1])


def score_logits(outputs: torch.Tensor, classes: torch.Tensor) -> Scores:
    """Return the scores of logits, (n, classes), for class numbers, (n,)."""
    logits, targets = outputs.double(), classes.long()
    loss = float(cross_entropy_sum(logits, targets)) / len(targets)
    return Scores.of(logits.softmax(-1).numpy(), targets.numpy(), loss)


def auc(probabilities: ArrayLike, classes: ArrayLike) -> float:
    """Return the area under the ROC curve; for more than two classes, the mean of one against the rest.

    It is the probability that a sample of the class is scored above another, with ties counted as half
    (Hanley & McNeil 1982).

    Args:
        probabilities: Class probabilities, (n, classes).
        classes: Class numbers, (n,).
    """
    scores, truth, areas = np.asarray(probabilities, float), np.asarray(classes), []
    for column in [1] if scores.shape[1] == 2 else range(scores.shape[1]):
        positive = truth == column
        positives = int(positive.sum())
        negatives = len(positive) - positives
        if not positives or not negatives:
            return float("nan")
        rank_sum = values.ranks(scores[:, column])[positive].sum()
        areas.append((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))
    return float(np.mean(areas))
