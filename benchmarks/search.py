"""How many trainings a search needs: our strategies against others, on tables of networks that others trained.

Every method plays through ask and tell, and a look-up stands for the training. Ordered genes are ordered
for all (the index of a value, so that a grid in equal ratios is a log scale; a real number on its own
scale), categories are categories for all, and a cell that a table lacks is a failure for all. A table with
several seeds is searched and scored on their mean; in its noisy form it is searched on seed 0 and the cell
that looks best is scored on the mean. With --further a cell is trained with one seed after the other, each at
full cost, for every method, and what it recommends is scored on the mean of all. Mixed functions, whose optimum
lies elsewhere for each seed, say how much of this holds elsewhere; of the noisy one, too, what is recommended is
scored. Ours begin with the middle of every gene, as every run of `evo-tune` begins with the default; 'default first'
gives it to Optuna's TPE as well.

Normalised regret is (best found - the table's best) / (the table's median - its best): 0 is the best there
is, 1 the median. A figure is the mean over problems of the mean over seeds, with the standard error over
seeds. The median of evaluations to a regret of 5% is that of all runs; a run that never came there counts
as infinite. Rank is the mean over problems and over 20, 40 and 60 evaluations of a method's place by regret.
With several slots trainings pass in simulated time, which differ by 1:10, and regret is counted by results.
With two objectives (--fronts) regret is the share of the table's hypervolume that is not dominated.

    python benchmarks/search.py --tables ../shared/tables --seeds 20
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --slots 1,2,4,8,32,96    several at a time
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --fronts      two objectives
    python benchmarks/search.py --tables ../shared/tables --seeds 20 --further     further seeds of a genome
    python benchmarks/search.py --problems conditions --seeds 10 --evaluations 50  constraints, failures, branches
    python benchmarks/search.py --problems noise --seeds 10 --evaluations 60       more functions with noise

The others run in an environment of their own, which the script makes in the user's cache, or at
--peers-env, the first time (about 1 GB). A run that is in the file of --csv already is not played again,
so a slow method may be run in pieces, by itself (--methods), with as few seeds as there is time for.

The tables are no part of this project; where they are absent, only the functions are played.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import heapq
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from players import FRONTS, FURTHER, METHODS, SLOTS, Line, Maker, Player
from problems import CONDITIONS, FUNCTIONS, NOISY, Instance, Problem, Result
from search_tables import tables

from evo_tune.genome.values import genome_key

BUDGETS = (10, 20, 40, 50, 60, 100, 192, 384)
"""Numbers of evaluations after which the regret is told."""

RANKED = (20, 40, 60)
"""Those of them after which methods are ranked."""

CLOSE = 0.05
"""Regret that counts as found."""


@dataclass(frozen=True)
class Played:
    """One run.

    Args:
        regrets: After each evaluation, shape (evaluations,).
        asking: Milliseconds per proposal.
        failed: Share of trainings that failed or broke a constraint.
    """

    regrets: np.ndarray
    asking: float
    failed: float = 0.0

    @property
    def needed(self) -> float:
        """Evaluations to a regret of at most CLOSE; infinite if it was not reached."""
        close = np.flatnonzero(self.regrets <= CLOSE)
        return float(close[0]) + 1 if len(close) else np.inf


LOOKS = 5
"""Evaluations between two looks at what a method recommends."""

SLOWEST = 10.0
"""How many times as long as the shortest training the longest one takes, in simulated time."""


def duration(genome: dict[str, Any]) -> float:
    """Return how long a genome trains in simulated time, 1 to SLOWEST: the same for every method."""
    luck = int.from_bytes(hashlib.sha256(genome_key(genome).encode()).digest()[:8], "big") / 2**64
    return 1.0 + (SLOWEST - 1.0) * luck


def play(maker: Maker, problem: Problem, seed: int, evaluations: int, slots: int, line: Line) -> Played:
    """Play one run with so many trainings at a time, each of its `duration`; a result is told when it is there.

    The regret after n evaluations is that of the first n that came back.
    """
    instance = problem.instance(seed)
    player = maker(instance, seed, evaluations, line)
    out: list[tuple[float, int, Any, Result]] = []
    results: list[Result] = []
    course: list[float] = []
    seconds = now = 0.0
    for number in range(evaluations):
        began = time.perf_counter()
        if len(out) == slots:
            now, _, handle, result = heapq.heappop(out)
            player.tell(handle, result[0])
            results.append(result)
            course.append(_looked_at(player, instance, course))
        try:
            handle, genome = player.ask()
        except StopIteration:  # a small space, all of it known
            break
        seconds += time.perf_counter() - began
        heapq.heappush(out, (now + duration(genome), number, handle, instance.evaluate(genome)))
    for _, _, handle, result in sorted(out, key=lambda row: row[:2]):
        results.append(result)
        if instance.regret:
            player.tell(handle, result[0])
            course.append(_looked_at(player, instance, course))
    results += [(None, None)] * (evaluations - len(results))
    if instance.regret:
        found = np.array(course + course[-1:] * (evaluations - len(course)))
    else:
        found = instance.regrets(results)
    failed = [told is None or any(value > 0.0 for value in told[instance.objectives :]) for told, _ in results]
    return Played(found, 1000 * seconds / evaluations, float(np.mean(failed)))


def _looked_at(player: Player, instance: Instance, course: list[float]) -> float:
    """Return the regret of what a method recommends after so many results, or as it last was: it is asked at times."""
    if not instance.regret or (len(course) + 1) % LOOKS:
        return course[-1] if course else np.inf
    genome = player.recommended()
    return np.inf if genome is None else instance.regret(genome)


class Record:
    """The runs played so far, by method, problem and seed, and the CSV file in which they stand, if any.

    Args:
        path: The file; a run is a row: method, problem, seed, milliseconds, share of failures, regrets.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.runs: dict[tuple[str, str, int], Played] = {}
        if path and path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                for method, problem, seed, asking, failed, *regrets in csv.reader(file):
                    if method != "method":
                        played = Played(np.array(regrets, dtype=float), float(asking), float(failed))
                        self.runs[method, problem, int(seed)] = played
        elif path:
            self._append(["method", "problem", "seed", "ms", "failed", *range(1, max(BUDGETS) + 1)])

    def add(self, method: str, problem: str, seed: int, played: Played) -> None:
        """Note a run, on disk as well."""
        self.runs[method, problem, seed] = played
        if self.path:
            regrets = [f"{regret:.6g}" for regret in played.regrets]
            self._append([method, problem, seed, f"{played.asking:.3f}", f"{played.failed:.3f}", *regrets])

    def _append(self, row: list[Any]) -> None:
        assert self.path is not None
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def of(self, method: str, problem: str, seeds: Iterable[int]) -> list[Played]:
        """Return the runs of one method on one problem."""
        return [self.runs[method, problem, seed] for seed in seeds if (method, problem, seed) in self.runs]


