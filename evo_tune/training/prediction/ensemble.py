"""An exported ensemble: several models in one folder, whose predictions are averaged.

The folder has a config.json of its own, and each member in a subfolder, which is a model's folder like any other. The
names of the subfolders follow from the number of members, so no path is read from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from evo_tune.errors import UsageError
from evo_tune.training.models.model_files import CONFIG, LARGEST_JSON, read_json
from evo_tune.training.prediction.model import ClassifierModel, RegressionModel, SampleModel
from evo_tune.training.samples import PartPredictions, log_probabilities
from evo_tune.trust import safe_files

# Name of an ensemble in the entry class of its config.json.
ENSEMBLE = "Ensemble"

# Most members of an ensemble.
MOST_MEMBERS = 16

# Number of times that a member is chosen (Caruana et al. 2004), counted with repetitions.
CHOICES = 30

# Relative difference of two losses that may be rounding.
ROUNDING = 1e-9


class Member(Struct, frozen=True):
    """A member of an ensemble.

    Args:
        weight: Number of times that it was chosen; its share of the mean is this over the sum of all members.
        trial: Number of its trial.
        family: Its family of models; '' where there is one family only.
        seed: Seed of its training.
        loss: Its validation loss alone.
        gain: Validation loss of the other members without it, minus that of the ensemble.
        training_seconds: Duration of its training.
        prediction_seconds: Duration of a prediction, for a sample.
        size: Bytes of its files.
    """

    weight: Annotated[int, Meta(ge=1, le=1000)]
    trial: Annotated[int, Meta(ge=0)]
    family: str
    seed: Annotated[int, Meta(ge=0)]
    loss: float
    gain: float
    training_seconds: float
    prediction_seconds: float
    size: Annotated[int, Meta(ge=0)]


class Ensemble(Struct, frozen=True):
    """The entries of an ensemble's config.json beside its training.

    Args:
        members: The members.
        files: Hash of each member's config.json, which has those of its other files, by the name of its folder.
        test_gain: Test loss of the model that is exported without an ensemble, minus that of the ensemble.
        test_error: Standard error of this gain over the test samples.
        test_count: Number of test samples.
    """

    members: Annotated[list[Member], Meta(min_length=2, max_length=MOST_MEMBERS)]
    test_gain: float
    test_error: float | None
    test_count: Annotated[int, Meta(ge=1)]
    files: dict[str, str]

    @property
    def verdict(self) -> str:
        """What it gains on the test part, in words."""
        error = "" if self.test_error is None else f" ± {self.test_error:.2g}"
        difference = f"{abs(self.test_gain):.4g}{error} {'lower' if self.test_gain >= 0.0 else 'higher'}"
        unseen = f"on {self.test_count} test samples, which the choice has not seen"
        return (
            f"an ensemble of {len(self.members)} models: its test loss is {difference} than that of one model, {unseen}"
        )


def member_name(number: int) -> str:
    """Return the name of the folder of a member."""
    return f"member-{number}"


def combine(predictions: Sequence[PartPredictions], weights: Sequence[int]) -> PartPredictions:
    """Return the weighted mean of models' predictions for a part; a model without a weight is ignored."""
    members = [part.values for part, weight in zip(predictions, weights, strict=True) if weight]
    values = np.average(members, axis=0, weights=[weight for weight in weights if weight])
    return replace(predictions[0], values=values)


