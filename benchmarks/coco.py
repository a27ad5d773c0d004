"""COCO's test functions: the share of targets that a search reaches, by group of functions, ours against others.

The suites are `bbob` (24 functions of real numbers) and `bbob-mixint` (the same with integers), which nobody here
wrote: Hansen et al., COCO: a platform for comparing continuous optimizers in a black-box setting (2021). A run has one
of the instances of a function, which is also its seed, and begins with the middle of the box, for all methods. Targets
are the 51 distances to the lowest value from 100 to 1e-8, in equal ratios, as COCO has them. A figure is the mean over
functions and instances, with its standard error.

    pip install coco-experiment
    python benchmarks/coco.py --suite bbob --dimensions 5 10 --instances 5
    python benchmarks/coco.py --suite bbob-mixint --dimensions 5 10 --instances 5
    python benchmarks/coco.py --suite bbob --dimensions 5 --methods saea random --csv runs.csv    in pieces

The other tools run in an environment of their own, as those of search.py do. A run in the file of --csv is not played
again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from problems import Instance, Problem, Result
from search import Line, Maker, Played, Record, cache, ours, peer, play

from evo_tune import Float, Gene, Int, SearchSpace

GROUPS = {
    "separable": range(1, 6),
    "moderate": range(6, 10),
    "ill-conditioned": range(10, 15),
    "multi-modal": range(15, 20),
    "weak structure": range(20, 25),
}
"""Numbers of the functions of each group; COCO's names."""

WON_AFTER = 20, 50, 100
"""Evaluations after which the share of won pairs is told."""

TARGETS = 10.0 ** np.linspace(2.0, -8.0, 51)

METHODS: dict[str, Maker] = {
    "saea": ours("saea"),
    "ga": ours("ga"),
    "random": ours("random"),
    "optuna tpe": peer("optuna tpe", default=True),
    "optuna gp": peer("optuna gp", default=True),
    "optuna cma-es": peer("optuna cma-es", default=True),
    "smac3": peer("smac3"),
}


def problem_of(suite: Any, number: int, dimension: int, name: str) -> Problem:
    """Return a function of a suite as a problem whose seeds are the instances; its regret is the distance to the best.

    Args:
        suite: COCO's suite.
        number: Number of the function, 1 to 24.
        dimension: Number of variables.
        name: For people and for --csv.
    """

    def instance(seed: int) -> Instance:
        function = suite.get_problem_by_function_dimension_instance(number, dimension, seed)
        lowest, whole = lowest_of(function), function.number_of_integer_variables
        bounds = zip(function.lower_bounds, function.upper_bounds, strict=True)
        genes = {f"x{place}": gene(low, high, place < whole) for place, (low, high) in enumerate(bounds)}

        def evaluate(genome: dict[str, Any]) -> Result:
            loss = float(function(np.array(list(genome.values()), dtype=float)))
            return (loss,), (loss,)

        return Instance(SearchSpace(**genes), evaluate, lambda results: distances(results, lowest))

    return Problem(name, "coco", instance)


def lowest_of(function: Any) -> float:
    """Return the lowest value of a function, which COCO tells only by a file in the working directory."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            function._best_parameter("print")
            value = float(function(np.loadtxt("._bbob_problem_best_parameter.txt")))
        finally:
            os.chdir(before)
    if not function.final_target_hit:
        raise RuntimeError(f"{function.id}: its best point is not the best; expected the final target to be hit")
    return value


def gene(low: float, high: float, whole: bool) -> Gene:
    """Return the gene of a variable."""
    return Int(round(low), round(high)) if whole else Float(float(low), float(high))


def distances(results: Sequence[Result], lowest: float) -> np.ndarray:
    """Return the distance of the best loss so far to the lowest value, after each evaluation, shape (evaluations,)."""
    return np.minimum.accumulate([told[0] if told else np.inf for told, _ in results]) - lowest


def share(distance: float) -> float:
    """Return the share of targets that a run has reached that came so close to the lowest value."""
    return float((distance <= TARGETS).mean())


def shown(shares: Sequence[float]) -> str:
    """Return mean and standard error of shares, in percent."""
    found = 100.0 * np.array(shares)
    return f"{found.mean():.1f} ± {found.std(ddof=1) / np.sqrt(len(found)):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The share of COCO's targets that searches reach.")
    parser.add_argument("--suite", choices=("bbob", "bbob-mixint"), default="bbob")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[5, 10], help="those of the suite")
    parser.add_argument("--instances", type=int, default=5, help="instances of each function, 2 or more")
    parser.add_argument("--first-instance", type=int, default=1, help="choose on others than those of the report")
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="of functions")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--csv", type=Path, help="file of the runs; those that it has are not played again")
    parser.add_argument("--peers-env", type=Path, default=cache(), help="environment of the other tools")
    given = parser.parse_args()
    try:
        import cocoex
    except ImportError:
        print("nothing to measure: coco-experiment is not installed (pip install coco-experiment)")
        return
    suite, record, line = cocoex.Suite(given.suite, "", ""), Record(given.csv), Line(given.peers_env)
    functions = [number for group in given.groups for number in GROUPS[group]]
    instances = range(given.first_instance, given.first_instance + given.instances)
    for seed in instances:  # outermost: whenever it is stopped, all have had about as many
        for dimension in given.dimensions:
            for number in functions:
                name = f"{given.suite} f{number} in {dimension}"
                problem = problem_of(suite, number, dimension, name)
                for method in given.methods:
                    if (method, name, seed) not in record.runs:
                        print(f"\r{seed}: {method} on {name}".ljust(60), end="", file=sys.stderr, flush=True)
                        played = play(METHODS[method], problem, seed, given.evaluations, 1, line)
                        record.add(method, name, seed, played)
    print(file=sys.stderr)
    for dimension in given.dimensions:
        print(f"\n{given.suite}, {dimension} variables: % of targets reached after {given.evaluations} evaluations")
        print(f"{'':16}" + "".join(f"{group:>18}" for group in (*given.groups, "all")))
        numbers = [*(GROUPS[group] for group in given.groups), functions]
        runs = {
            method: [runs_of(record, method, given.suite, dimension, some, instances) for some in numbers]
            for method in given.methods
        }
        for method, by_group in runs.items():
            cells = [[share(run.regrets[given.evaluations - 1]) for run in some] for some in by_group]
            print(f"{method:16}" + "".join(f"{shown(cell):>18}" for cell in cells))
        for method, by_group in runs.items():
            for count in [n for n in WON_AFTER if n <= given.evaluations and method != given.methods[0]]:
                cells = [won(first, some, count) for first, some in zip(runs[given.methods[0]], by_group, strict=True)]
                title = f"won by {given.methods[0]} against {method} after {count}, %"
                print(f"{title}\n{'':16}" + "".join(f"{shown(cell):>18}" for cell in cells))


def runs_of(
    record: Record, method: str, suite: str, dimension: int, numbers: Sequence[int], instances: Sequence[int]
) -> list[Played]:
    """Return the runs of a method on some functions of a suite."""
    names = [f"{suite} f{number} in {dimension}" for number in numbers]
    return [record.runs[method, name, instance] for name in names for instance in instances]


def won(runs: Sequence[Played], others: Sequence[Played], evaluations: int) -> list[float]:
    """Return for each pair 1 if the first run came closer to the lowest value, 0 if the second did, 0.5 if equal."""
    pairs = [
        (run.regrets[evaluations - 1], other.regrets[evaluations - 1]) for run, other in zip(runs, others, strict=True)
    ]
    return [0.5 if mine == theirs else float(mine < theirs) for mine, theirs in pairs]


if __name__ == "__main__":
    main()