Runs = dict[str, list[Played]]
"""The runs of one method on each problem."""


def reached(played: Sequence[Played], budget: int) -> np.ndarray:
    """Return each run's regret after `budget`; one of nothing but failures is as good as the median."""
    regrets = np.array([run.regrets[budget - 1] for run in played])
    return np.where(np.isinf(regrets), 1.0, regrets)


def summary(runs: Runs, budget: int) -> str:
    """Return mean and standard error over seeds of the mean over problems, of the regret after `budget`, if known."""
    if any(len(run.regrets) < budget for played in runs.values() for run in played):
        return "-"
    all = [reached(played, budget) for played in runs.values()]
    error = np.sqrt(sum(regrets.var(ddof=1) / len(regrets) for regrets in all)) / len(all)
    return f"{np.mean([regrets.mean() for regrets in all]):.3f} ± {error:.3f}"


def ranks(results: dict[str, Runs], budgets: Iterable[int]) -> dict[str, float]:
    """Return each method's place by regret, 1 the best, as a mean over problems and budgets; ties share."""
    names = list(results)
    places = []
    for problem in next(iter(results.values())):
        for budget in budgets:
            means = np.array([reached(results[name][problem], budget).mean() for name in names])
            places.append([1 + (means < mean).sum() + ((means == mean).sum() - 1) / 2 for mean in means])
    return dict(zip(names, np.mean(places, axis=0), strict=True))


def conditions(results: dict[str, Runs], budget: int) -> None:
    """Print, for each problem, mean and standard error of the regret after `budget`, and the share of failures.

    The functions are smooth, so regrets span powers of ten, and no mean over problems is taken.
    """
    width = max(map(len, results))
    print(f"\nconditions: regret at {budget}, and the share of failed trainings")
    for problem in next(iter(results.values())):
        print(f"  {problem}")
        for name, runs in results.items():
            found = reached(runs[problem], budget)
            mean, error = found.mean(), found.std(ddof=1) / np.sqrt(len(found))
            failed = np.mean([run.failed for run in runs[problem]])
            print(
                f"    {name:{width}} {mean:10.2g} ± {error:8.2g}  median {np.median(found):8.2g}  failed {failed:5.1%}"
            )


