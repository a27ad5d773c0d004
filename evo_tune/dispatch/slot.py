"""The protocol of a slot: it takes a Candidate and returns an Outcome, on any machine.

A `Task` has the settings common to all candidates of a run. It is sent once per worker and by reference: the
worker imports the evaluator itself. Each kind of slot is one file in this folder. Slots know nothing of
strategies, stores or the search that drives them.
"""

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
from evo_tune.trust import safe_files

# Device name of a cluster slot that has no machine now.
UNKNOWN = "cluster"


class SlotClosed(RunError):
    """The slot was closed or killed: neither this call nor a later one returns an Outcome."""


class SlotInterrupted(RunError):
    """The training was ended by `Slot.interrupt`, without an Outcome; the slot can train again."""


class SlotUnfit(RunError):
    """The slot cannot evaluate any candidate any more: try the candidate on another slot."""


class NoMachine(RunError):
    """The slot has lost its machine and no other is free: another slot may take the candidate."""


@dataclass(frozen=True)
class Task:
    """Settings common to all candidates of a run; plain data, so it pickles anywhere.

    Args:
        path: Absolute path of the evaluator's file.
        name: Short name of the evaluator, for messages.
        reference: Name of the evaluator in the manifest.
        origin: Place where the evaluator was found.
        options: Value of every option of the evaluator.
        objectives: METRIC:min or METRIC:max, as `Objective.describe` writes them.
        trials_folder: Absolute path; the folder of trial 17 is 000017 in it.
        threads: CPU threads of one evaluation.
        fingerprint: Identity of the data, as the evaluator returned it where the run began; each worker must find
            the same. '' if the evaluator has none.
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
    ) -> "Task":
        """Return the task of an evaluator loaded in this process, for a worker that will load it again."""
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
        """Return the path of a trial's folder, given the trial's id or the folder's name; it need not exist."""
        return os.path.join(self.trials_folder, trial if isinstance(trial, str) else f"{trial:06d}")


class Slot(ABC):
    """A place that runs one evaluation at a time.

    One thread at a time calls `run`; any thread may call `interrupt`, `kill` and `close`.

    Attributes:
        name: Name in messages: 'slot 0'.
        device: Device name in Outcomes: 'cpu', 'cuda:0'.
    """

    name: str
    device: str

    @abstractmethod
    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        """Evaluate a candidate and return its outcome.

        Exceptions, crashes and hangs of the evaluation become Outcomes; they do not raise.

        Args:
            candidate: Candidate to evaluate.
            folder: Name of its folder among the trials' folders, if it differs from that of its id.

        Raises:
            SlotClosed: The slot is closed, or was killed meanwhile.
            SlotInterrupted: The training was interrupted.
            SlotUnfit: The slot cannot train; the candidate is not the cause.
            NoMachine: The slot has no machine now.
        """

    def move(self, why: str) -> bool:
        """Leave for good a device that is set aside; return whether the slot may get another."""
        return False

    @abstractmethod
    def close(self) -> None:
        """End an idle slot's worker; a second call does nothing. Use `kill` for a busy slot."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the worker and all that it started, at once; a current `run` raises SlotClosed."""

    @abstractmethod
    def interrupt(self) -> None:
        """End a current training at once: its `run` raises SlotInterrupted. The slot stays open."""

    @property
    def available(self) -> bool:
        """Whether a candidate would start at once; a cluster slot may have to wait for a machine."""
        return True

    @property
    def waits(self) -> bool:
        """Whether its candidate waits for free memory on a shared device."""
        return False

    @property
    def memory(self) -> int | None:
        """Resident memory of the worker, bytes; None if unknown."""
        return None

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Process id of the worker, on its machine; None if there is none."""


def names_inside(path: str) -> tuple[str, str, str]:
    """Split the path of a trial's folder or a spool into run folder, trials folder's name and last name."""
    trials, name = os.path.split(path)
    return *os.path.split(trials), name


def keep_log(spool: str, folder: str) -> None:
    """Move a worker's output file (spool) into a trial's folder, as log.txt.

    Raises:
        OSError: The file cannot be moved, or one of the folders is a link.
    """
    run, trials, name = names_inside(spool)
    safe_files.move(run, (trials, name), (trials, os.path.basename(folder), "log.txt"))
