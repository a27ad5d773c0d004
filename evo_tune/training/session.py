"""Train a plan up to its budget: resume its checkpoint, choose the precision, train, judge, and leave a checkpoint.

Every training of an evaluator goes through `train`, in one process or in several. Device, seed, budget and folders come
as a `Run`, such as an evaluator's context. This module knows nothing of data and models.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from evo_tune.recipe.optim.steps import fork_step, stop_step
from evo_tune.training.checkpoint import CHECKPOINT, save_checkpoint, saved_in
from evo_tune.training.course import Course, Plan, Run, Task
from evo_tune.training.hardware import precision as probe
from evo_tune.training.hardware.device import keep_freed_memory, reproducible
from evo_tune.training.hardware.distributed import RankFailed, Ranks, launch


def evaluate_task(
    plan: Plan, kind: type[Task], train_rank: FunctionType | Callable[..., Any], run: Run
) -> dict[str, float]:
    """Train here, or by several processes, and return the metrics.

    Args:
        plan: The evaluator's description of the training.
        kind: Class of the task.
        train_rank: Function that each process calls (see `train_together`).
        run: Device, seed, budget and folders.

    Raises:
        Diverged: The training diverged.
        UsageError: The options do not fit the model or the data.
    """
    if plan.options.ranks == 1:
        return train(plan, run, kind)[1]
    kind(plan, run)  # raises before processes start
    genome = dict(plan.genome)
    return train_together(train_rank, run, plan.options.to_json(), narrow=plan.narrow, genome=genome)


def train(plan: Plan, run: Run, kind: type[Task], ranks: Ranks | None = None) -> tuple[Course, dict[str, float]]:
    """Train up to the run's budget, from its checkpoint if it has one.

    Args:
        plan: The evaluator's description of the training.
        run: Device, seed, budget and folders; the learning curve is reported to it.
        kind: Class of the task.
        ranks: Processes that share each step, each of which calls this; None: one process.

    Returns:
        The finished run, and `Course.metrics`.

    Raises:
        Diverged: The training diverged.
        UsageError: The checkpoint belongs to another training.
    """
    began = time.perf_counter()
    keep_freed_memory()
    options, writes = plan.options, ranks is None or ranks.rank == 0
    with reproducible(run.threads, run.device, strict=getattr(options, "deterministic", True)):
        saved = saved_in(run.resume_folder, plan.identity)
        precision = _precision(plan, run, saved)
        course = kind(plan.in_precision(precision), run, ranks).course(saved)
        if run.timing:
            return course, _timed(course, run.timing, time.perf_counter() - began, plan.save)
        start, stop = course.trainer.step, stop_step(course.steps, run.budget)
        fork = max(start, fork_step(course.trainer.recipe.schedule, stop)) if options.fork else stop
        course.run(fork)
        if writes and (plan.save or stop < course.steps):  # a longer training continues from it
            about = {"task": plan.identity, "precision": precision}
            save_checkpoint(run.folder / CHECKPOINT, {**about, **course.state()})
        if fork < stop and not course.stopped:
            course.decay(stop)  # only to be judged: a longer training continues from the checkpoint
        return course, course.metrics(start if run.resume_folder else None, run.test)


def _precision(plan: Plan, run: Run, saved: Mapping[str, Any]) -> str:
    """Return the precision by name. A resumed training keeps its own, whatever this machine would choose."""
    precision: str = plan.options.precision
    if precision != "auto":
        return precision
    return str(saved.get("precision", "fp32")) if saved else probe.fastest_precision(run.device, narrow=plan.narrow)


def _timed(course: Course, steps: int, built: float, saves: bool) -> dict[str, float]:
    """Return what a full training will take, from a few of its steps.

    Returns:
        'seconds' and 'judging' (see `Course.timed`) with those that it took to build; 'memory', the bytes of a GPU;
        'checkpoint', about the bytes that a part of a training leaves to go on from; 'kept', those that a whole one
        leaves.
    """
    found = course.timed(steps)
    # Weights, and the optimizer's moments of those that are trained: at most two more of each.
    held = sum(one.numel() * one.element_size() * (3 if one.requires_grad else 1) for one in course.model.parameters())
    memory = {"memory": course.peak_memory} if course.trainer.device.type == "cuda" else {}
    took = {name: seconds + built for name, seconds in found.items()}
    return {**took, **memory, "checkpoint": float(held), "kept": float(held) * saves}


# ---------------------------------------------------------------- several processes


@dataclass
class Place:
    """Where a training stands in one of several processes: a `Run` of plain data.

    Args:
        device: The rank's own.
        threads: See `evo_tune.Context`, as of the others.
        seed: Of the training.
        budget: Share of the full training.
        folder: Of this training; it is there.
        resume_folder: To go on from.
        test: Whether to look at the test set.
        timing: Steps to be timed; 0 in a training.
        tell: Sends a point of the learning curve to the process that asked.
    """

    device: str
    threads: int
    seed: int
    budget: float
    folder: Path
    resume_folder: Path | None
    test: bool
    timing: int
    tell: Callable[[dict[str, float]], None]

    @classmethod
    def of(cls, ranks: Ranks, tell: Callable[[dict[str, float]], None], run: Mapping[str, Any]) -> Place:
        """Return a rank's place, from what `train_together` sent; the curve is the first rank's to tell."""
        folders = {name: run[name] and Path(run[name]) for name in ("folder", "resume_folder")}
        quiet = tell if ranks.rank == 0 else lambda point: None
        return cls(**{**run, **folders}, device=str(ranks.device), tell=quiet)

    def report(self, fraction: float, **metrics: float) -> None:
        """Add a point to the learning curve."""
        self.tell({"fraction": fraction, **metrics})


def train_together(
    function: FunctionType | Callable[..., Any],
    run: Run,
    options: Mapping[str, Any],
    *,
    narrow: bool = False,
    **arguments: Any,
) -> dict[str, float]:
    """Have several processes train a task together, and return the metrics.

    Where one has no memory for a pass, all begin again from the same checkpoint, with passes of half the size: the
    training is the same but for rounding, and what was told of its curve is not told twice.

    Args:
        function: Is each of them: `function(ranks, tell, *, run, options, **arguments)`, at the top of a file; it
            trains in `Place.of(ranks, tell, run)`.
        run: Where the training stands.
        options: Of the task, plain data, `ranks` and `precision` among them.
        narrow: See `Plan`.
        arguments: More plain data for the function.

    Raises:
        RankFailed: See `launch`.
    """
    if options["precision"] == "auto" and not run.resume_folder:  # one answer for all
        options = {**options, "precision": probe.fastest_precision(run.device, narrow=narrow)}
    place = {name: getattr(run, name) for name in ("threads", "seed", "budget", "test", "timing")}
    for name in ("folder", "resume_folder"):
        place[name] = getattr(run, name) and str(getattr(run, name))
    curve, parts = _Curve(run), 1
    while True:
        try:
            metrics: dict[str, float] = launch(
                function,
                {"run": place, "options": dict(options), **arguments},
                ranks=options["ranks"],
                device=run.device,
                threads=run.threads,
                on_message=curve.tell,
                parts=parts,
            )
            return metrics
        except RankFailed as failure:
            if not failure.smaller:
                raise
            parts *= 2
            print(f"{failure}: all ranks begin again, with {parts} parts of each", file=sys.stderr, flush=True)
            curve.begin_again()


class _Curve:
    """A learning curve on its way to a run, each point once, however often the training has to begin again."""

    def __init__(self, run: Run) -> None:
        self.run, self.told, self.heard = run, 0, 0

    def tell(self, point: dict[str, Any]) -> None:
        self.heard += 1
        if self.heard > self.told:
            self.told = self.heard
            self.run.report(**point)

    def begin_again(self) -> None:
        self.heard = 0
