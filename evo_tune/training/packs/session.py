"""Several trainings where they stand, taken up, trained as one to their budgets, judged, and left to go on from.

For each it is what `session.train` is for one: its own checkpoint, evaluations, fork, curve, metrics and weights. Who
has an end of its own, good or bad, leaves the others to go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.training.course import Stretch
from evo_tune.training.hardware.allocator import keep_freed_memory
from evo_tune.training.hardware.capacity import device_memory, measured_peak
from evo_tune.training.hardware.determinism import reproducible
from evo_tune.training.optim.divergence import Diverged
from evo_tune.training.packs.pack import Pack
from evo_tune.training.session import Begun, Build, Run, T
from evo_tune.training.stepping.taken import Step
from evo_tune.training.trainer import Trainer

__all__ = ["train_pack"]

MOST = 0.9
"""Share of a device's memory that a pack may be predicted to take."""


def train_pack(tasks: Sequence[T], runs: Sequence[Run], build: Build[T]) -> list[dict[str, float] | BaseException]:
    """Train several tasks as one, each up to its run's budget, from what it goes on from or inherits.

    Args:
        tasks: What is trained: of one shape, and by one kind of recipe (see `LanguageTask.pack_key`).
        runs: Where each stands, on one device; the learning curves are reported there.
        build: Makes a course.

    Returns:
        For each what `train` returns as metrics, or what it would have raised, which ended this one alone.

    Raises:
        RecipeError: They cannot be trained as one: shapes differ, or the device's memory is too small for all.
    """
    keep_freed_memory()
    check_integer("pack", len(tasks), 1)
    options = tasks[0].options
    with reproducible(runs[0].threads, runs[0].device, strict=getattr(options, "deterministic", True)):
        members = [_Member(task, run, build) for task, run in zip(tasks, runs, strict=True)]
        begun = [member for member in members if member.begun is not None]
        if begun:
            _train(begun)
    return [member.end for member in members]


class _Member:
    """One of the trainings: what it wants next, and how it ended."""

    def __init__(self, task: T, run: Run, build: Build[T]) -> None:
        self.end: dict[str, float] | BaseException = RuntimeError("it was never trained")
        self.begun: Begun | None = None
        self.wanted: Stretch | None = None
        self.pack: Pack | None = None
        self.packed: Trainer | None = None
        try:
            self.begun = Begun.of(task, run, build)
        except Exception as error:
            self.end = error
        else:
            self._stretches = self._training(self.begun)

    @property
    def trainer(self) -> Trainer:
        """Its trainer, as it is now."""
        assert self.begun is not None
        return self.begun.course.trainer

    def _training(self, begun: Begun) -> Iterator[Stretch]:
        """Be what `session.train` is, for whoever trains the stretches."""
        yield from begun.course.running(begun.fork)
        begun.leave_checkpoint()
        if begun.forks:
            yield from begun.course.decaying(begun.stop)
        self.leave()
        self.end = begun.metrics()

    def join(self, pack: Pack) -> None:
        """Be of a pack."""
        self.pack, self.packed = pack, self.trainer

    def leave(self) -> None:
        """Leave the pack, if it is in one."""
        if self.pack is not None and self.packed in self.pack.trainers:
            self.pack.leave(self.packed)

    def go_on(self) -> None:
        """Have it do what it does between steps, until it wants more of them, or has ended."""
        try:
            while self.wanted is None or self.trainer.step >= self.wanted.until:
                self.wanted = next(self._stretches)
            if self.trainer is not self.packed:  # another phase, of another shape
                self.leave()
        except StopIteration:
            self.wanted = None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # that it is pruned, too: to be told to the caller, as its alone
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End it, as its training alone would have been ended."""
        self.leave()
        self.end, self.wanted = error, None


def _train(members: Sequence[_Member]) -> None:
    """Train members until each has ended."""
    pack = Pack([member.trainer for member in members])
    _check_memory(members)
    for member in members:
        member.join(pack)
        member.go_on()
    while going := [member for member in members if member.wanted is not None]:
        _go_on_together(pack, [member for member in going if member.trainer in pack.trainers])
        for member in going:
            if member.wanted is not None and member.trainer not in pack.trainers:
                try:
                    member.trainer.run(*member.wanted)
                except Exception as error:
                    member.fail(error)
            if member.wanted is not None:
                member.go_on()


def _go_on_together(pack: Pack, members: Sequence[_Member]) -> None:
    """Train those in the pack up to where the first of them has something else to do."""
    if not members:
        return
    wanted = {member.trainer: member.wanted for member in members if member.wanted is not None}
    courses = [member.begun.course for member in members if member.begun is not None]
    for course in courses:
        course.abreast = len(courses)
    lost: dict[Trainer, Diverged] = {}

    def on_step(trainer: Trainer, step: Step) -> None:
        wanted[trainer].on_step(step)

    def run() -> None:
        lost.update(pack.run(min(stretch.until - trainer.step for trainer, stretch in wanted.items()), on_step))

    peak = measured_peak(members[0].trainer.device, run)
    for course in courses:
        course.saw(None if peak is None else peak / len(courses))
    for member in members:
        if member.trainer in lost:
            member.fail(lost[member.trainer])


def _check_memory(members: Sequence[_Member]) -> None:
    """Require room for all at once.

    Raises:
        RecipeError: There is not enough.
    """
    device = members[0].trainer.device
    courses = [member.begun.course for member in members if member.begun is not None]
    needed = sum(course.subject.predicted_peak(course.trainer, course.largest_pass) for course in courses)
    if needed > MOST * (capacity := device_memory(device)):
        raise RecipeError("pack", f"{len(members)} trainings of {needed:.3g} bytes", f"{MOST * capacity:.3g} or less")
