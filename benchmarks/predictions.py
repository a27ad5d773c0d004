"""How far the predicted values of `evo-tune show --predict` are true: before each training of a search, and after it.

A search of saea is played on tables of networks that others trained (see search.py). From the 20th trial on, the value
of each genome of the strategy is predicted before its result. For comparison the same is done for random genomes, which
somebody with an idea may propose. Rank: Spearman's correlation of predicted and true values. Inside: share of true
values inside the 80 % interval. Chance: mean predicted chance to be better than the best so far, beside how often that
came true.

    python benchmarks/predictions.py --tables ../shared/tables --seeds 2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))

from problems import Problem, tables

from evo_tune import Minimize
from evo_tune.genome.trial import Outcome
from evo_tune.loop.search import Search
from evo_tune.report.predictions import predict_genomes

FIRST, EACH = 20, 5
"""Trials before the first prediction, and random genomes that are predicted before each training."""


def objective(genome: dict[str, object], context: object) -> float:
    """Stand for a training: results are reported by hand."""
    raise NotImplementedError


def play(problem: Problem, seed: int, evaluations: int, folder: Path) -> tuple[list[tuple[float, ...]], list[float]]:
    """Return (own, predicted, low, high, chance, true, best so far) of each prediction, and seconds of a call."""
    instance, rng = problem.instance(seed), np.random.default_rng(seed)
    search = Search(objective, space=instance.space, objectives=[Minimize("loss")], seed=seed, store=folder)
    rows, seconds, best = [], [], np.inf
    for number in range(evaluations):
        candidate = search.ask()
        assert candidate is not None
        genomes = [candidate.genome, *(instance.space.sample(rng) for _ in range(EACH))]
        if number >= FIRST:
            began = time.perf_counter()
            predictions = predict_genomes(search.saved, genomes)
            seconds.append(time.perf_counter() - began)
            for place, (genome, row) in enumerate(zip(genomes, predictions, strict=True)):
                true = instance.evaluate(genome)[1]
                if true is not None and row.value is not None:
                    rows.append((place == 0, row.value, row.low, row.high, row.chance, true[0], best))
        losses, _ = instance.evaluate(candidate.genome)
        search.tell(candidate, Outcome("failed", error="missing") if losses is None else {"loss": losses[0]})
        best = best if losses is None else min(best, losses[0])
    search.close()
    return rows, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=2, help="searches on each table")
    parser.add_argument("--evaluations", type=int, default=40, help="trials of a search")
    chosen = parser.parse_args()
    print("table, genomes: rank, inside, chance, came true; milliseconds of a call")
    for problem in tables(chosen.tables):
        rows, seconds = [], []
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(chosen.seeds):
                more, times = play(problem, seed, chosen.evaluations, Path(folder))
                rows += more
                seconds += times
        for own in (True, False):
            table = np.array([row for row in rows if row[0] == own])
            _, predicted, low, high, chance, true, best = table.T
            inside = ((low <= true) & (true <= high)).mean()
            print(
                f"{problem.name}, {'of the strategy' if own else 'random'} ({len(table)}): "
                f"{spearmanr(predicted, true).statistic:.2f}, {inside:.0%}, {chance.mean():.1%}, "
                f"{(true < best).mean():.1%}; {1000 * np.median(seconds):.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
