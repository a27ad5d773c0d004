"""Feed-forward layers of the tabular evaluator: gelu against reglu and swiglu on tables that scikit-learn ships.

All variants train the default genome, apart from ffn_mult, for the steps of the default training, without early
stopping. A gate has two thirds of the hidden width, so that a training takes about as long with it. 'reglu' with
ffn_mult=2 has the hidden width of the FT-Transformer's paper, to the nearest multiple of 8. Losses are compared in
pairs of the same table and seed: the difference of their natural logarithms from that of 'gelu' at 4/3.

    python benchmarks/tables.py --seeds 4 --rows rows.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import torch

sys.path.insert(0, str(Path(__file__).parent))

from transfer_trainings import Rows

from evo_tune.plugins.find import find_evaluator

TABLES = "breast_cancer", "diabetes", "wine"
BASE = "gelu", 1.333333
VARIANTS = (BASE, ("reglu", 1.333333), ("swiglu", 1.333333), ("reglu", 2.0))
"""Type of the layers and ffn_mult."""
METRICS = "last", "best", "test"
"""val_loss after the last step, its lowest evaluation, and test_loss after the last step."""


def train(file: Path, ffn: str, ffn_mult: float, seed: int, folder: Path) -> dict[str, float]:
    """Return the losses of `METRICS` of one training, for as many steps as the default one has."""
    from evo_tune import Context

    evaluator = find_evaluator("bundled:tabular")
    options = {"data": str(file), "target": "target", "patience": None}
    default = evaluator.bind({**options, "flops": 3e10})
    rows = len(default.values.table.training)
    epochs = default.estimate(default.space.default())["samples"] / rows
    bound = evaluator.bind({**options, "epochs": epochs, "ffn": ffn})
    context = Context(seed=seed, folder=folder, test=True)
    metrics = bound.evaluate({**bound.space.default(), "ffn_mult": ffn_mult}, context)
    evaluations = [point["val_loss"] for _, point in context.curve]
    return {"last": metrics["val_loss"], "best": min(evaluations), "test": metrics["test_loss"]}


def change(losses: dict[Any, dict[str, float]], variant: tuple[str, float], table: str, metric: str) -> list[float]:
    """Return the log ratio of a variant's loss to the base's for each seed of a table."""
    base = {seed: of[metric] for (name, *layer, seed), of in losses.items() if (name, *layer) == (table, *BASE)}
    other = {seed: of[metric] for (name, *layer, seed), of in losses.items() if (name, *layer) == (table, *variant)}
    return [float(np.log(other[seed] / base[seed])) for seed in base]


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed-forward layers on tables.")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rows", type=Path, help="file of results; those in it are not computed again")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, losses = Rows(given.rows), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for table in TABLES:
            getattr(sklearn.datasets, f"load_{table}")(as_frame=True).frame.to_csv(folder / f"{table}.csv", index=False)
        for number, case in enumerate(itertools.product(VARIANTS, TABLES, range(given.seeds))):
            (ffn, ffn_mult), table, seed = case
            of = {"table": table, "ffn": ffn, "ffn_mult": ffn_mult, "seed": seed}
            arguments = folder / f"{table}.csv", ffn, ffn_mult, seed, folder / str(number)
            losses[table, ffn, ffn_mult, seed] = rows.get(of, lambda arguments=arguments: train(*arguments))
    print(f"{'change of ln loss':22}" + "".join(f"{table:>20}" for table in (*TABLES, "all")))
    for variant, metric in itertools.product(VARIANTS[1:], METRICS):
        changes = [change(losses, variant, table, metric) for table in TABLES]
        pooled = list(itertools.chain.from_iterable(changes))
        cells = [f"{statistics.mean(some):+.3f} ±{standard_error(some):.3f}" for some in (*changes, pooled)]
        print(f"{variant[0]:7}{variant[1]:5.2f} {metric:9}" + "".join(f"{cell:>20}" for cell in cells))


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean."""
    return statistics.stdev(values) / len(values) ** 0.5


if __name__ == "__main__":
    main()
