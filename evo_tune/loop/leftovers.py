"""Remove checkpoints that no later trial can use.

Which they are follows from the run, not from the disk; and what cannot be removed is left: it costs
space, and no result depends on it.
"""

from __future__ import annotations

import contextlib

from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.store.run import TRIALS, Run
from evo_tune.trust import inside

__all__ = ["Leftovers"]

LOGS = ("log.txt", "error.txt")
"""Files of a trial's folder that are evo-tune's own."""


class Leftovers:
    """Removes them as results come in.

    Args:
        run: The run, open for writing.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def recorded(self, candidate: Candidate, outcome: Outcome) -> None:
        """Remove what is of no use now that a result is recorded.

        A genome goes on once from where it was, whatever comes of it, and never from a trial that failed.
        """
        if candidate.resumes is not None:
            self._remove(candidate.resumes)
        if outcome.status != "ok" and candidate.budget < 1.0:
            self._remove(candidate.id)

    def exhausted(self) -> None:
        """Remove the checkpoints of parts of a training: nothing is out, and no genome will ever go on.

        That is so where the strategy has nothing more to propose, not at a limit: a longer run promotes more.
        """
        for candidate in self._run.candidates:
            if candidate.budget < 1.0:
                self._remove(candidate.id)

    def _remove(self, id: int) -> None:
        """Remove what a trial saved, and no other will go on from; its log stays."""
        with contextlib.suppress(OSError):
            inside.remove_all_but(self._run.folder, TRIALS, f"{id:06d}", files=LOGS)
