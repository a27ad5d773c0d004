"""Measure the final comparison: false alarms, power and trainings, beside those of the rule before it.

Losses are drawn from normal distributions of standard deviation 1, those of one seed correlated over genomes. One
finalist is better than the default by the effect, or all of them are (--better all); without an effect, whoever says
'beats' is wrong. --coarse shows that for metrics of few values. 'Before' trained all finalists and the default with N
seeds, took the lowest mean, and said 'beats' from a gain of two errors on, as if seeds were not shared; it is shown
with N, and with the N that costs what the comparison costs on average. The comparison is
`evo_tune.report.final_comparison`, played as a run plays it.

    python benchmarks/comparison.py
    python benchmarks/comparison.py --finalists 5 --correlation 0.5 --effects 0,1 --tries 2000
    python benchmarks/comparison.py --coarse
    python benchmarks/comparison.py --finalists 1 --correlation 0.5 --better all --looks 2,4
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evo_tune.report.final_comparison import FinalComparison, FreshTraining

CHOOSE = 100
"""Seeds 1 to this are for reporting; those after it for choosing."""

_SHARES = np.cumsum([math.comb(20, count) * 0.2**count * 0.8 ** (20 - count) for count in range(20)])
_BOUNDS = np.array([NormalDist().inv_cdf(float(share)) for share in _SHARES])

CAPS = (1, 2, 3, 5)
"""What `--final-seeds` says with --coarse."""

METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "continuous": lambda normal: normal,
    "two-valued": lambda normal: (normal > 0.0).astype(float),
    "rounded": np.round,  # to standard deviations
    "binomial": lambda normal: np.searchsorted(_BOUNDS, normal) / 20,  # the errors in 20 samples, 4 on average
}
"""Losses made of normal ones, by name."""


@dataclass(frozen=True)
class Figures:
    """What came of many tries: share of 'beats', trainings on average, share in which the better one was chosen."""

    beats: float
    trainings: float
    right: float

    @property
    def error(self) -> float:
        """Standard error of `beats`, for 1 try; divide by the root of their number."""
        return math.sqrt(self.beats * (1 - self.beats))


def draw(
    finalists: int, correlation: float, effect: float, every: bool, seeds: int, rng: np.random.Generator
) -> np.ndarray:
    """Return losses, [genomes, seeds]; the default is row 0, and the better finalist is in any place."""
    losses = math.sqrt(1 - correlation) * rng.standard_normal((finalists + 1, seeds))
    losses += math.sqrt(correlation) * rng.standard_normal(seeds)
    losses[slice(1, None) if every else slice(1, 2)] -= effect
    rng.shuffle(losses[1:])
    return losses


def race(
    finalists: int,
    correlation: float,
    effect: float,
    every: bool,
    cap: int,
    tries: int,
    rng: np.random.Generator,
    metric: str = "continuous",
    looks: tuple[int, ...] = (),
) -> Figures:
    """Play the comparison.

    Args:
        finalists: Number of finalists.
        correlation: Correlation of the losses of one seed.
        effect: By how much the better one is better, in standard deviations.
        every: Whether all finalists are better.
        cap: What `--final-seeds` says.
        tries: Number of comparisons.
        rng: Source of the losses.
        metric: A key of METRICS.
        looks: Seeds at each look; empty: by `cap`.
    """
    game, beats, spent, right = FinalComparison(tuple(range(1, finalists + 1)), 0, cap, looks), 0, 0, 0
    for _ in range(tries):
        losses = METRICS[metric](draw(finalists, correlation, effect, every, 2 * CHOOSE, rng))
        results: dict[FreshTraining, float | None] = {}
        while wanted := (state := game.state(results)).next_trainings:
            for one in wanted:
                column = one.seed_number - 1 + (CHOOSE if one.purpose == "choose" else 0)
                results[one] = float(losses[one.id, column])
        beats += state.beats is True
        spent += len(results)
        right += state.chosen is not None and _is_best(state.chosen, losses)
    return Figures(beats / tries, spent / tries, right / tries)


def before(
    finalists: int, correlation: float, effect: float, every: bool, seeds: int, tries: int, rng: np.random.Generator
) -> Figures:
    """Do as it was done before: the lowest mean of all, and two errors."""
    beats, right = 0, 0
    for _ in range(tries):
        losses = draw(finalists, correlation, effect, every, seeds + 2 * CHOOSE, rng)
        mine = losses[:, :seeds]
        mean, error = mine.mean(axis=1), mine.std(axis=1, ddof=1) / math.sqrt(seeds)
        best = 1 + int(mean[1:].argmin())
        beats += bool(mean[0] - mean[best] > 2 * math.hypot(error[0], error[best]))
        right += _is_best(best, losses)
    return Figures(beats / tries, (finalists + 1) * seeds, right / tries)


def _is_best(id: int, losses: np.ndarray) -> bool:
    """Whether no finalist is better over hundreds of seeds."""
    means = losses[1:].mean(axis=1)
    return bool(means[id - 1] <= means.min() + 0.25)


def coarse(tries: int) -> None:
    """Print the share of 'beats' by metric: without an effect, and for one of 1.5 standard deviations."""
    print(f"{tries} tries a cell: share that says 'beats' without an effect; with one of 1.5 sd")
    print(f"{'metric':<12}{'finalists':<11}{'corr.':<7}" + "".join(f"--final-seeds {cap:<6}" for cap in CAPS))
    for metric in METRICS:
        for finalists, correlation in ((1, 0.0), (1, 0.5), (5, 0.0), (5, 0.5)):
            cells = ""
            for cap in CAPS:
                found = [
                    race(finalists, correlation, effect, False, cap, tries, _rng(effect), metric).beats
                    for effect in (0.0, 1.5)
                ]
                cells += f"{f'{found[0]:.4f}; {found[1]:.3f}':<20}"
            print(f"{metric:<12}{finalists:<11}{correlation:<7g}{cells}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finalists", default="2,5", help="numbers of finalists (default 2,5)")
    parser.add_argument("--correlation", default="0.2,0.5", help="of one seed's losses (default 0.2,0.5)")
    parser.add_argument("--effects", default="0,0.5,1,2", help="in standard deviations (default 0,0.5,1,2)")
    parser.add_argument("--better", choices=("one", "all"), default="one", help="which finalists have the effect")
    parser.add_argument("--cap", type=int, default=3, help="what --final-seeds says (default 3)")
    parser.add_argument(
        "--looks", default="", help="seeds at each look, where hours limit them: 2,4 (default by --cap)"
    )
    parser.add_argument("--tries", type=int, default=20_000)
    parser.add_argument("--coarse", action="store_true", help="only what metrics of few values change")
    given = parser.parse_args()
    if given.coarse:
        coarse(given.tries)
        return
    effects = [float(text) for text in given.effects.split(",")]
    every, looks = given.better == "all", tuple(int(text) for text in given.looks.split(",") if text)
    print(f"{given.tries} tries a cell, --final-seeds {given.cap}, better: {given.better}")
    print("share that says 'beats' (trainings; right choice), by effect")
    print(f"{'finalists':<10}{'corr.':<7}{'':<14}" + "".join(f"{effect:<22g}" for effect in effects) + "mean trainings")
    for finalists in (int(text) for text in given.finalists.split(",")):
        for correlation in (float(text) for text in given.correlation.split(",")):
            setting = finalists, correlation
            new = [
                race(*setting, effect, every, given.cap, given.tries, _rng(effect), looks=looks) for effect in effects
            ]
            cost = sum(one.trainings for one in new) / len(new)
            rows = [("comparison", new)]
            for seeds in sorted({given.cap, max(2, round(cost / (finalists + 1)))}):
                old = [before(*setting, effect, every, seeds, given.tries, _rng(effect)) for effect in effects]
                rows.append((f"before, {seeds}", old))
            for name, row in rows:
                cells = "".join(f"{f'{one.beats:.3f} ({one.trainings:.1f}; {one.right:.2f})':<22}" for one in row)
                mean = sum(one.trainings for one in row) / len(row)
                print(f"{finalists:<10}{correlation:<7g}{name:<14}{cells}{mean:.1f}", flush=True)


def _rng(effect: float) -> np.random.Generator:
    return np.random.default_rng([1, round(100 * effect)])


if __name__ == "__main__":
    main()
