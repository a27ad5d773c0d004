"""What follows recorded results: files of closed generations, and the removal of checkpoints that no trial can use.

A generation is closed when all of its trials are reported. Its survivors are those of the strategy at that moment, so
the files can be rebuilt from the journal at any time and come out the same. In proposal order results are recorded
ahead of what the strategy has seen; the files follow the record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from evo_tune.errors import RunError
from evo_tune.genome.history import RunHistory
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.plugins.strategy import Strategy
from evo_tune.store import table
from evo_tune.store.learned import widen
from evo_tune.store.run import TRIALS, Run
from evo_tune.trust import inside

__all__ = ["Generations", "Leftovers", "broken_strategy"]


class Generations:
    """Keeps a run's generation files in step with its journal.

    Args:
        run: The run, open for writing.
        strategy: Its strategy.
        history: An empty history of the run's space and objectives.
    """

    def __init__(self, run: Run, strategy: Strategy, history: RunHistory) -> None:
        self._run = run
        self._strategy = strategy
        self._history = history
        self._members: dict[int, list[int]] = {}
        self._untold: dict[int, int] = {}
        self._survivors: dict[int, list[int]] = {}
        self._untouched: set[int] = set()
        """Those whose files hold all that is recorded."""
        self._saved = 0
        """Results whose generations have their files, and which are followed only once that is needed."""
        self._metrics = run.metric_names

    def born(self, candidate: Candidate) -> None:
        """Note a birth."""
        self._members.setdefault(candidate.generation, []).append(candidate.id)
        self._untold[candidate.generation] = self._untold.get(candidate.generation, 0) + 1

    def read_back(self) -> None:
        """Read what an opened run holds, and put its files right: lost, damaged, unfinished or unknown ones.

        Where the last session saved all of it, as it does at its end, nothing is followed before a result comes.
        """
        for candidate in self._run.candidates:
            self.born(candidate)
        table.set_aside_generations(self._run, self._members)
        self._saved = len(self._run.sequence())
        rows = {generation: len(self._recorded_members(generation)) for generation in self._members}
        self._untouched = {
            generation for generation in rows if table.generation_is_whole(self._run, generation, rows[generation])
        }
        if self._run.ended is not None and all(
            generation in self._untouched for generation in rows if rows[generation]
        ):
            return
        self._catch_up()
        for generation in self._members.keys() - self._untouched:
            if generation in self._survivors or table.generation_path(self._run, generation).exists():
                self._write(generation)
        self._untouched.clear()

    def recorded(self) -> None:
        """Follow the results recorded since the last call; write the generations that they close."""
        self._untouched.clear()
        self._catch_up()
        self._follow(self._write)
        if self._run.metric_names != self._metrics:  # one schema for all files: the older ones are widened
            self._metrics = self._run.metric_names
            for generation in self._members:
                if table.generation_path(self._run, generation).exists():
                    self._write(generation)

    def stop(self) -> None:
        """Write the generations that are still open, with what they hold so far, unless their files hold it already."""
        for generation in self._members:
            if generation not in self._survivors and generation not in self._untouched:
                self._write(generation)

    def _catch_up(self) -> None:
        """Follow what was read back; the files of its generations are there."""
        if len(self._history.trials) < self._saved:
            self._follow(lambda generation: None, self._saved)

    def _follow(self, closed: Callable[[int], None], until: int | None = None) -> None:
        """Tell the history what is recorded, up to so many results in all; call `closed` for generations that close."""
        told = len(self._history.trials)
        for id in self._run.sequence(start=told)[: None if until is None else until - told]:
            # Births are shown as late as can be: when others were born depends on the number of slots.
            while self._history.born_count <= id:
                widen(self._history, self._run)
                self._history.born(self._run.candidates[self._history.born_count])
            trial = self._history.tell(id, self._run.outcomes[id])
            generation = trial.candidate.generation
            self._untold[generation] -= 1
            if not self._untold[generation] and self._is_full(generation):
                self._survivors[generation] = self._survivors_now()
                closed(generation)

    def _is_full(self, generation: int) -> bool:
        return self._history.fresh_count >= (generation + 1) * self._run.manifest.population

    def _survivors_now(self) -> list[int]:
        try:
            return list(self._strategy.survivors(self._history))
        except Exception as error:
            raise broken_strategy(self._run.manifest.strategy, "survivors", error) from error

    def _recorded_members(self, generation: int) -> list[int]:
        return [id for id in self._members[generation] if id in self._run.outcomes]

    def _write(self, generation: int) -> None:
        self._catch_up()
        survivors = self._survivors.get(generation)
        if survivors is None:
            survivors = self._survivors_now()
        trials = [self._run.trial(id) for id in self._recorded_members(generation)]
        if trials:
            table.write_generation(self._run, generation, trials, survivors)


def broken_strategy(name: str, function: str, error: Exception) -> RunError:
    """Return what to raise where a strategy's code has raised: the run stops, and can be gone on with."""
    return RunError(
        f"strategy {name} raised {type(error).__name__} in {function}(): {error}; mend it, then "
        "`evo-tune resume --accept-changes`"
    )


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
