"""Files that are derived from recorded results: Parquet files of trials, and checkpoints.

A file of trials has the trials of many generations. It is written again, with all its rows, when one of its generations
closes, that is, when all trials of the generation are reported. The survivors of a generation are those of the strategy
at that moment, so the files can be rebuilt identically from the journal. In proposal order, results are recorded before
the strategy sees them; the files follow the record. The module also removes checkpoints that no trial can use.
"""

import contextlib
from typing import TYPE_CHECKING

from evo_tune.errors import RunError
from evo_tune.genome.history import RunHistory
from evo_tune.genome.trial import Candidate, Outcome
from evo_tune.plugins.context import UNFINISHED
from evo_tune.plugins.strategy import Strategy
from evo_tune.store import table
from evo_tune.store.run import TRIALS, Run, widen
from evo_tune.trust import safe_files

if TYPE_CHECKING:
    import pyarrow as pa


class TrialFiles:
    """Keeps the files of trials in step with the journal.

    Args:
        run: Run that is open for writing.
        strategy: Strategy of the run.
        history: Empty history with the space and the objectives of the run.
    """

    def __init__(self, run: Run, strategy: Strategy, history: RunHistory) -> None:
        self._run = run
        self._strategy = strategy
        self._history = history
        # Ids of the candidates of each file, by its number.
        self._members: dict[int, list[int]] = {}
        self._unreported: dict[int, int] = {}
        # Survivors of each closed generation.
        self._survivors: dict[int, frozenset[int]] = {}
        # Files that contain all recorded results.
        self._complete: set[int] = set()
        # Number of results in complete files; they are replayed only when needed.
        self._saved = 0
        self._columns = self._present_columns

    @property
    def _present_columns(self) -> list[str]:
        return [*self._run.genes, *self._run.metric_names]

    def add_candidate(self, candidate: Candidate) -> None:
        """Note a new candidate."""
        self._members.setdefault(table.file_number(self._run, candidate.generation), []).append(candidate.id)
        self._unreported[candidate.generation] = self._unreported.get(candidate.generation, 0) + 1

    def repair(self) -> None:
        """Read an opened run and repair its files: lost, damaged, unfinished or unknown ones.

        If the last session saved all of them, as it does at its end, nothing is replayed before the next result. After
        a session that was killed, all of them are written again: a file may have all rows and old survivors.
        """
        for candidate in self._run.candidates:
            self.add_candidate(candidate)
        table.set_aside_files(self._run, self._members)
        table.repair_comparison(self._run)
        self._saved = len(self._run.sequence())
        numbers = {number for number in self._members if self._recorded_ids(number)}
        if self._run.ended is not None:
            self._complete = {
                number for number in numbers if table.file_is_whole(self._run, number, len(self._recorded_ids(number)))
            }
        if numbers == self._complete:
            return
        for number in sorted(numbers - self._complete):
            self._write(number)
        self._complete.clear()

    def update(self) -> None:
        """Process the results since the last call, and write the files of the generations that they close."""
        self._complete.clear()
        self._follow(self._saved)  # the results of earlier sessions, whose files exist
        stale = {table.file_number(self._run, generation) for generation in self._follow()}
        for number in sorted(stale | self._files_without_columns()):
            self._write(number)

    def _files_without_columns(self) -> set[int]:
        """Return the numbers of the files that lack new columns: one schema for all files, so the older are widened."""
        if self._present_columns == self._columns:
            return set()
        self._columns = self._present_columns
        return {number for number in self._members if table.file_path(self._run, number).exists()}

    def stop(self) -> None:
        """Write the files of open generations with the results so far, unless they are up to date."""
        open_generations = self._unreported.keys() - self._survivors.keys()
        unfinished = {table.file_number(self._run, generation) for generation in open_generations}
        for number in sorted((unfinished | self._files_without_columns()) - self._complete):
            self._write(number)

    def differences(self) -> dict[str, str]:
        """Return how the files of a run that has ended differ from its journal, in words, by name."""
        run = self._run
        for candidate in run.candidates:
            self.add_candidate(candidate)
        self._saved = len(run.sequence())
        expected = {table.file_path(run, number).name: self._table(number) for number in self._members}
        if run.fresh:
            expected[table.COMPARISON] = table.comparison_table(run)
        names = {path.name for path in run.folder.glob("*.parquet")}
        if run.journal.first_linked != 1 and not run.fresh:
            names.discard(table.COMPARISON)  # version 1.0 had its results in no other file
        differences = {}
        for name in sorted(names | {name for name, rows in expected.items() if rows is not None}):
            rows = expected.get(name)
            difference = "the journal has no results for it" if rows is None else table.file_difference(run, name, rows)
            if difference:
                differences[name] = difference
        return differences

    def _follow(self, until: int | None = None) -> list[int]:
        """Report recorded results to the history, up to a total number; return the generations that they close.

        Args:
            until: Total number of results; None: all.
        """
        reported_count, closed = len(self._history.trials), []
        for id in self._run.sequence(start=reported_count)[: None if until is None else max(0, until - reported_count)]:
            # Candidates are added as late as possible: when others were proposed depends on the number of slots.
            while self._history.proposed_count <= id:
                widen(self._history, self._run)
                self._history.add_candidate(self._run.candidates[self._history.proposed_count])
            trial = self._history.tell(id, self._run.outcomes[id])
            generation = trial.candidate.generation
            self._unreported[generation] -= 1
            is_full = self._history.fresh_count >= (generation + 1) * self._run.manifest.population
            if is_full and not self._unreported[generation]:
                self._survivors[generation] = self._survivors_now()
                closed.append(generation)
        return closed

    def _survivors_now(self) -> frozenset[int]:
        try:
            return frozenset(self._strategy.survivors(self._history))
        except Exception as error:
            raise strategy_error(self._run.manifest.strategy, "survivors", error) from error

    def _recorded_ids(self, number: int) -> list[int]:
        return [id for id in self._members[number] if id in self._run.outcomes]

    def _write(self, number: int) -> None:
        """Write a file with all of its recorded results."""
        rows = self._table(number)
        if rows is not None:
            table.write(table.file_path(self._run, number), rows)

    def _table(self, number: int) -> "pa.Table | None":
        """Return the rows of a file, None without any; an open generation has the survivors of this moment."""
        self._follow(self._saved)
        trials = [self._run.trial(id) for id in self._recorded_ids(number)]
        if not trials:
            return None
        is_open = any(trial.candidate.generation not in self._survivors for trial in trials)
        present_survivors = self._survivors_now() if is_open else frozenset()
        survivor_ids = [
            trial.id
            for trial in trials
            if trial.id in self._survivors.get(trial.candidate.generation, present_survivors)
        ]
        return table.table_of(self._run, trials, survivor_ids)


