"""What an `EvoSearchCV` holds beside its run: the estimator, the data, and how one genome is scored on them.

In this process under a random name; in its workers loaded from a private folder that the environment names. A run knows
the random name only.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from evo_tune.errors import RunError
from evo_tune.genome.values import Genome, Value
from evo_tune.integrations.needed import needing

with needing("evo_tune.sklearn", "sklearn"):
    from sklearn.base import clone
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection import cross_validate

__all__ = ["HELD", "VARIABLE", "Held", "held_by"]

VARIABLE = "EVO_TUNE_HELD_"
"""Environment variable, with an object's name behind it, by which its workers find what it holds."""

Splits = list[tuple[Any, Any]]


@dataclasses.dataclass
class Held:
    """What an object holds while it searches.

    Args:
        estimator: Unfitted.
        x: The samples, indexable.
        y: The targets, or None.
        params: What `fit` was given beside them.
        splits: Indices of training and test, a pair a split.
        scoring: One scorer, or several by name.
        error_score: What a fit that fails counts as, or 'raise'.
        return_train_score: Whether to score the training parts as well.
        values: By gene, the values that its labels stand for, where they are no plain data.
    """

    estimator: Any
    x: Any
    y: Any
    params: dict[str, Any]
    splits: Splits
    scoring: Any
    error_score: Any
    return_train_score: bool
    values: dict[str, dict[Value, Any]]
    identity: str = ""
    """Of data and estimator, so that a run goes on with the same only; made here, and sent to workers as it is."""

    def __post_init__(self) -> None:
        if not self.identity:
            held = (self.x, self.y, self.splits, self.params, type(self.estimator).__qualname__)
            self.identity = str(joblib.hash(held))

    def decoded(self, genome: Genome) -> dict[str, Any]:
        """Return a genome as the estimator's parameters."""
        return {name: self.values.get(name, {}).get(value, value) for name, value in genome.items()}

    def scores(self, genome: Genome) -> dict[str, float]:
        """Return 'split0_test_score', 'split0_fit_time', …, and the means of the scores.

        Raises:
            Exception: Whatever a fit raises, if error_score is 'raise'.
        """
        estimator = clone(self.estimator).set_params(**clone(self.decoded(genome), safe=False))
        found: dict[str, Any]
        try:
            found = cross_validate(
                estimator, self.x, self.y, cv=self.splits, scoring=self.scoring, error_score=self.error_score,
                return_train_score=self.return_train_score, params=self.params or None,
            )  # fmt: skip
        except ValueError as error:
            if self.error_score == "raise" or not str(error).lstrip().startswith("All the"):
                raise
            warnings.warn(str(error), FitFailedWarning, stacklevel=2)
            names = self.scoring if isinstance(self.scoring, dict) else ["score"]
            parts = ["test", "train"] if self.return_train_score else ["test"]
            scored = {f"{part}_{name}": [self.error_score] * len(self.splits) for part in parts for name in names}
            found = {"fit_time": [0.0] * len(self.splits), "score_time": [0.0] * len(self.splits), **scored}
        found = {name: [float(value) for value in values] for name, values in found.items()}
        each = {f"split{i}_{name}": value for name, values in found.items() for i, value in enumerate(values)}
        tested = {name: values for name, values in found.items() if name.startswith("test_")}
        return {**each, **{f"mean_{name}": float(np.mean(values)) for name, values in tested.items()}}


HELD: dict[str, Held] = {}
"""By name: what objects of this process hold, and what a worker has loaded."""


def held_by(name: str) -> Held:
    """Return what the object of that name holds.

    Raises:
        RunError: There is no such object here, or in the process that started this one.
    """
    if name not in HELD:
        folder = os.environ.get(VARIABLE + name) if name.isalnum() else None
        if folder is None:
            raise RunError(
                "this run was begun by an EvoSearchCV, which holds its estimator and data: it goes on from the same "
                "object only, by fit(X, y) with warm_start=True"
            )
        with open(Path(folder, "rest.pickle"), "rb") as file:  # written by the object, readable by its user only
            rest = pickle.load(file)
        HELD[name] = Held(**joblib.load(Path(folder, "data.joblib"), mmap_mode="r"), **rest)
    return HELD[name]
