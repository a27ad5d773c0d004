"""How good a classifier is on held-out samples: loss, accuracy, area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from evo_tune.training.batch import MicroBatch
from evo_tune.training.evaluation import over_batches
from evo_tune.training.optim.losses import cross_entropy_sum

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["Scores", "auc", "score"]


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
