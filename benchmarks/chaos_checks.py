"""What must hold of a run that benchmarks/chaos.py has disturbed, by what is on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from evo_tune.errors import StoreError
from evo_tune.loop.code import strategy_with_rules
from evo_tune.loop.verifying import verify
from evo_tune.plugins.find import find_evaluator
from evo_tune.store.manifest import MANIFEST, space_of
from evo_tune.store.run import Run

LARGEST_LOG = 17 << 20
"""Bytes: docs/files.md promises 16 MiB, and the line that says so."""


class Violation(Exception):
    """Something that must never happen."""


def comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition is true, and return whether it is within some seconds of an idle machine.

    A busy machine gets more: a tenth of a second counts as passed when 10 ms of work are done, however long they take.
    So no load makes a violation of what is only slow.
    """
    passed = 0.0
    while not condition():
        if passed >= seconds:
            return False
        began, worked = time.monotonic(), time.thread_time()
        while time.thread_time() < worked + 0.01:
            pass
        time.sleep(9 * (time.monotonic() - began))
        passed += 0.1
    return True


def told_and_lost(folder: Path, told: Path) -> list[int]:
    """Return the trials that were told, as a session has noted by itself, and that a run does not hold any more.

    Raises:
        Violation: The run cannot be read.
    """
    ids = {int(line) for line in told.read_text().splitlines()} if told.exists() else set()
    if not (folder / MANIFEST).exists():
        return sorted(ids)
    try:
        return sorted(ids - Run.open(folder).outcomes.keys())
    except StoreError as error:
        raise Violation(f"the run cannot be read: {error}") from None


def check_whole(journal: Path) -> None:
    """Check that a session which the disk has refused has taken back what it wrote half.

    Raises:
        Violation: It has not.
    """
    if journal.exists() and not journal.read_bytes().endswith(b"\n"):
        raise Violation("the journal ends with half an event, which a living session has left")


def left_over(store: Path) -> list[str]:
    """Return the files that were meant to be temporary (halves of writes, workers' output), and logs beyond bounds."""
    files = [file for file in store.rglob("*") if file.is_file()]
    large = [file for file in files if file.name == "log.txt" and file.stat().st_size > LARGEST_LOG]
    return [str(file) for file in files if file.name.endswith(".part") or ".worker-" in file.name or file in large]


def compare(disturbed: Run, undisturbed: Run | None) -> None:
    """Compare two runs in all that does not depend on time; and have a run's proposals made again.

    Raises:
        Violation: They differ, a proposal does not come out again, or the Parquet files do not hold the trials.
    """
    trials, table = disturbed.trials(), _timeless(disturbed)
    if not len(trials) == len(disturbed.candidates) == len(table):
        numbers = f"{len(disturbed.candidates)} births and {len(table)} rows"
        raise Violation(f"{disturbed.name} has {len(trials)} results, and {numbers}")
    manifest = disturbed.manifest
    evaluator = find_evaluator(manifest.evaluator).bind(manifest.options)
    space = space_of(manifest, evaluator.space)
    if undisturbed is not None:
        _compare(disturbed, undisturbed, table)
    if found := verify(disturbed, space, strategy_with_rules(manifest, evaluator, manifest.strategy)):
        raise Violation(f"proposals that do not come out again: {found}")


def _compare(disturbed: Run, undisturbed: Run, table: pd.DataFrame) -> None:
    if len(disturbed.candidates) != len(undisturbed.candidates):
        numbers = len(disturbed.candidates), len(undisturbed.candidates)
        raise Violation(f"{disturbed.name} has {numbers[0]} trials, the undisturbed run {numbers[1]}")
    for one, other in zip(disturbed.trials(), undisturbed.trials(), strict=True):
        mine, theirs = one.outcome, other.outcome
        same = one.candidate == other.candidate and one.reported_order == other.reported_order
        if not same or (mine.status, mine.metrics, mine.curve) != (theirs.status, theirs.metrics, theirs.curve):
            raise Violation(f"trials differ:\n{one}\n{other}")
    theirs = _timeless(undisturbed)
    if not table.equals(theirs):
        raise Violation(f"the Parquet files differ:\n{table.compare(theirs)}")


def _timeless(run: Run) -> pd.DataFrame:
    frame = pd.read_parquet(run.folder).drop(columns=["seconds", "device"]).sort_values("id", ignore_index=True)
    return frame.assign(parents=frame["parents"].map(list))
