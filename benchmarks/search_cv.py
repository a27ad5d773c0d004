"""EvoSearchCV against scikit-learn's RandomizedSearchCV and HalvingRandomSearchCV, on five of its data sets.

Every search makes the same number of fits: 40 candidates in 3 folds. The halving search has as many candidates in all
of its rounds together; a round keeps a third of them and has three times the samples, so most of its fits take less
time. All three search the same distributions of scipy; evolution begins with the estimator's own parameters. For each
seed a quarter of the samples is set aside, and the other samples are searched. The score is that of the refitted best
candidate on the samples set aside: accuracy, or R² for diabetes. A difference is paired by seed.

    python benchmarks/search_cv.py
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import loguniform, randint, uniform
from sklearn import datasets
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  (makes HalvingRandomSearchCV importable)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import HalvingRandomSearchCV, RandomizedSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from evo_tune.sklearn import EvoSearchCV

FITS, FOLDS, FACTOR = 40, 3, 3
SAMPLES = 900
"""Most samples of a data set; digits has more."""

Task = tuple[Callable[..., Any], Any, dict[str, Any]]


def tasks() -> dict[str, Task]:
    """Return data, estimator and distributions by the name of the data set."""
    svc = make_pipeline(StandardScaler(), SVC())
    kernel = {"svc__C": loguniform(1e-2, 1e3), "svc__gamma": loguniform(1e-5, 1e1)}
    trees = {
        "learning_rate": loguniform(1e-2, 1.0), "max_depth": randint(1, 7), "subsample": uniform(0.3, 0.7),
        "min_samples_leaf": randint(1, 31), "max_features": uniform(0.1, 0.9),
    }  # fmt: skip
    line = make_pipeline(StandardScaler(), LogisticRegression(solver="saga", max_iter=200))
    net = {"logisticregression__C": loguniform(1e-4, 1e3), "logisticregression__l1_ratio": uniform(0.0, 1.0)}
    return {
        "iris": (datasets.load_iris, svc, kernel),
        "wine": (datasets.load_wine, line, net),
        "breast_cancer": (datasets.load_breast_cancer, GradientBoostingClassifier(n_estimators=20), trees),
        "digits": (datasets.load_digits, svc, kernel),
        "diabetes": (datasets.load_diabetes, GradientBoostingRegressor(n_estimators=40), trees),
    }


def halved(samples: int, classes: int) -> int:
    """Return the number of first candidates of a halving search that evaluates at most `FITS` in all of its rounds."""
    rounds = 1 + int(math.log(samples / (2 * FOLDS * classes), FACTOR))  # the fewest samples that it takes
    return max(n for n in range(1, FITS) if sum(math.ceil(n / FACTOR**turn) for turn in range(rounds)) <= FITS)


def searches(estimator: Any, space: dict[str, Any], candidates: int, seed: int) -> dict[str, Any]:
    """Return the three searches by name."""
    given = {"cv": FOLDS, "random_state": seed, "error_score": "raise"}
    return {
        "evolution": EvoSearchCV(estimator, space, n_iter=FITS, **given),
        "random": RandomizedSearchCV(estimator, space, n_iter=FITS, **given),
        "halving": HalvingRandomSearchCV(
            estimator, space, n_candidates=candidates, factor=FACTOR, min_resources="exhaust", **given
        ),
    }  # fmt: skip


def scores(task: Task, seed: int) -> dict[str, tuple[float, float, int]]:
    """Return (score on the samples set aside, best mean score of the folds, fits) of each search."""
    load, estimator, space = task
    x, y = load(return_X_y=True)
    kept = np.random.default_rng(seed).permutation(len(x))[:SAMPLES]
    classes = y[kept] if len(set(y)) < 20 else None
    x, x_test, y, y_test = train_test_split(x[kept], y[kept], test_size=0.25, random_state=seed, stratify=classes)
    candidates = halved(len(x), 1 if classes is None else len(set(classes)))
    found = {}
    for name, search in searches(estimator, space, candidates, seed).items():
        search.fit(x, y)
        fits = len(search.cv_results_["params"]) * FOLDS
        found[name] = search.score(x_test, y_test), search.best_score_, fits
    return found


def told(values: np.ndarray) -> str:
    """Return a mean with its standard error."""
    return f"{values.mean():.4f} ± {values.std(ddof=1) / math.sqrt(len(values)):.4f}"


def main() -> None:
    """Compare the searches and print a line for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--data", nargs="+", default=list(tasks()))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # saga's unfinished fits, and candidates tied by halving
    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(os, "fsync"):
        tempfile.tempdir = scratch
        for name in args.data:
            rows = [scores(tasks()[name], seed) for seed in range(args.seeds)]
            for place, what in enumerate(("set aside", "in the folds")):
                found = {search: np.array([row[search][place] for row in rows]) for search in rows[0]}
                line = "  ".join(f"{search} {told(values)}" for search, values in found.items())
                more = [f"minus {other} {told(found['evolution'] - found[other])}" for other in ("random", "halving")]
                print(f"{name}, {what}: {line}  evolution {', '.join(more)}", flush=True)
            print(f"{name}, fits: { ({search: row[2] for search, row in rows[0].items()}) }", flush=True)


if __name__ == "__main__":
    main()
