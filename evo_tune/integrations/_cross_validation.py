"""Evaluator of `EvoSearchCV`: one cross-validation of its estimator on its data.

Estimator and data are not part of the run, which knows them by a random name only. The process of the search has them
in `SEARCH_DATA`; its workers load them from a private folder that an environment variable names. Evaluators are loaded
by path, as modules of their own, so the functions below import this module by name to share one `SEARCH_DATA`.
"""

import dataclasses
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from evo_tune import Context, Maximize, SearchSpace
from evo_tune.errors import RunError, require_extra
from evo_tune.genome.genes import gene_from
from evo_tune.genome.values import Genome, Value

with require_extra("evo_tune.sklearn", "sklearn"):
    from sklearn.base import clone
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection import cross_validate

# Prefix of the environment variable with the private folder; the random name follows.
VARIABLE = "EVO_TUNE_HELD_"

OBJECTIVES = [Maximize("mean_test_score")]


def SPACE(*, space: str) -> SearchSpace:  # noqa: N802  (name of the contract)
    """Return the space of the search, from its description as JSON."""
    return SearchSpace(None, None, **{name: gene_from(gene) for name, gene in json.loads(space).items()})


def fingerprint(*, held: str) -> str:
    """Return the identity of estimator and data."""
    from evo_tune.integrations import _cross_validation

    return _cross_validation.search_data(held).identity


def evaluate(genome: dict[str, Any], context: Context, *, held: str = "", space: str = "{}") -> dict[str, float]:
    """Return the scores of each split and their means."""
    from evo_tune.integrations import _cross_validation

    return _cross_validation.search_data(held).scores(genome)


@dataclasses.dataclass
class SearchData:
    """Estimator and data of a search.

    Args:
        estimator: Unfitted estimator.
        x: Samples, indexable.
        y: Targets, or None.
        params: Further arguments of `fit`.
        splits: Pairs of training and test indices.
        scoring: One scorer, or several by name.
        error_score: Score of a failed fit, or 'raise'.
        return_train_score: Whether to score the training parts as well.
        values: Values by label, for each gene whose values are not plain data.
        distributions: Distribution of each parameter whose gene is the quantile of its value.
        identity: Hash of data and estimator. A run continues only with the same ones. Workers receive it.
    """

    estimator: Any
    x: Any
    y: Any
    params: dict[str, Any]
    splits: list[tuple[Any, Any]]
    scoring: Any
    error_score: Any
    return_train_score: bool
    values: dict[str, dict[Value, Any]]
    distributions: dict[str, Any] = dataclasses.field(default_factory=dict)
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.identity:
            content = (self.x, self.y, self.splits, self.params, type(self.estimator).__qualname__)
            self.identity = str(joblib.hash(content))

    def to_params(self, genome: Genome) -> dict[str, Any]:
        """Return a genome as parameters of the estimator."""
        params = {name: self.values.get(name, {}).get(value, value) for name, value in genome.items()}
        for name, distribution in self.distributions.items():
            value = float(distribution.ppf(float(params[name])))
            params[name] = int(value) if hasattr(distribution, "pmf") else value  # whole if it is discrete
        return params

    def scores(self, genome: Genome) -> dict[str, float]:
        """Return 'split0_test_score', 'split0_fit_time', … and the mean scores.

        Raises:
            Exception: Any error of a fit, if error_score is 'raise'.
        """
        estimator = clone(self.estimator).set_params(**clone(self.to_params(genome), safe=False))
        results: dict[str, Any]
        try:
            results = cross_validate(
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
            results = {"fit_time": [0.0] * len(self.splits), "score_time": [0.0] * len(self.splits), **scored}
        results = {name: [float(value) for value in values] for name, values in results.items()}
        by_split = {f"split{i}_{name}": value for name, values in results.items() for i, value in enumerate(values)}
        test_scores = {name: values for name, values in results.items() if name.startswith("test_")}
        return {**by_split, **{f"mean_{name}": float(np.mean(values)) for name, values in test_scores.items()}}


# Estimators and data by random name: those of the searches of this process, or those that a worker has loaded.
SEARCH_DATA: dict[str, SearchData] = {}


def search_data(name: str) -> SearchData:
    """Return the estimator and data of a search.

    Raises:
        RunError: There is no search of that name in this process or in its parent.
    """
    if name not in SEARCH_DATA:
        folder = os.environ.get(VARIABLE + name) if name.isalnum() else None
        if folder is None:
            raise RunError(
                "this run was begun by an EvoSearchCV, which has its estimator and data: resume it from the same "
                "object by fit(X, y) with warm_start=True"
            )
        with open(Path(folder, "rest.pickle"), "rb") as file:  # only the user can write the private folder
            other_fields = pickle.load(file)
        SEARCH_DATA[name] = SearchData(**joblib.load(Path(folder, "data.joblib"), mmap_mode="r"), **other_fields)
    return SEARCH_DATA[name]
