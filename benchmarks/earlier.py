"""What is known already: whether earlier runs and priors help, and whether misleading ones cost anything.

Tables that share their genes stand for related tasks (three corpora of translation, two data sets of one perceptron):
an earlier run is what `ga` found on another one in 60 trainings. It is given as it was, with its losses negated, and
with them shuffled. A prior is a normal one of a tenth of each ordered gene's range: around the best cell ('good'),
around a random one ('useless') and around the worst one ('adversarial'). Regret is that of search.py, paired by seed.
With --taskset the tasks are those of TaskSet, which were all trained with the same settings: an earlier run is what
`saea` found on another task, and 1, 3 or 7 of them are given: as they were, with their losses shuffled (the genomes are
still those that a search proposed), or as random genomes with shuffled losses ('random'), which say nothing.

    python benchmarks/earlier.py --tables ../shared/tables --seeds 40
    python benchmarks/earlier.py --tables ../shared/tables --seeds 10 --taskset
    python benchmarks/earlier.py --tables ../shared/tables --seeds 20 --priors

The tables are no part of this project, and nothing is measured where they are absent.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from problems import Instance, Problem, Result, regrets, tables
from search import Ours, play
from taskset import Task, tasks

from evo_tune import Choice, SearchSpace
from evo_tune.genome.history import Lesson
from evo_tune.genome.trial import Trial

RELATIVES = (("sw-en", "ru-en", "ja-en"), ("australian", "phoneme"))

BEFORE = 60
"""Trainings of an earlier run."""

BUDGETS = (10, 20)

TASKSET = "taskset"
"""Group of the problems made of TaskSet."""

COUNTS = (1, 3, 7)
"""Numbers of earlier tasks of TaskSet."""

CELLS = 2_000
"""Random cells among which the best and the worst are looked for, for priors."""


class Taught(Ours):
    """`saea` that has learned from other runs."""

    def __init__(self, instance: Instance, seed: int, lessons: list[Lesson]) -> None:
        super().__init__(instance, seed, "saea")
        self.history.lessons = tuple(lessons)


@functools.cache
def earlier(problem: Problem, seed: int, strategy: str) -> list[Trial]:
    """Return the trials of a run on a table that gave a loss."""
    player = Ours(problem.instance(seed), 1000 + seed, strategy)
    play(lambda *given: player, problem, seed, BEFORE, 1, None)  # type: ignore[arg-type]
    return [trial for trial in player.history.trials if trial.losses is not None]


def lesson(problem: Problem, seed: int, space: SearchSpace, how: str) -> Lesson:
    """Return what a run on another table found: 'as it was', 'negated', 'shuffled' or 'random'."""
    strategy = "random" if how == "random" else "saea" if problem.group == TASKSET else "ga"
    told, rng = earlier(problem, seed, strategy), np.random.default_rng([7, seed])
    losses = np.array([trial.losses[0] for trial in told if trial.losses])
    losses = -losses if how == "negated" else rng.permutation(losses) if how in ("shuffled", "random") else losses
    return Lesson.of(problem.name, [trial.genome for trial in told], losses.tolist(), space)


def problem_of(task: Task) -> Problem:
    """Return a task of TaskSet as a problem."""
    best, median = float(np.nanmin(task.losses)), float(np.nanmedian(task.losses))

    def evaluate(genome: dict[str, Any]) -> Result:
        loss = float(task.losses[task.row(genome)])
        return (None, None) if np.isnan(loss) else ((loss,), (loss,))

    instance = Instance(task.space, evaluate, lambda results: regrets(results, best, median))
    return Problem(task.name, TASKSET, lambda seed: instance)


def chosen(problem: Problem, family: list[Problem], seed: int, kind: str) -> tuple[list[Problem], str]:
    """Return the earlier tasks of a run, and how their losses are given.

    Args:
        problem: The new task.
        family: All related tasks.
        seed: Seed of the run.
        kind: 'as it was', 'negated', 'shuffled' or 'random', after a number of tasks if not all others are given.
    """
    others = [one for one in family if one is not problem]
    count, _, how = kind.partition(" ")
    if not count.isdigit():
        return others, kind
    order = np.random.default_rng([9, seed]).permutation(len(others))
    return [others[place] for place in order[: int(count)]], how


def believing(instance: Instance, how: str, seed: int) -> Instance:
    """Return an instance whose ordered genes have a prior."""
    rng, space = np.random.default_rng([8, seed]), instance.space
    cells = [space.sample(rng) for _ in range(CELLS)]
    known = [(loss[0], number) for number, cell in enumerate(cells) if (loss := instance.evaluate(cell)[0]) is not None]
    chosen = {"good": min(known)[1], "adversarial": max(known)[1], "useless": 0}[how]
    genes: dict[str, Any] = {}
    for name, gene in space.genes.items():
        ordered = isinstance(gene, Choice) and gene.ordered and gene.size > 1
        hints = {"prior": cells[chosen][name], "spread": gene.size / 10, "default": gene.middle()} if ordered else {}
        genes[name] = replace(gene, **hints)  # type: ignore[type-var]
    return replace(instance, space=SearchSpace(None, **genes))


def shown(regrets: np.ndarray, plain: np.ndarray | None) -> str:
    """Return mean and error of regrets, shape (runs,), and of their paired differences from those without."""
    text = f"{regrets.mean():.3f} ± {regrets.std(ddof=1) / np.sqrt(len(regrets)):.3f}"
    if plain is None:
        return text + " " * 18
    away = regrets - plain
    return f"{text} ({away.mean():+.3f} ± {away.std(ddof=1) / np.sqrt(len(away)):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether earlier runs and priors help, and what misleading ones cost.")
    parser.add_argument("--tables", type=Path, default=Path("../shared/tables"), help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=40, help="runs of each method on each table, 2 or more")
    parser.add_argument("--priors", action="store_true", help="priors instead of earlier runs")
    parser.add_argument("--taskset", action="store_true", help="the tasks of TaskSet instead of the other tables")
    parser.add_argument("--kinds", nargs="+", help="only these ways, such as '3 as it was'")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    given = parser.parse_args()
    found = {problem.name: problem for problem in tables(given.tables)}
    families = [[found[name] for name in family if name in found] for family in RELATIVES]
    if given.taskset:
        families = [[problem_of(task) for task in tasks(given.tables)]]
    families = [family for family in families if len(family) > 1]
    if not families:
        print(f"nothing to measure: {given.tables} holds none of the tables; they are no part of this project")
        return
    kinds: tuple[str, ...] = (
        ("good", "useless", "adversarial") if given.priors else ("as it was", "negated", "shuffled")
    )
    if given.taskset:
        kinds = tuple(f"{count} {how}" for how in ("as it was", "shuffled", "random") for count in COUNTS)
    kinds = tuple(kind for kind in kinds if not given.kinds or kind in given.kinds)
    results: dict[str, list[np.ndarray]] = {kind: [] for kind in ("without", *kinds)}
    for seed in range(given.first, given.first + given.seeds):
        for family in families:
            for problem in family:
                print(f"\r{seed}: {problem.name}".ljust(40), end="", file=sys.stderr, flush=True)
                for kind in results:
                    results[kind].append(played(problem, family, seed, kind))
    print(file=sys.stderr)
    print(f"{'':14}" + "".join(f"{f'regret at {budget}':>34}" for budget in BUDGETS))
    plain = np.stack(results["without"])
    names = [problem.name for family in families for problem in family]
    for kind, runs in results.items():
        rows = np.stack(runs)
        cells = [shown(rows[:, place], None if kind == "without" else plain[:, place]) for place in range(len(BUDGETS))]
        print(f"{kind:14}" + "".join(f"{cell:>34}" for cell in cells))
    print("each at " + "/".join(map(str, BUDGETS)))
    for place, name in enumerate(names):
        means = {kind: np.stack(runs)[place :: len(names)].mean(axis=0) for kind, runs in results.items()}
        told = ", ".join(f"{kind} " + "/".join(f"{mean:.3f}" for mean in row) for kind, row in means.items())
        print(f"  {name}: {told}")


def played(problem: Problem, family: list[Problem], seed: int, kind: str) -> np.ndarray:
    """Return the regrets of a run after each of BUDGETS."""
    instance = problem.instance(seed)
    make: Callable[..., Ours] = lambda *_: Ours(instance, seed, "saea")  # noqa: E731
    if kind in ("good", "useless", "adversarial"):
        instance = believing(instance, kind, seed)
    elif kind != "without":
        others, how = chosen(problem, family, seed, kind)
        lessons = [lesson(one, seed, instance.space, how) for one in others]
        make = lambda *_: Taught(instance, seed, lessons)  # noqa: E731
    regrets = play(make, problem, seed, max(BUDGETS), 1, None).regrets  # type: ignore[arg-type]
    return np.where(np.isinf(regrets), 1.0, regrets)[[budget - 1 for budget in BUDGETS]]


if __name__ == "__main__":
    main()