def choose_members(predictions: Sequence[PartPredictions]) -> list[int]:
    """Return how often each model is chosen for an ensemble; 0: it is no member.

    Greedy selection with replacement (Caruana et al., "Ensemble selection from libraries of models", ICML 2004): the
    next choice is the model with which the mean of the choices has the smallest loss. The result is the smallest
    of these ensembles with the lowest loss, without members that add nothing to the others.

    Args:
        predictions: Predictions of each model for the validation part.
    """

    def loss_of(weights: NDArray[np.int64]) -> float:
        return float(np.nan_to_num(combine(predictions, weights.tolist()).loss, nan=np.inf)) if any(weights) else np.inf

    steps = np.eye(len(predictions), dtype=np.int64)
    weights, best = np.zeros_like(steps[0]), steps[0]
    for _ in range(CHOICES):
        weights = min((weights + step for step in steps), key=loss_of)
        if loss_of(weights) < loss_of(best) * (1.0 - ROUNDING):
            best = weights
    for step in steps[np.argsort(best)]:
        if loss_of(best * (1 - step)) <= loss_of(best) < np.inf:
            best = best * (1 - step)
    return [int(weight) for weight in best]


def write_config(folder: Path, ensemble: Ensemble, metrics: Mapping[str, float]) -> None:
    """Write the config.json of an ensemble, whose members are in the folder already.

    Args:
        folder: Folder of the ensemble.
        ensemble: The ensemble.
        metrics: Its metrics.

    Raises:
        RecipeError: The config.json of a member cannot be read.
    """
    first = read_json(folder / member_name(0), CONFIG)
    notes = {name: first[name] for name in ("options", "data", "rows", "evaluated", "inputs") if name in first}
    config = {"class": ENSEMBLE, **notes, "metrics": metrics, **msgspec.to_builtins(ensemble)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_ensemble(folder: Path, config: Mapping[str, Any]) -> Ensemble:
    """Return an ensemble from the entries of its config.json.

    Raises:
        UsageError: An entry has another type, or is out of its range.
    """
    try:
        return msgspec.convert(dict(config), Ensemble)
    except msgspec.ValidationError as error:
        raise UsageError(f"MODEL {folder}: {CONFIG} of an ensemble: {error}: export the model again") from None


def read_member(folder: Path, ensemble: Ensemble, number: int) -> dict[str, Any]:
    """Return the config.json of a member after a check against its hash.

    Raises:
        UsageError: It was altered.
        RecipeError: It is missing, a link, too large, or no object.
    """
    name = member_name(number)
    config = read_json(folder / name, CONFIG)
    if sha256_of(folder / name) != ensemble.files.get(name):
        raise UsageError(f"MODEL {folder}: {name}/{CONFIG} was altered after the export: copy the folder again")
    return config


def sha256_of(folder: Path) -> str:
    """Return the hash of the config.json of a model."""
    return hashlib.sha256(safe_files.read(folder, CONFIG, limit=LARGEST_JSON)).hexdigest()


class EnsembleModel(SampleModel[Any]):
    """Several models of samples, whose predictions are averaged: probabilities of classes, or numbers.

    Args:
        members: The models, with the same targets. The first one reads the files.
        weights: Weight of each member.
        arguments: See `Model`; the network is that of the first member.
        settings: See `SampleModel`.
    """

    def __init__(
        self, members: Sequence[SampleModel[Any]], weights: Sequence[int], *arguments: Any, **settings: Any
    ) -> None:
        super().__init__(members[0].reader, *arguments, **settings)
        self.members, self.weights = members, weights

    @property
    def remarks(self) -> list[str]:
        return list(dict.fromkeys(remark for member in self.members for remark in member.remarks))

    def mean_of_members(self, method: str, data: Any) -> NDArray[np.float64]:
        """Return the weighted mean of what a method of the members returns, (samples, …)."""
        predictions = [getattr(member, method)(data) for member in self.members]
        return np.average(predictions, axis=0, weights=self.weights)


class EnsembleClassifier(EnsembleModel, ClassifierModel[Any]):
    """A classifier that averages the probabilities of its members."""

    def outputs(self, data: Any) -> NDArray[np.float64]:
        return log_probabilities(self.mean_of_members("predict_proba", data))


class EnsembleRegressor(EnsembleModel, RegressionModel[Any]):
    """A model of one number that averages those of its members."""

    def outputs(self, data: Any) -> NDArray[np.float64]:
        mean, deviation = self.scale
        return (self.mean_of_members("predict", data)[:, None] - mean) / deviation
