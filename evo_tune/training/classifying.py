"""What the classifiers' evaluators say alike: their options, what is known before, the training, what is kept.

Knows neither genomes nor search spaces: the values that a genome gives come as a mapping. torch is imported inside
functions only, since the parent process asks for options, estimates and fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from evo_tune.options.declare import option
from evo_tune.training.data.splits import stratified
from evo_tune.training.models.encoder_config import nearest_divisor
from evo_tune.training.plan import Plan

if TYPE_CHECKING:
    from evo_tune.training.models.encoder import Classifier
    from evo_tune.training.session import Run

__all__ = ["Classifying", "divided", "fit_classifier", "known_before", "write_classifier"]

C = TypeVar("C", bound="Classifier")

RATES = ("lr", "batch", "weight_decay", "warmup", "label_smoothing", "mixup")
"""Values of a genome that `fit` takes."""


@dataclass(frozen=True, kw_only=True)
class Classifying(Plan):
    """What is held out, which space is searched, what is kept."""

    held_out: float = option(0.25, bounds="(0, 1)", gene=None, help="Share of each class that is held out")
    size: Literal["small", "large"] = option(
        "small",
        gene=None,
        help="Which space to search: small for a CPU, large for a GPU, tens of thousands of samples",
    )
    save: bool = option(False, gene=None, help="Keep a checkpoint of a full training too")


def divided(genome: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return a genome whose heads are the divisor of its width that is nearest, up to `most`."""
    return {**genome, "heads": nearest_divisor(genome["width"], genome["heads"], most)}


def known_before(parameters: int, options: Plan, rows: int, flops_per_sample: float) -> dict[str, float]:
    """Return what is known before training: params, and samples and flops of the full training.

    Args:
        parameters: Weights of the model.
        options: The budget.
        rows: Samples to train on.
        flops_per_sample: FLOPs of training on one.
    """
    samples = options.samples(rows, flops_per_sample)
    return {"params": parameters, "samples": samples, "flops": samples * flops_per_sample}


def fit_classifier(
    build: Callable[[int], C],
    inputs: NDArray[Any],
    classes: NDArray[np.int64],
    run: Run,
    options: Classifying,
    genome: Mapping[str, Any],
    *,
    flops_per_sample: float,
    task: Mapping[str, Any],
) -> tuple[C, dict[str, float]]:
    """Train a classifier as `fit` does, and return it with its metrics.

    Args:
        build: Makes it from a seed.
        inputs: All samples, (n, …).
        classes: (n,), their class numbers.
        run: Where it stands.
        options: How much, and how it is split.
        genome: Its `RATES` are taken.
        flops_per_sample: FLOPs of training on one sample.
        task: Plain data, beside the genome, that says what is trained.

    Raises:
        Diverged: The training was lost.
        RecipeError: See `fit`.
    """
    import torch

    from evo_tune.training.fitting import Examples, fit
    from evo_tune.training.hardware.determinism import reproducible, seed_for

    all_inputs, all_classes = torch.from_numpy(inputs), torch.from_numpy(classes).long()
    training, held = (torch.from_numpy(rows) for rows in stratified(classes, options.held_out))
    examples = Examples(all_inputs[training], all_classes[training], all_inputs[held], all_classes[held])
    with reproducible(run.threads, run.device):
        model = build(seed_for(run.seed, "weights"))
        model.standardise(examples.inputs)
        metrics = fit(
            model.to(run.device),
            examples,
            run,
            options,
            **{name: genome[name] for name in RATES if name in genome},
            flops_per_sample=flops_per_sample,
            task={"genome": dict(genome), **task},
            keep=options.save,
        )
    return model, metrics


def write_classifier(
    folder: Path | str,
    model: Classifier,
    metrics: Mapping[str, float],
    usage: str,
    *,
    genome: Mapping[str, Any],
    options: Classifying,
    seed: int,
) -> None:
    """Write a trained classifier as something to use: weights, config.json and README.md.

    Args:
        folder: Where; made if it is not there.
        model: It.
        metrics: Of its training; config.json and README.md name them.
        usage: Text of README.md: {folder!r}, {labels}, the names of metrics and of the model's shape stand in it.
        genome: What it was made of.
        options: And with which options.
        seed: And with which seed.
    """
    model.save(folder, genome=dict(genome), options=options.to_json(), seed=seed, metrics=metrics)
    shape = model.config.to_json()
    text = usage.format(**{**shape, **metrics, "folder": str(folder), "labels": ", ".join(model.labels)})
    (Path(folder) / "README.md").write_text(text, encoding="utf-8")