def strategy_error(name: str, function: str, error: Exception) -> RunError:
    """Return the error for an exception in a strategy's code. The run stops and can be resumed."""
    return RunError(
        f"strategy {name} raised {type(error).__name__} in {function}(): {error}; mend it, then "
        "`evo-tune resume --accept-changes`"
    )


# Files in the folder of a trial that evo-tune writes itself.
LOGS = ("log.txt", "error.txt")


def remove_checkpoint(run: Run, folder: str) -> None:
    """Remove the checkpoint inside a training whose result is recorded.

    Args:
        run: Run that is open for writing.
        folder: Name of the training's folder.
    """
    with contextlib.suppress(OSError):
        safe_files.remove(run.folder, TRIALS, folder, UNFINISHED[0])


def clean_checkpoints_after(run: Run, candidate: Candidate, outcome: Outcome) -> None:
    """Remove checkpoints that no trial needs after a recorded result.

    A checkpoint is resumed at most once, and the checkpoint of a failed trial never.

    Args:
        run: Run that is open for writing.
        candidate: Candidate with the result.
        outcome: The result.
    """
    remove_checkpoint(run, f"{candidate.id:06d}")
    if candidate.resumes is not None:
        _remove_saved_files(run, candidate.resumes)
    if outcome.status != "ok" and candidate.budget < 1.0:
        _remove_saved_files(run, candidate.id)


def remove_partial_checkpoints(run: Run) -> None:
    """Remove the checkpoints of all partial trainings, because no genome will be promoted any more.

    Call it when the strategy has no more proposals, not at a limit, because a longer run promotes more genomes.

    Args:
        run: Run that is open for writing.
    """
    for candidate in run.candidates:
        if candidate.budget < 1.0:
            _remove_saved_files(run, candidate.id)


def _remove_saved_files(run: Run, id: int) -> None:
    """Remove the files that a trial saved, except its logs."""
    with contextlib.suppress(OSError):
        safe_files.remove_all_but(run.folder, TRIALS, f"{id:06d}", files=LOGS)
