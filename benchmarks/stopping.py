"""When to stop: the chance that a report tells, and stopping by it, replayed on tables of networks that others trained.

The default strategy plays each table; after every training it is asked for the chance that the next 12 improve by
more than the seeds' noise (`summary.further_of`), and then seen whether they did. Stopping where that chance is
below 5% stands beside fixed patience: to stop after so many trainings in a row without an improvement by more than
the noise.
The noise is that between a table's seeds, among its best tenth of cells; tables without seeds (translation, nanogpt)
are given 2% of what lies between their median and their best.

- *right*: of the moments at which a chance within some bounds was told, the share that then improved;
- *saved*: trainings that were not made, of those that the run had;
- *lost*: normalised regret where it stopped less that at the run's end (0: nothing, 1: the table's median);
- *missed*: runs that would have improved by more than the noise had they gone on to the end.

    python benchmarks/stopping.py --tables ../shared/tables --seeds 6 --played ~/.cache/evo-tune/stopping

The tables are no part of this project; where they are absent, there is nothing to replay. What was played is kept in
the folder of --played and not played again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import pandas as pd
from problems import SOURCES, Problem, tables
from search import Ours

from evo_tune.report.summary import DONE_CHANCE, MIN_LOSSES_FOR_CHANCE, improvement_chance

TRAININGS = 80
"""Of a run."""

NEXT = 12
"""Trainings of which the chance is told: a generation."""

BOUNDS = (0.0, 0.05, 0.2, 0.5, 1.001)
"""Of the chances that are counted together."""

PATIENCE = (8, 12, 20, 30)

GIVEN = 0.02
"""Noise of tables without seeds, as a share of the median's distance from the best."""


def play(problem: Problem, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a search was told, NaN for failures, and its regret; both of shape (TRAININGS,)."""
    instance = problem.instance(seed)
    player, results = Ours(instance, seed, "saea"), []
    for _ in range(TRAININGS):
        handle, genome = player.ask()
        results.append(instance.evaluate(genome))
        player.tell(handle, results[-1][0])
    return np.array([np.nan if seen is None else seen[0] for seen, _ in results]), instance.regrets(results)


def noise_in(folder: Path, name: str) -> float | None:
    """Return the noise of a table: the median, over its best tenth of cells, of the deviation between seeds."""
    source = SOURCES[name]
    frame = pd.read_parquet(folder / source.file)
    stem = source.losses[0].removesuffix("_mean")
    seeds = [column for column in frame if column.startswith(f"{stem}_seed")]
    if len(seeds) < 2:
        losses = source.column(frame.dropna(subset=[source.losses[0]]), source.losses[0])
        return GIVEN * float(np.median(losses) - losses.min())
    values = frame[seeds].to_numpy(float)
    values = np.log(values) if source.losses[0] in source.log else values
    losses = source.column(frame, source.losses[0])
    best = losses <= np.quantile(losses, 0.1)
    return float(np.median(values[best].std(axis=1, ddof=1)))


def told(losses: np.ndarray, noise: float, at: int) -> float:
    """Return the chance after so many trainings; NaN where none is told."""
    known = losses[:at][np.isfinite(losses[:at])]
    return improvement_chance(known.tolist(), noise, NEXT)


def lowest(losses: np.ndarray) -> np.ndarray:
    """Return the lowest loss after each training, infinite before there is any."""
    return np.asarray(np.minimum.accumulate(np.where(np.isfinite(losses), losses, np.inf)))


def by_chance(losses: np.ndarray, noise: float, below: float = DONE_CHANCE) -> int:
    """Return after how many trainings a run stops by the chance."""
    found = (at for at in range(MIN_LOSSES_FOR_CHANCE, len(losses)) if told(losses, noise, at) < below)
    return next(found, len(losses))


def by_patience(losses: np.ndarray, noise: float, patience: int) -> int:
    """Return after how many trainings a run stops by fixed patience."""
    best, since = np.inf, 0
    for at, loss in enumerate(losses, 1):
        if np.isfinite(loss) and loss < best - noise:
            best, since = loss, 0
        else:
            since += 1
        if since >= patience:
            return at
    return len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path("../shared/tables"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--played", type=Path, default=Path.home() / ".cache" / "evo-tune" / "stopping")
    given = parser.parse_args()
    given.played.mkdir(parents=True, exist_ok=True)
    runs: list[tuple[np.ndarray, np.ndarray, float]] = []
    for problem in tables(given.tables):
        if problem.group in ("fronts", "seeds", "one seed"):
            continue
        noise = noise_in(given.tables, problem.name)
        for seed in range(given.seeds):
            file = given.played / f"{problem.name.replace(' ', '_').replace(',', '')}-{seed}.npz"
            if not file.is_file():
                seen, regrets = play(problem, seed)
                np.savez(file, seen=seen, reg=regrets)
            data = np.load(file)
            runs.append((data["seen"], data["reg"], noise or 0.0))
        print(f"{problem.name}: noise {noise:.3g}", file=sys.stderr, flush=True)
    if not runs:
        print(f"no tables in {given.tables}")
        return
    report(runs)


def report(runs: list[tuple[np.ndarray, np.ndarray, float]]) -> None:
    """Print both tables, as Markdown."""
    chances, came = [], []
    for seen, _, noise in runs:
        best = lowest(seen)
        for at in range(MIN_LOSSES_FOR_CHANCE, len(seen) - NEXT + 1):
            found = told(seen, noise, at)
            if np.isfinite(found):
                chances.append(found)
                came.append(best[at - 1] - best[at + NEXT - 1] > noise)
    found, true = np.array(chances), np.array(came)
    print(f"{len(runs)} runs of {TRAININGS} trainings; the next {NEXT} improved in {true.mean():.0%} of all moments")
    print("\n| chance told | moments | mean chance | improved |\n|---|---|---|---|")
    for low, high in pairwise(BOUNDS):
        within = (low <= found) & (found < high)
        if within.any():
            print(
                f"| {low:.0%} to {min(1.0, high):.0%} | {within.sum()} | {found[within].mean():.0%} "
                f"| {true[within].mean():.0%} |"
            )
    brier, base = ((found - true) ** 2).mean(), true.mean() * (1 - true.mean())
    print(f"\nBrier score {brier:.3f}, of the base rate {base:.3f}")
    rules: dict[str, Callable[[np.ndarray, float], int]] = {f"chance below {DONE_CHANCE:.0%}": by_chance}
    rules["chance below 10%"] = lambda seen, noise: by_chance(seen, noise, 0.1)
    for patience in PATIENCE:
        rules[f"patience {patience}"] = lambda seen, noise, patience=patience: by_patience(seen, noise, patience)
    print("\n| stopped by | saved | lost | missed | stopped at, median |\n|---|---|---|---|---|")
    for name, rule in rules.items():
        rows = []
        for seen, regrets, noise in runs:
            at, best = rule(seen, noise), lowest(seen)
            missed = best[at - 1] - best[-1] > noise
            rows.append((1 - at / len(seen), regrets[at - 1] - regrets[-1], missed, at))
        saved, lost, missed, at = np.array(rows, dtype=float).T
        error = lost.std(ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else 0.0
        told_of = f"{saved.mean():.0%} | {lost.mean():.3f} ± {error:.3f} | {missed.mean():.0%} | {np.median(at):.0f}"
        print(f"| {name} | {told_of} |")


if __name__ == "__main__":
    main()
