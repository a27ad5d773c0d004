"""The default genome of `tabular` with and without balanced class weights, on a synthetic table with rare positives.

One row of 20 is of the rare class, whose first three of six normal columns have a mean of `--shift`. Each seed draws
another table, and both trainings of a seed have the same rows and weights at the start. Figures are on the test set,
and `val_loss` on the validation rows.

    python benchmarks/class_weights.py --rows 2000 --epochs 10 --seeds 4
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from evo_tune import Context
from evo_tune.plugins.find import find_evaluator

FIGURES = ("val_loss", "test_accuracy", "test_balanced_accuracy", "test_macro_f1", "test_auc")


def write_table(path: Path, rows: int, shift: float, seed: int) -> None:
    """Write a table of six columns a to f, and the class."""
    rng, rare = np.random.default_rng(seed), np.arange(rows) % 20 == 0
    columns = rng.normal(size=(rows, 6))
    columns[:, :3] += shift * rare[:, None]
    table = np.column_stack([columns, rare])
    np.savetxt(path, table, fmt=["%.6f"] * 6 + ["%d"], delimiter=",", header="a,b,c,d,e,f,kind", comments="")


def figures(table: Path, epochs: float, weights: str, seed: int) -> list[float]:
    """Return the figures of one training."""
    options = {"data": str(table), "target": "kind", "epochs": epochs, "precision": "fp32", "class_weights": weights}
    bound = find_evaluator("bundled:tabular").bind(options)
    metrics = bound.evaluate(bound.space.default(), Context(seed=seed, folder=table.parent / "training", test=True))
    return [metrics[name] for name in FIGURES]


def main() -> None:
    """Print the mean of each figure with its standard error, and of the paired difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--shift", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=4)
    asked = parser.parse_args()
    results: dict[str, list[list[float]]] = {"none": [], "balanced": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            table = Path(folder) / f"{seed}.csv"
            write_table(table, asked.rows, asked.shift, seed)
            for weights, rows in results.items():
                rows.append(figures(table, asked.epochs, weights, seed))
    values = {weights: np.array(rows) for weights, rows in results.items()}
    values["difference"] = values["balanced"] - values["none"]
    print(f"{'':12}" + "".join(f"{name:>24}" for name in FIGURES))
    for label, rows in values.items():
        pairs = zip(rows.mean(0), rows.std(0, ddof=1) / np.sqrt(len(rows)), strict=True)
        print(f"{label:12}" + "".join(f"{mean:16.3f} ±{error:.3f}" for mean, error in pairs))


if __name__ == "__main__":
    main()
