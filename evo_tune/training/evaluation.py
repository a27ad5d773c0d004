"""How a model is judged: the loss of text, by position too, and the scores of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import nn

from evo_tune.options.bounds import check_integer
from evo_tune.training.hardware.device import IGNORE, MicroBatch
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.optim.losses import CrossEntropy, Loss, cross_entropy_sum, losses_in_pieces


@dataclass(frozen=True)
class Evaluation:
    """Sums over the targets that were scored; two of them add up.

    Args:
        nll: Summed loss; of a cross-entropy the negative log-likelihood, nats.
        count: Number of targets.
    """

    nll: float
    count: int

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.nll + other.nll, self.count + other.count)

    @property
    def loss(self) -> float:
        """Mean loss, such as nats per target; NaN if there was none."""
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
) -> Evaluation:
    """Score a model on fixed windows: dropout off, no gradients, no randomness drawn.

    Args:
        model: Maps inputs to what the loss takes, such as logits (…, classes); its training mode is put back after.
        windows: Inputs and targets (see `fixed_windows`).
        loss: Its sum is taken; None: the cross-entropy.
        device: Where the model is.
        batch: Windows at a time, 1 or more; it changes the speed, not the result.
        ranks: Processes that share the windows, each with the same model and the same windows. Each window
            is scored once: a sampler that pads all shares to one length (torch's does) scores some twice.

    Raises:
        RecipeError: batch is not a whole number from 1.
    """
    _, targets = windows = _share(windows, ranks)
    loss = loss or CrossEntropy()
    in_pieces = torch.sum if isinstance(loss, CrossEntropy) else None
    sums = over_batches(model, windows, device, batch, loss.summed, in_pieces)
    # Summed in float64, which some devices lack: on the CPU.
    nll = torch.stack(sums).cpu().double().sum() if sums else torch.zeros((), dtype=torch.float64)
    total = torch.stack((nll, torch.tensor(float(loss.count(targets)), dtype=torch.float64)))
    if ranks is not None:
        total = ranks.sum(total)
    return Evaluation(float(total[0]), int(total[1]))


def _share(windows: MicroBatch, ranks: Ranks | None) -> MicroBatch:
    """Return this rank's windows, each of them nobody else's."""
    if ranks is None:
        return windows
    return windows[0][ranks.rank :: ranks.size], windows[1][ranks.rank :: ranks.size]


def over_batches(
    model: nn.Module,
    windows: MicroBatch,
    device: torch.device | str,
    batch: int,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    of_losses: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """Return `score(logits, targets)` of each batch of windows: dropout off, no gradients, logits in float32.

    Where `of_losses` gives the same from the loss of each target, logits of a large vocabulary are never there whole.
    """
    shorten = getattr(model, "shortened", lambda inputs: inputs)
    in_pieces = of_losses is not None and getattr(model, "in_pieces", False)

    def judged(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if in_pieces and of_losses is not None:
            return of_losses(model(inputs, partial(losses_in_pieces, targets=targets)))
        return score(model(inputs).float(), targets)

    check_integer("batch", batch, 1)
    inputs, targets = windows
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return [
                judged(shorten(inputs[first : first + batch]).to(device), targets[first : first + batch].to(device))
                for first in range(0, len(inputs), batch)
            ]
    finally:
        model.train(was_training)


def evaluate_by_position(
    model: nn.Module,
    windows: MicroBatch,
    *,
    device: torch.device | str = "cpu",
    batch: int = 32,
    ranks: Ranks | None = None,
) -> list[Evaluation]:
    """Score a model as `evaluate` does, each position of a window by itself; their sum is the whole.

    Whether a model makes use of a longer context shows here and nowhere else.

    Raises:
        RecipeError: batch is not a whole number from 1.
    """
    _, targets = windows = _share(windows, ranks)

    def by_position(logits: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), aims.flatten(), ignore_index=IGNORE, reduction="none")
        return places(losses.view_as(aims))

    def places(losses: torch.Tensor) -> torch.Tensor:
        return losses.sum(0).cpu().double()

    parts = over_batches(model, windows, device, batch, by_position, places)
    sums = sum(parts, torch.zeros(targets.shape[1], dtype=torch.float64))
    total = torch.stack((sums, (targets != IGNORE).sum(0).double()))
    if ranks is not None:
        total = ranks.sum(total)
    return [Evaluation(nll, int(count)) for nll, count in zip(*total.tolist(), strict=True)]


@dataclass(frozen=True)
class Scores:
    """Of one model on one set of samples.

    Args:
        loss: Cross-entropy, nats a sample.
        accuracy: Share of the samples whose likeliest class is the right one (top-1).
        auc: Area under the ROC curve: of the second class of two, or the mean over all classes, each
            against the others. NaN where a class is missing.
    """

    loss: float
    accuracy: float
    auc: float


def score(
    model: nn.Module,
    samples: MicroBatch,
    *,
    device: torch.device | str = "cpu",
    batch: int = 256,
    ranks: Ranks | None = None,
) -> Scores:
    """Judge a model: dropout off, no gradients, no randomness drawn.

    Args:
        model: Maps inputs to logits (samples, classes); its training mode is put back after.
        samples: Inputs and class numbers.
        device: Where the model is.
        batch: Samples at a time, 1 or more; it changes the speed, and nothing else but rounding.
        ranks: Processes that share the samples, each with the same model and the same samples; all get one answer.

    Raises:
        RecipeError: batch is not a whole number from 1.
    """
    mine = samples if ranks is None else (samples[0][ranks.rank :: ranks.size], samples[1][ranks.rank :: ranks.size])
    parts = over_batches(model, mine, device, batch, lambda found, _: found.cpu())
    logits = (torch.cat(parts) if ranks is None else _gathered(parts, len(samples[1]), ranks)).double()
    targets = samples[1].long()
    return Scores(
        loss=float(cross_entropy_sum(logits, targets)) / len(targets),
        accuracy=float((logits.argmax(-1) == targets).double().mean()),
        auc=auc(logits.softmax(-1).numpy(), targets.numpy()),
    )


def _gathered(parts: list[torch.Tensor], count: int, ranks: Ranks) -> torch.Tensor:
    """Return the logits of all samples from those of each rank's own."""
    classes = int(ranks.sum(torch.tensor(parts[0].shape[1] if parts and ranks.rank == 0 else 0)))
    everyone = torch.zeros(count, classes)
    if parts:
        everyone[ranks.rank :: ranks.size] = torch.cat(parts)
    return ranks.sum(everyone)  # each row is one rank's, the others add zeros


def auc(probabilities: ArrayLike, classes: ArrayLike) -> float:
    """Return the area under the ROC curve; of more than two classes, their mean (one against the rest).

    It is the probability that a sample of the class is scored above another, ties counting half
    (Hanley & McNeil 1982).

    Args:
        probabilities: (n, classes).
        classes: (n,), class numbers.
    """
    scores, truth = np.asarray(probabilities, float), np.asarray(classes)
    columns = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return float(np.mean([_binary_auc(scores[:, column], truth == column) for column in columns]))


def _binary_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    ours = int(positive.sum())
    others = len(positive) - ours
    if not ours or not others:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the middle of each group of ties, from 1
    return float((ranks[places][positive].sum() - ours * (ours + 1) / 2) / (ours * others))
