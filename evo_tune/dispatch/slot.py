"""The protocol of a slot: wherever a trainer lives, a Candidate goes in and an Outcome comes out.

`Task` is what all candidates of a run have in common; it travels once per worker and by reference: the
worker imports the evaluator itself. A kind of slot is one file beside this one. Slots know nothing of
strategies, stores or the search that drives them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo_tune.errors import RunError
from evo_tune.genome.trial import Candidate, Objective, Outcome
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import load_evaluator
from evo_tune.trust import inside

__all__ = ["UNKNOWN", "NoMachine", "Slot", "SlotClosed", "SlotUnfit", "Task", "keep_log", "names_inside"]


UNKNOWN = "cluster"
"""As the device of a slot of a cluster that has no machine now."""


class SlotClosed(RunError):
    """The slot was closed or killed: no Outcome will come of this call, and none of any later one."""


class SlotUnfit(RunError):
    """The slot is no good any more, whatever the candidate, which is to be tried elsewhere."""


class NoMachine(RunError):
    """The slot has lost its machine and there is no other now: another slot may take the candidate."""


@dataclass(frozen=True)
class Task:
    """What is the same for every candidate of a run; plain data, so it pickles anywhere.

    Args:
        path: The evaluator's file, absolute.
        name: Its short name, for people.
        reference: How the manifest names it.
        origin: Where it was found.
        options: Value of every option of the evaluator.
        objectives: METRIC:min or METRIC:max, as `Objective.describe` writes them.
        trials_folder: Absolute; the folder of trial 17 is 000017 in it.
        threads: CPU threads of one evaluation.
        fingerprint: Identity of the data, as the evaluator tells it where the run began; each worker must find the
            same. '' if it does not tell.
    """

    path: str
    name: str
    reference: str
    origin: str
    options: dict[str, Any]
    objectives: tuple[str, ...]
    trials_folder: str
    threads: int = 1
    fingerprint: str = ""

    @classmethod
    def of(
        cls,
        evaluator: BoundEvaluator,
        objectives: Sequence[Objective],
        trials_folder: Path | str,
        threads: int = 1,
        fingerprint: str = "",
    ) -> Task:
        """Return the task of an evaluator that is loaded in this process, for a worker that will load it."""
        plugin = evaluator.plugin
        return cls(
            path=str(plugin.path),
            name=plugin.name,
            reference=plugin.reference,
            origin=plugin.origin,
            options=evaluator.options,
            objectives=tuple(objective.describe() for objective in objectives),
            trials_folder=os.path.abspath(trials_folder),
            threads=threads,
            fingerprint=fingerprint,
        )

    def load(self) -> BoundEvaluator:
        """Import the evaluator's file and bind its options.

        Raises:
            UsageError: The file is missing or broken, or does not accept the options.
        """
        return load_evaluator(Path(self.path), self.reference, self.origin).bind(self.options)

    def folder(self, trial: int | str) -> str:
        """Return where the folder of a trial is, or would be, given its id or its folder's name."""
        return os.path.join(self.trials_folder, trial if isinstance(trial, str) else f"{trial:06d}")


class Slot(ABC):
    """Somewhere that runs one evaluation at a time.

    `run` is called by one thread at a time; `kill` and `close` may be called by any.

    Attributes:
        name: For people: 'slot 0'.
        device: As Outcomes report it: 'cpu', 'cuda:0'.
    """

    name: str
    device: str

    @abstractmethod
    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        """Evaluate a candidate and wait for what comes of it.

        Whatever the evaluation does, this returns an Outcome: exceptions, crashes, hangs are values.

        Args:
            candidate: What to evaluate.
            folder: Name of its folder among the trials' folders, where it is not that of its id.

        Raises:
            SlotClosed: The slot is closed, or was killed meanwhile.
            SlotUnfit: It cannot train here; that says nothing of the candidate.
            NoMachine: It cannot train now.
        """

    def run_here(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        """Evaluate as `run` does, on the slot's device as it is now: a slot that waits for room may change it."""
        return self.run(candidate, folder)

    def move(self, why: str) -> bool:
        """Leave a device for good that is set aside; return whether the slot may get another."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Let an idle slot's worker go; calling it again does nothing. A slot in use wants `kill`."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the worker and all that it started, now; a `run` in flight raises SlotClosed."""

    @property
    def available(self) -> bool:
        """Whether a candidate would be begun at once; a slot of a cluster may have to wait for a machine."""
        return True

    @property
    def waits(self) -> bool:
        """Whether its candidate has not begun, for want of room on a device that others use as well."""
        return False

    @property
    def memory(self) -> int | None:
        """Resident memory of the worker, bytes; None if it is not known here."""
        return None

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Process id of the worker, on its machine; None if there is none."""


def names_inside(path: str) -> tuple[str, str, str]:
    """Return the run's folder, and the two names that lead from it to a trial's folder, or a spool."""
    trials, name = os.path.split(path)
    return *os.path.split(trials), name


def keep_log(spool: str, folder: str) -> None:
    """Move a worker's spool into the folder of a trial, as its log.txt.

    Raises:
        OSError: The disk refuses, or one of the folders is a link.
    """
    run, trials, name = names_inside(spool)
    inside.move(run, (trials, name), (trials, os.path.basename(folder), "log.txt"))
