"""The cost of a step: predicted against measured seconds, of steps and of whole trainings of a fixed time.

    python benchmarks/cost_model.py --slots 1,2                four spaces, 30 random genomes each; half an hour
    python benchmarks/cost_model.py --slots 1 --genomes 2 --trainings 1 --seconds 1 --spaces digits   a trial of it

In each space the cost is measured as a run measures it (`plan_run`). Then ten steps of random genomes of the space,
which the cost has not seen, are timed in the slots of a run, all at work. Some of them are trained in full with
`-o seconds=N`. At last the manifest is moved to another folder and read there: its trainings must have the same steps.
Errors are |measured / predicted - 1|, as the time that a user waits.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from evo_tune import Search
from evo_tune.dispatch.slot import Slot
from evo_tune.forecast.timing import Timing, time_genomes
from evo_tune.genome.trial import Candidate
from evo_tune.loop.plan import Request, RunPlan, plan_run
from evo_tune.loop.slots import open_slots_to_plan
from evo_tune.plugins.cost import Cost
from evo_tune.plugins.find import find_evaluator
from evo_tune.settings import parse_settings
from evo_tune.store.run import Run

SPACES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("language_model", {"size": "tiny"}),
    "4x128": ("language_model", {"size": "4x128"}),
    "digits": ("image_classification", {}),
    "tuning": ("fine_tuning", {}),
}
"""Evaluator and options of each space."""

MOST = 3600.0
"""Seconds after which no timing begins: none is left out."""


@dataclass(frozen=True)
class Errors:
    """Relative errors of predictions."""

    values: Sequence[float]

    def __str__(self) -> str:
        if not self.values:
            return "- | -"
        return f"{statistics.median(self.values):.1%} | {max(self.values):.1%}"


def plan_of(space: str, slots: int, seconds: float) -> RunPlan:
    """Return the plan of a run with so many slots and so many seconds a training; the cost is measured."""
    name, options = SPACES[space]
    settings = parse_settings({"slots": slots, "fidelity": "1"})
    return plan_run(find_evaluator(name), Request(options={**options, "seconds": seconds}), *settings, Path())


def random_genomes(plan: RunPlan, count: int, seed: int) -> list[dict[str, Any]]:
    """Return random genomes of the plan's space."""
    rng, space = np.random.default_rng(seed), plan.evaluator.space
    return [space.snap(rng.random(len(space.genes))) for _ in range(count)]


def measured(plan: RunPlan, genomes: Sequence[dict[str, Any]], trainings: int) -> tuple[Errors, Errors]:
    """Return the errors of steps, and of whole trainings of the first few genomes.

    Args:
        plan: Plan with the measured cost.
        genomes: Genomes to time.
        trainings: Number of genomes to train.
    """
    bound, cost = plan.evaluator, Cost.parse(plan.evaluator.options["cost"])
    _, session = parse_settings({"slots": plan.slots})
    with tempfile.TemporaryDirectory() as folder:
        slots = open_slots_to_plan(plan.manifest, session, bound, Path(folder))
        try:
            timing = Timing(folder=Path(folder), longest=MOST, quick=False)
            rows, _ = time_genomes(slots, genomes, timing)
            steps = [abs(row["step"] / cost.step(bound.work(genomes[at])) - 1.0) for at, row in rows.items()]
            seconds_of(slots, genomes[:1] * len(slots))  # the first training of a worker imports what others have
            took = seconds_of(slots, genomes[:trainings])
        finally:
            for slot in slots:
                slot.close()
    whole = [abs(one / bound.estimate(genome)["seconds"] - 1.0) for genome, one in took]
    return Errors(steps), Errors(whole)


def seconds_of(slots: Sequence[Slot], genomes: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Train genomes, all slots at work, and return those that succeeded with their seconds."""
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)

    def train(number: int) -> float | None:
        slot = free.get()
        try:
            outcome = slot.run(Candidate(number, 0, number, 0, genomes[number], "benchmark"))
        finally:
            free.put(slot)
        return outcome.seconds if outcome.status == "ok" else None

    with ThreadPoolExecutor(len(slots)) as threads:
        found = threads.map(train, range(len(genomes)))
        return [(genome, one) for genome, one in zip(genomes, found, strict=True) if one is not None]


def same_elsewhere(plan: RunPlan, space: str, genomes: Sequence[dict[str, Any]]) -> bool:
    """Return whether a run that is moved to another folder has the same steps, without measuring the cost again."""
    name, options = SPACES[space]
    given = {**options, **{key: plan.evaluator.options[key] for key in ("seconds", "cost")}}
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "here", Path(folder) / "there"
        search = Search(name, options=given, slots=plan.slots, fidelity="1", trials=1, store=here, name="run")
        search.close()
        shutil.move(here, there)
        manifest = Run.open(there / "run").manifest
    moved = find_evaluator(name).bind(manifest.options)
    return all(moved.estimate(genome) == plan.evaluator.estimate(genome) for genome in genomes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted against measured seconds of steps and trainings.")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--slots", default="1,2", help="numbers of slots")
    parser.add_argument("--genomes", type=int, default=30, help="random genomes whose steps are timed")
    parser.add_argument("--trainings", type=int, default=30, help="how many of them are trained in full")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of a training")
    parser.add_argument("--seed", type=int, default=7, help="seed of the genomes")
    given = parser.parse_args()
    print("| space | slots | step: median error | worst | training: median error | worst | same steps elsewhere |")
    print("|---|---|---|---|---|---|---|")
    for space in given.spaces:
        for slots in map(int, given.slots.split(",")):
            plan = plan_of(space, slots, given.seconds)
            genomes = random_genomes(plan, given.genomes, given.seed)
            steps, whole = measured(plan, genomes, given.trainings)
            same = "yes" if same_elsewhere(plan, space, genomes) else "NO"
            print(f"| {space} | {slots} | {steps} | {whole} | {same} |", flush=True)


if __name__ == "__main__":
    main()
