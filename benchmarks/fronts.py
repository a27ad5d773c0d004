"""Two objectives on known test functions: the share of the hypervolume that a search lacks.

ZDT1 to ZDT3 (Zitzler, Deb & Thiele 2000) and DTLZ2 (Deb, Thiele, Laumanns & Zitzler 2002), with six genes and two
objectives. All methods begin with 0.8 in each gene, because the middle is on the front of DTLZ2. The reference is
(1.1, 1.1) on DTLZ2 and (1.1, 11) on ZDT, whose second objective is at most 10. A figure is the mean over seeds, with
its standard error.

    python benchmarks/fronts.py --seeds 10
    python benchmarks/fronts.py --seeds 10 --methods saea nsga2 random      without other tools
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from problems import Instance, Problem, Result, hypervolume
from search import Line, Maker, Record, cache, ours, peer, play

from evo_tune import Float, SearchSpace

GENES = 6

METHODS: dict[str, Maker] = {
    "saea": ours("saea"),
    "nsga2": ours("nsga2"),
    "random": ours("random"),
    "optuna tpe": peer("optuna tpe", default=True),
    "optuna nsga2": peer("optuna nsga2", default=True),
}

Shape = Callable[[np.ndarray], tuple[float, float]]


def zdt(second: Callable[[float, float], float]) -> Shape:
    """Return a function of the ZDT family; `second` gives f2 / g from f1 and g."""

    def shape(x: np.ndarray) -> tuple[float, float]:
        g = 1.0 + 9.0 * float(x[1:].mean())
        return float(x[0]), g * second(float(x[0]), g)

    return shape


def dtlz2(x: np.ndarray) -> tuple[float, float]:
    """Return both objectives of DTLZ2 at a point of the unit box."""
    radius = 1.0 + float(((x[1:] - 0.5) ** 2).sum())
    return radius * float(np.cos(x[0] * np.pi / 2.0)), radius * float(np.sin(x[0] * np.pi / 2.0))


SHAPES: dict[str, tuple[Shape, float, float]] = {
    "ZDT1": (zdt(lambda f, g: 1.0 - np.sqrt(f / g)), 0.0, 11.0),
    "ZDT2": (zdt(lambda f, g: 1.0 - (f / g) ** 2), 0.0, 11.0),
    "ZDT3": (zdt(lambda f, g: 1.0 - np.sqrt(f / g) - f / g * np.sin(10.0 * np.pi * f)), 0.0, 11.0),
    "DTLZ2": (dtlz2, 0.5, 1.1),
}
"""By name: the function, the value of the last genes on its front, and the reference of the second objective."""


def problem_of(name: str) -> Problem:
    """Return a test function as a problem, the same for all seeds."""
    shape, best, reference = SHAPES[name]
    scale = np.array([1.1, reference])

    def points(rows: Sequence[Any]) -> np.ndarray:
        """Return objectives scaled so that the reference is (1, 1); ZDT3's second one may be negative."""
        return np.asarray(rows) / scale

    front = points([shape(np.array([f, *[best] * (GENES - 1)])) for f in np.linspace(0.0, 1.0, 2001)])
    whole = hypervolume(front)

    def evaluate(genome: dict[str, Any]) -> Result:
        losses = shape(np.array(list(genome.values())))
        return losses, losses

    def lacking(results: Sequence[Result]) -> np.ndarray:
        found = points([told for told, _ in results])
        return np.array([1.0 - hypervolume(found[:count]) / whole for count in range(1, len(found) + 1)])

    space = SearchSpace(**{f"x{place}": Float(0.0, 1.0, default=0.8) for place in range(GENES)})
    return Problem(name, "fronts", lambda seed: Instance(space, evaluate, lacking, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description="The share of the hypervolume that searches of two objectives lack.")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each method, 2 or more")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--csv", type=Path, help="file of the runs; those that it has are not played again")
    parser.add_argument("--peers-env", type=Path, default=cache(), help="environment of the other tools")
    given = parser.parse_args()
    record, line = Record(given.csv), Line(given.peers_env)
    for seed in range(given.seeds):
        for name in SHAPES:
            for method in given.methods:
                if (method, name, seed) not in record.runs:
                    print(f"\r{seed}: {method} on {name}".ljust(60), end="", file=sys.stderr, flush=True)
                    played = play(METHODS[method], problem_of(name), seed, given.evaluations, 1, line)
                    record.add(method, name, seed, played)
    print(file=sys.stderr)
    print(f"lacking after {given.evaluations}".ljust(20) + "".join(f"{name:>18}" for name in SHAPES))
    for method in given.methods:
        cells = []
        for name in SHAPES:
            found = np.array(
                [run.regrets[given.evaluations - 1] for run in record.of(method, name, range(given.seeds))]
            )
            cells.append(f"{found.mean():.3f} ± {found.std(ddof=1) / np.sqrt(len(found)):.3f}")
        print(f"{method:20}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