def report(group: str, results: dict[str, Runs], budgets: Sequence[int]) -> None:
    """Print the means over the problems of a group, then the regrets of each problem."""
    width = max(map(len, results))
    columns = "".join(f"{f'regret at {budget}':>17}" for budget in budgets)
    print(f"\n{group}: {', '.join(next(iter(results.values())))}")
    print(f"{'method':{width}}{columns}{'rank':>7}{'median to 5%':>14}{'ms/proposal':>13}{'seeds':>7}")
    rank = ranks(results, [budget for budget in RANKED if budget in budgets])
    for name, runs in results.items():
        needed = np.median([run.needed for played in runs.values() for run in played])
        asking = np.mean([run.asking for played in runs.values() for run in played])
        cells = "".join(f"{summary(runs, budget):>17}" for budget in budgets)
        seeds = min(map(len, runs.values()))
        print(f"{name:{width}}{cells}{rank[name]:7.1f}{needed:14.1f}{asking:13.1f}{seeds:7d}")
    print("each at " + "/".join(map(str, RANKED)))
    for problem in next(iter(results.values())):
        print(f"  {problem}")
        for name, runs in results.items():
            cells = " ".join(f"{reached(runs[problem], b).mean():6.3f}" for b in RANKED if b in budgets)
            print(f"    {name:{width}} {cells}{np.median([run.needed for run in runs[problem]]):9.1f}")


def cache() -> Path:
    """Return the folder in the user's cache where the environment of the peers is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evo-tune" / "peers"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How many trainings a search needs, on tables of trained networks.")
    parser.add_argument("--tables", type=Path, default=Path("../shared/tables"), help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each method on each problem, 2 or more")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run (choose on other seeds)")
    parser.add_argument("--evaluations", type=int, default=100, help="trainings of a run, 20 or more")
    parser.add_argument("--slots", default="1", help="trainings at a time: a number, or several as 1,8,96")
    parser.add_argument("--fronts", action="store_true", help="two objectives instead of one")
    parser.add_argument("--further", action="store_true", help="noisy tables, extra seeds of a genome at full cost")
    parser.add_argument("--methods", help="only these, separated by semicolons")
    parser.add_argument("--problems", help="only these, or groups of them, separated by semicolons")
    parser.add_argument("--peers-env", type=Path, default=cache(), help="environment of the other tools")
    parser.add_argument("--csv", type=Path, help="append every run here, and play none that is here already")
    given = parser.parse_args()
    try:
        given.slots = [int(slots) for slots in given.slots.split(",")]
    except ValueError:
        parser.error(f"--slots {given.slots}: expected whole numbers, such as 1,8,96")
    if given.seeds < 2 or given.evaluations < 20 or min(given.slots) < 1:
        parser.error("expected --seeds of 2 or more, --evaluations of 20 or more and --slots of 1 or more")
    given.methods = given.methods.split(";") if given.methods else None
    given.problems = given.problems.split(";") if given.problems else None
    return given


def at_once(name: str, slots: int) -> str:
    """Return what a method is called that plays with so many slots."""
    return name if slots == 1 else f"{name}, {slots} slots"


def main() -> None:
    given = arguments()
    methods = FRONTS if given.fronts else FURTHER if given.further else METHODS
    wanted = given.methods or (SLOTS if given.slots != [1] and methods is METHODS else methods)
    methods = {name: maker for name, maker in methods.items() if name in wanted}
    found = tables(given.tables)
    problems = [*found, *FUNCTIONS, *NOISY, *CONDITIONS]
    if not found:
        print(f"nothing to measure in {given.tables}: it holds none of the tables; they are no part of this project")
    wanted_problems = given.problems or {problem.group for problem in problems} - {"conditions", "noise"}
    problems = [
        problem
        for problem in problems
        if (problem.group == "fronts") == given.fronts
        and (problem.group in ("seeds", "one seed")) == given.further
        and (problem.name in wanted_problems or problem.group in wanted_problems)
    ]
    if not methods or not problems:
        print("no method or no problem of these names")
        return
    record, line = Record(given.csv), Line(given.peers_env)
    rows = {at_once(name, slots): (maker, slots) for slots in given.slots for name, maker in methods.items()}
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for seed in seeds:  # outermost: whenever it is stopped, all have had about as many seeds
        for problem in problems:
            for name, (maker, slots) in rows.items():
                if (name, problem.name, seed) not in record.runs:
                    print(f"\r{seed}: {name} on {problem.name}".ljust(60), end="", file=sys.stderr, flush=True)
                    played = play(maker, problem, seed, given.evaluations, slots, line)
                    record.add(name, problem.name, seed, played)
    print(file=sys.stderr)
    groups: dict[str, dict[str, Runs]] = {}
    for group in dict.fromkeys(problem.group for problem in problems):
        names = [problem.name for problem in problems if problem.group == group]
        groups[group] = {method: {name: record.of(method, name, seeds) for name in names} for method in rows}
        if group == "conditions":
            conditions(groups[group], min(50, given.evaluations) if given.evaluations < 200 else given.evaluations)
            continue
        report(group, groups[group], [budget for budget in BUDGETS if budget <= given.evaluations])
    for problem in problems:
        if problem.group == "noisy":
            print(f"{problem.name}: a search that saw every cell would end at {problem.instance(0).floor:.3f}")


if __name__ == "__main__":
    main()
