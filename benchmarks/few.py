"""What rungs are worth where only a few full trainings are affordable: real trainings of `language_model`.

Each search may spend the cost of so many full trainings (`--budget`). Its best genome is trained again in full with
fresh seeds, as it was trained in the search. Searches of one seed are compared in pairs.

    python benchmarks/few.py --trainings 10 --seeds 3 --rungs 1 1/9,1/3,1 1/27,1/9,1/3,1
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FRESH = (1001, 1002)
"""Seeds with which the best genome is trained again."""


def found(rungs: str, trainings: float, seed: int, options: dict[str, Any], genes: list[str]) -> tuple[float, str]:
    """Return the mean loss of a search's best genome over fresh seeds, and what the search trained."""
    from evo_tune import Context, Search
    from evo_tune.plugins.find import find_evaluator

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        search = Search(
            "language_model",
            options=options,
            genes=dict.fromkeys(genes),
            fidelity=rungs,
            budget=trainings,
            seed=seed,
            slots=1,
            store=store,
            name="run",
        ).run()
        best, manifest = search.best, search.saved.manifest
        assert best is not None
        full = sum(candidate.budget == 1.0 for candidate in search.saved.candidates)
        genomes = sum(candidate.fresh for candidate in search.saved.candidates)
        evaluator = find_evaluator("bundled:language_model").bind(manifest.options)
        losses = []
        for number, fresh in enumerate(FRESH):
            context = Context(seed=fresh, budget=1.0, folder=store / str(number))
            losses.append(evaluator.evaluate(best.genome, context)["val_loss"])
    return float(np.mean(losses)), f"{genomes} genomes, {full} in full"


def main() -> None:
    parser = argparse.ArgumentParser(description="What rungs are worth where few full trainings are affordable.")
    parser.add_argument("--trainings", type=float, default=10.0, help="cost of a search, in full trainings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rungs", nargs="+", default=["1", "1/9,1/3,1"], help="the first ones are compared with")
    parser.add_argument("--flops", type=float, default=2e10, help="FLOPs of a full training")
    parser.add_argument("--genes", nargs="*", default=["optimizer", "position"], help="optional genes to switch on")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    options = {"size": "small", "flops": given.flops, "schedule": "wsd"}  # rungs settle it so; it matters more
    rows: dict[str, list[float]] = {rungs: [] for rungs in given.rungs}
    for seed in range(given.seeds):
        for rungs, losses in rows.items():
            began = time.perf_counter()
            loss, what = found(rungs, given.trainings, seed, options, given.genes)
            losses.append(loss)
            print(f"{seed:>3}  {rungs:14} {loss:.4f}  {what}, {time.perf_counter() - began:.0f} s", flush=True)
    first = np.array(rows[given.rungs[0]])
    print("\n| rungs | loss | difference to the first, by seed | lower in |\n|---|---|---|---|")
    for rungs, losses in rows.items():
        apart, root = np.array(losses) - first, np.sqrt(len(losses))
        mean = f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1) / root:.4f}"
        print(f"| {rungs} | {mean} | {apart.mean():+.4f} ± {apart.std(ddof=1) / root:.4f} | {(apart < 0).sum()} |")


if __name__ == "__main__":
    main()
