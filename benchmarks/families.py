"""Families of models: `evo-tune auto` on tables against itself with the Transformer only, and against peers.

A fifth of the rows of each table is kept apart; all methods get the other rows and the same wall time. `auto` divides
them by itself. Peers: scikit-learn's histogram boosting and random forest with their defaults, on all of these rows,
and LightGBM with Optuna (up to 20 trials on three quarters of the rows, then all of them). The tables come with
scikit-learn and statsmodels; nothing is downloaded. LightGBM and Optuna may be in an environment of their own:

    python benchmarks/families.py --hours 0.033 --peers /path/to/venv/bin/python --results families.jsonl

Each row is appended to the results when it is known; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TABLES = "wine", "diabetes", "breast cancer", "digits", "votes", "affairs", "visits"
AUTO = {"all families": "all", "transformer": "transformer", "boosting": "boosting"}
PEERS = "histogram boosting", "random forest", "LightGBM, 20 trials"

Predict = Callable[[pd.DataFrame], Any]
"""Returns predicted numbers, (n,), or probabilities of classes, (n, classes), in the classes' order."""


def table(name: str) -> tuple[pd.DataFrame, str]:
    """Return a table and the name of its target."""
    if name in ("wine", "diabetes", "breast cancer", "digits"):
        from sklearn import datasets

        frame = getattr(datasets, f"load_{name.replace(' ', '_')}")(as_frame=True).frame
        return (frame if name == "diabetes" else frame.assign(target="c" + frame["target"].astype(str))), "target"
    import statsmodels.datasets as datasets

    if name == "votes":  # 944 people of the American national election study of 1996
        frame = datasets.anes96.load_pandas().data.drop(columns=["PID"])
        return frame.assign(vote="c" + frame["vote"].astype(int).astype(str)), "vote"
    if name == "affairs":  # 6366 women of Redbook's survey of 1974
        return datasets.fair.load_pandas().data, "affairs"
    return datasets.randhie.load_pandas().data.sample(4000, random_state=0), "mdvis"  # visits to a doctor


def scores(predicted: Any, truth: pd.Series) -> dict[str, float]:
    """Return rmse, or the cross-entropy (loss) and the accuracy, of predictions for rows kept apart."""
    if np.ndim(predicted) == 1:
        return {"rmse": float(np.sqrt(np.mean((np.asarray(predicted) - truth.to_numpy()) ** 2)))}
    labels, places = np.unique(truth, return_inverse=True)
    assert predicted.shape[1] == len(labels)
    shares = np.clip(predicted, 1e-15, 1.0)[np.arange(len(places)), places]
    return {"loss": float(-np.log(shares).mean()), "accuracy": float((predicted.argmax(1) == places).mean())}


def by_auto(train: pd.DataFrame, test: pd.DataFrame, target: str, families: str, hours: float, seed: int) -> Any:
    """Return the predictions of `evo-tune auto` for rows kept apart, and the genome of its model."""
    import evo_tune

    with tempfile.TemporaryDirectory() as folder:
        train.to_csv(Path(folder) / "train.csv", index=False)
        words = ["auto", "train.csv", "--target", target, "--families", families, "--hours", f"{hours:g}"]
        words += ["--evaluator", "tabular", "--slots", "1", "--seed", f"{seed}", "--out", "model", "--quiet"]
        command = [sys.executable, "-m", "evo_tune", *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        model: Any = evo_tune.load_model(Path(folder) / "model")
        rows = test.drop(columns=[target])
        predicted = model.predict_proba(rows) if hasattr(model, "classes_") else model.predict(rows)
        return predicted, model.about.genome


def by_peer(name: str, train: pd.DataFrame, target: str, hours: float, seed: int) -> Predict:
    """Return a peer's model, fitted to all rows."""
    from sklearn import ensemble

    x, y = train.drop(columns=[target]), train[target]
    kind = "Regressor" if pd.api.types.is_numeric_dtype(y) else "Classifier"
    if name == PEERS[2]:
        return _lightgbm(x, y, kind, hours, seed)
    model = getattr(ensemble, f"{'HistGradientBoosting' if name == PEERS[0] else 'RandomForest'}{kind}")
    fitted = model(random_state=seed).fit(x, y)
    return fitted.predict if kind == "Regressor" else fitted.predict_proba  # type: ignore[no-any-return]


def _lightgbm(x: pd.DataFrame, y: pd.Series, kind: str, hours: float, seed: int) -> Predict:
    import lightgbm
    import optuna
    from sklearn.model_selection import train_test_split

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    of_classes = kind == "Classifier"
    parts = train_test_split(x, y, random_state=seed, stratify=y if of_classes else None)

    def make(options: dict[str, Any]) -> Any:
        return getattr(lightgbm, f"LGBM{kind}")(verbose=-1, random_state=seed, n_jobs=1, subsample_freq=1, **options)

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
        stop = lightgbm.early_stopping(50, verbose=False)
        model = make(options).fit(parts[0], parts[2], eval_set=[(parts[1], parts[3])], callbacks=[stop])
        trial.set_user_attr("options", {**options, "n_estimators": int(model.best_iteration_)})
        predicted = model.predict_proba(parts[1]) if of_classes else model.predict(parts[1])
        return next(iter(scores(predicted, parts[3]).values()))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=20, timeout=hours * 3600)
    model = make(study.best_trial.user_attrs["options"]).fit(x, y)
    return model.predict_proba if of_classes else model.predict  # type: ignore[no-any-return]


def measured(name: str, method: str, hours: float, seed: int) -> dict[str, Any]:
    """Return the row of a method on a split of a table."""
    frame, target = table(name)
    order = np.random.default_rng(seed).permutation(len(frame))
    cut = len(frame) // 5
    test, train = (frame.iloc[rows].reset_index(drop=True) for rows in (order[:cut], order[cut:]))
    began, genome = time.monotonic(), {}
    if method in AUTO:
        predicted, genome = by_auto(train, test, target, AUTO[method], hours, seed)
    else:
        predicted = by_peer(method, train, target, hours, seed)(test.drop(columns=[target]))
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
    parser = argparse.ArgumentParser(description="Families of models on tables, against peers.")
    parser.add_argument("--hours", type=float, default=0.033, help="Hours for each method and table.")
    parser.add_argument("--data", nargs="+", default=list(TABLES), choices=TABLES, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=[*list(AUTO)[:2], *PEERS], metavar="NAME")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--peers", default=sys.executable, help="Python of an environment with the peers.")
    parser.add_argument("--results", type=Path, default=Path("families.jsonl"), help="File that rows are added to.")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.results.read_text().splitlines()] if given.results.exists() else []
    for seed in range(given.splits):
        for name in given.data:
            for method in given.methods:
                if any((row["name"], row["method"], row["seed"]) == (name, method, seed) for row in rows):
                    continue
                if method in AUTO or given.peers == sys.executable:
                    row = measured(name, method, given.hours, seed)
                    with given.results.open("a") as results:
                        results.write(json.dumps(row) + "\n")
                else:
                    words = [
                        "--data",
                        name,
                        "--methods",
                        method,
                        "--splits",
                        f"{seed + 1}",
                        "--hours",
                        f"{given.hours}",
                    ]
                    command = [given.peers, __file__, *words, "--results", str(given.results)]
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                    row = json.loads(given.results.read_text().splitlines()[-1])
                rows.append(row)
                print({key: value for key, value in row.items() if key != "genome"}, flush=True)
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
