"""How well a rung's loss tells the end's: rank correlation on `language_model`, cut off and with a decay of its own.

Random genomes are trained along the rungs to the end in three ways: under a cosine that a rung cuts off, under wsd
that a rung cuts off at its peak, and under wsd with a fork, which is what `--fidelity` does. Each is compared with the
end of its own schedule.

    python benchmarks/rungs.py --genomes 23 --flops 7.5e10
    python benchmarks/rungs.py --genomes 23 --flops 7.5e10 --fix batch=512 --fix context=64 --fix width=64 --fix heads=4
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo_tune import Context
from evo_tune.genome.values import Genome, rank_correlation
from evo_tune.options.binding import split_assignments
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import Diverged

RUNGS = (1 / 9, 1 / 3, 1.0)

WAYS: dict[str, dict[str, Any]] = {
    "cosine, cut off": {"schedule": "cosine"},
    "wsd, cut off": {"schedule": "wsd", "fork": False},
    "wsd, forked": {"schedule": "wsd", "fork": True},
}

SAME = "wsd, cut off"
"""The way whose end is that of the forked one."""

RESAMPLED = 2000
"""Draws of genomes, with replacement, by which an interval is found."""


def trained(evaluator: BoundEvaluator, genome: Genome, seed: int, rungs: Sequence[float] = RUNGS) -> list[float]:
    """Return the loss at each rung, each from the checkpoint of the one before; NaN from where it diverged."""
    losses, before = [], None
    with tempfile.TemporaryDirectory() as scratch:
        for number, rung in enumerate(rungs):
            folder = Path(scratch) / str(number)
            context = Context(seed=seed, budget=rung, folder=folder, resume_folder=before)
            try:
                losses.append(evaluator.evaluate(genome, context)["val_loss"])
            except Diverged:
                return losses + [math.nan] * (len(rungs) - number)
            before = folder
    return losses


def kendall(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Kendall's tau: the share of pairs in the same order, less that of the others."""
    signs = [np.sign((x[:, None] - x[None, :])[np.triu_indices(len(x), 1)]) for x in (first, second)]
    return float(np.mean(signs[0] * signs[1]))


def interval(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Return the middle 95 % of Spearman's correlation over genomes drawn anew."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(first), size=(RESAMPLED, len(first)))
    low, high = np.quantile([rank_correlation(first[row], second[row]) for row in rows], (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description="How well a rung's loss tells the end's, on language_model.")
    parser.add_argument("--genomes", type=int, default=30, help="random ones, beside the default")
    parser.add_argument("--flops", type=float, default=None, help="of a full training; left out, the evaluator's own")
    parser.add_argument("--seed", type=int, default=1, help="of genomes and trainings")
    parser.add_argument("--fix", action="append", default=[], metavar="GENE=VALUE", help="in all genomes")
    given = parser.parse_args()
    evaluator = find_evaluator("bundled:language_model")
    fixed = {"size": "small", "flops": given.flops}
    space = evaluator.bind(fixed).space
    same = space.parse(split_assignments(given.fix, "--fix"))
    rng = np.random.default_rng(given.seed)
    drawn = [space.default(), *(space.sample(rng) for _ in range(given.genomes))]
    genomes = [space.check({**genome, **same}) for genome in drawn]
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for number, genome in enumerate(genomes):
        began = time.perf_counter()
        for way, options in WAYS.items():
            rungs = RUNGS[:-1] if way == SAME else RUNGS
            found[way].append(trained(evaluator.bind({**fixed, **options}), genome, given.seed, rungs))
        found[SAME][-1].append(found["wsd, forked"][-1][-1])  # to the bit: its rungs left no trace
        ends = "  ".join(f"{way} " + " ".join(f"{loss:.3f}" for loss in rows[-1]) for way, rows in found.items())
        print(f"{number:>3}  {time.perf_counter() - began:4.0f} s  {ends}", flush=True)
    report({way: np.array(rows) for way, rows in found.items()})


def report(found: dict[str, NDArray[np.float64]]) -> None:
    """Print the table: a row for each way and rung, over the genomes that reached the end in every way."""
    there = np.all([np.isfinite(rows).all(axis=1) for rows in found.values()], axis=0)
    print(f"\n{there.sum()} of {len(there)} genomes reached the end in every way\n")
    print("| | rung | Spearman (95 %) | Kendall | place of the eventual best |\n|---|---|---|---|---|")
    for way, rows in found.items():
        ends = rows[there, -1]
        for rung, early in zip(RUNGS[:-1], rows[there, :-1].T, strict=True):
            low, high = interval(early, ends)
            place = 1 + int((early < early[ends.argmin()]).sum())
            told = f"{rank_correlation(early, ends):.2f} ({low:.2f} to {high:.2f}) | {kendall(early, ends):.2f}"
            print(f"| {way} | 1/{1 / rung:.0f} | {told} | {place} |")
    cosine, wsd = (found[way][there, -1] for way in ("cosine, cut off", "wsd, forked"))
    print(
        f"\nat the end: cosine {cosine.mean():.3f}, wsd {wsd.mean():.3f}, lower in {(wsd < cosine).sum()} of {len(wsd)}"
    )


if __name__ == "__main__":
    main()
