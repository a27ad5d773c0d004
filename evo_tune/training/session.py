"""A training where it stands: taken up from its checkpoint, trained to its budget, judged, and left to go on from.

What every training passes through, whatever its task: settings of the process, precision, checkpoints, ranks. Where
it stands (device, seed, budget, folders) comes as a `Run`, which an evaluator's context is; what is trained comes as a
`Task`. Knows nothing of genomes, or of what data and models are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evo_tune.recipe.optim.steps import fork_step, stop_step
from evo_tune.training.checkpoint import CHECKPOINT, save_checkpoint, saved_in
from evo_tune.training.course import Course
from evo_tune.training.hardware import precision as probe
from evo_tune.training.hardware.device import keep_freed_memory, reproducible
from evo_tune.training.hardware.distributed import RankFailed, launch

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = [
    "Begun",
    "Build",
    "Place",
    "Run",
    "Task",
    "told_to",
    "train",
    "train_together",
]


class Run(Protocol):
    """Where a training stands; `evo_tune.Context` is one, and says what each is."""

    device: str
    threads: int
    seed: int
    budget: float
    resume_folder: Path | None
    test: bool
    timing: int

    @property
    def folder(self) -> Path:
        """Folder of this training."""

    def report(self, fraction: float, **metrics: float) -> None:
        """Add a point to the learning curve."""


class Task(Protocol):
    """What is trained."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to, plain data: its data by a hash of what is in it."""

    @property
    def save(self) -> bool:
        """Whether a full training leaves a checkpoint too."""

    @property
    def options(self) -> Any:
        """Its options, `precision` and `fork` among them."""

    @property
    def narrow(self) -> bool:
        """Whether its products are too small for a CPU to gain from computing them in less than float32."""


T = TypeVar("T", bound=Task)
Build = Callable[[T, Run, str, dict[str, Any], "Ranks | None"], Course]
"""Makes the course of a task in a run, a precision (by name) and ranks, where a checkpoint's state ends, or with an
empty one at step 0."""


def told_to(run: Run) -> Callable[[float, Mapping[str, float], bool], None]:
    """Return the function that adds a point of a course to the learning curve of a run."""

    def tell(fraction: float, point: Mapping[str, float], decayed: bool) -> None:
        run.report(fraction, decayed=decayed, **point)

    return tell


def train(task: T, run: Run, build: Build[T], ranks: Ranks | None = None) -> tuple[Course, dict[str, float]]:
    """Train up to the run's budget, from the checkpoint that it goes on from, if any.

    Args:
        task: What is trained.
        run: Where it stands; the learning curve is reported there.
        build: Makes its course.
        ranks: The processes that train it together, each of which calls this.

    Returns:
        The course at its end, and `Course.metrics`.

    Raises:
        Diverged: The training was lost.
        UsageError: The checkpoint belongs to another training.
    """
    began = time.perf_counter()
    keep_freed_memory()
    with reproducible(run.threads, run.device, strict=getattr(task.options, "deterministic", True)):
        begun = Begun.of(task, run, build, ranks)
        course = begun.course
        if run.timing:
            return course, _timed(course, run.timing, time.perf_counter() - began, task.save)
        course.run(begun.fork)
        begun.leave_checkpoint()
        if begun.forks:
            course.decay(begun.stop)
        return course, begun.metrics()


@dataclass
class Begun:
    """A training that was begun, or taken up, and what is done with it besides training it.

    Args:
        task: What is trained.
        run: Where it stands.
        course: The training.
        precision: Its, by name.
        first: Whether this process is the one that writes.
    """

    task: Task
    run: Run
    course: Course
    precision: str
    first: bool

    def __post_init__(self) -> None:
        self.start, steps = self.course.trainer.step, self.course.steps
        self.stop = stop_step(steps, self.run.budget)
        forks = self.task.options.fork
        self.fork = max(self.start, fork_step(self.course.trainer.recipe.schedule, self.stop)) if forks else self.stop

    @classmethod
    def of(cls, task: T, run: Run, build: Build[T], ranks: Ranks | None = None) -> Begun:
        """Return a training where its checkpoint ends, or at step 0; see `train`."""
        saved = saved_in(run.resume_folder, task.identity)
        precision = task.options.precision
        if precision == "auto":  # another machine may answer otherwise, but not in the middle of a training
            fastest = probe.fastest_precision(run.device, narrow=task.narrow)
            precision = saved.get("precision", "fp32") if saved else fastest
        course = build(task, run, precision, saved, ranks)
        return cls(task, run, course, precision, ranks is None or ranks.rank == 0)

    def leave_checkpoint(self) -> None:
        """Leave what a longer training goes on from, at the fork."""
        if self.first and (self.task.save or self.stop < self.course.steps):
            about = {"task": self.task.identity, "precision": self.precision}
            save_checkpoint(self.run.folder / CHECKPOINT, {**about, **self.course.state()})

    @property
    def forks(self) -> bool:
        """Whether it is to come down now, to be judged and thrown away: what goes on, goes on from the checkpoint."""
        return self.fork < self.stop and not self.course.stopped

    def metrics(self) -> dict[str, float]:
        """Judge the training at its end."""
        return self.course.metrics(self.start if self.run.resume_folder else None, self.run.test)


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
        narrow: See `Task`.
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
