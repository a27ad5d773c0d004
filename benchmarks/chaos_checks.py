"""What must hold of a run that benchmarks/chaos.py has disturbed, and what other programs do to its files.

A run that finds its journal changed, replaced or removed must stop, say so, and lose no result that was told.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import psutil

from evo_tune.errors import StoreError
from evo_tune.loop.code import strategy_with_rules
from evo_tune.loop.verifying import verify
from evo_tune.plugins.find import find_evaluator
from evo_tune.store.journal import JOURNAL
from evo_tune.store.manifest import MANIFEST, space_of
from evo_tune.store.run import Run

if TYPE_CHECKING:
    from chaos_faults import Chaos

NOISE = b"loss 0.5\n"

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
"""File by which root may choose the id of the next process."""

GRACE = 30.0
"""Seconds that a run has after SIGTERM; SLURM and Kubernetes give as many by default."""

BIRTH = 8
"""Steps on the disk within which a run is made."""

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


def scribble(chaos: Chaos) -> None:
    """Append a line to the journal of a run at work; see `_named`."""

    def append() -> None:
        with (chaos.store / "chaos" / JOURNAL).open("ab") as file:
            file.write(NOISE)

    _named(chaos, *_changed(chaos, append))


def betray(chaos: Chaos) -> None:
    """Have an evaluation append a line to the journal of its run; see `_named`."""
    wish = chaos.folder / "betray"
    code, text = _changed(chaos, wish.touch)
    if wish.exists():  # the run had no evaluation left to begin
        wish.unlink()
    else:
        _named(chaos, code, text)


def _named(chaos: Chaos, code: int, text: str) -> None:
    """Check a run into whose journal a line was written, and remove the line.

    Raises:
        Violation: The run has written on, or the line is not named.
    """
    journal = chaos.store / "chaos" / JOURNAL
    if code and not ("was changed by another program" in text or "is damaged" in text):
        raise Violation(f"a foreign line ended the run with {code}:\n{text}")
    if not code and not journal.read_bytes().endswith(NOISE):
        raise Violation("the run wrote on behind a foreign line")
    with contextlib.suppress(StoreError):
        Run.open(chaos.store / "chaos")
        raise Violation("a foreign line was read as an event")
    journal.write_bytes(journal.read_bytes().replace(NOISE, b""))


def swap(chaos: Chaos) -> None:
    """Put a copy in the place of the journal of a run at work; see `_rescued`."""
    journal = chaos.store / "chaos" / JOURNAL

    def replace() -> None:
        shutil.copy(journal, chaos.folder / "copy")
        (chaos.folder / "copy").replace(journal)

    _rescued(chaos, *_changed(chaos, replace))


def move(chaos: Chaos) -> None:
    """Move the folder of a run at work away, and back once it has stopped; see `_rescued`."""
    folder, aside = chaos.store / "chaos", chaos.folder / "aside"
    code, text = _changed(chaos, lambda: folder.rename(aside))
    shutil.rmtree(folder, ignore_errors=True)  # a worker may have made it again
    aside.rename(folder)
    _rescued(chaos, code, text)


def _rescued(chaos: Chaos, code: int, text: str) -> None:
    """Check a run whose journal was gone: it has ended, and was saved with every result.

    Raises:
        Violation: It goes on, or something is lost.
    """
    rescued, kept = chaos.store / "chaos-rescued", Run.open(chaos.store / "chaos")
    if code and "while the run wrote it: all results are saved in" not in text:
        raise Violation(f"a journal that is gone ended the run with {code}:\n{text}")
    if code and not kept.outcomes.keys() <= Run.open(rescued).outcomes.keys():
        raise Violation("the saved run has fewer results than the one whose journal was gone")
    shutil.rmtree(rescued, ignore_errors=True)


def _changed(chaos: Chaos, change: Callable[[], object]) -> tuple[int, str]:
    """Change the files of a run between two of its steps; return its exit code, and what it has said.

    Raises:
        Violation: It goes on as before.
    """
    session = chaos.parent
    assert session is not None
    assert chaos.parent is not None
    assert chaos.parent.stderr is not None
    parent = psutil.Process(chaos.parent.pid)
    with contextlib.suppress(psutil.Error):
        parent.suspend()
    change()
    with contextlib.suppress(psutil.Error):
        parent.resume()
    if not comes_true(lambda: session.poll() is not None, GRACE):
        raise Violation("a run whose journal was changed goes on")
    return session.wait(), chaos.parent.stderr.read()


def flip(chaos: Chaos) -> None:
    """Flip a bit in a whole line of the journal, resume, and flip it back.

    Raises:
        Violation: The damage is not named, or the journal is changed.
    """
    journal = chaos.store / "chaos" / JOURNAL
    before = journal.read_bytes()
    damaged = bytearray(before)
    damaged[chaos.random.randrange(before.rfind(b"\n") + 1)] ^= 1 << chaos.random.randrange(8)
    journal.write_bytes(damaged)
    chaos.parent = chaos.start()
    assert chaos.parent.stderr is not None
    text = chaos.parent.stderr.read()
    if not chaos.parent.wait() or "is damaged" not in text:
        raise Violation(f"a flipped bit is not named:\n{text}")
    if journal.read_bytes() != damaged:
        raise Violation("a damaged journal was changed")
    journal.write_bytes(before)


def come_back(chaos: Chaos) -> None:
    """Have the folder of the run come back with a command in its manifest, resume, and put the manifest back.

    Raises:
        Violation: The command is executed, or nobody is asked about it.
    """
    manifest, mark = chaos.store / "chaos" / MANIFEST, chaos.folder / "executed"
    before = manifest.read_bytes()
    command = f"sh -c 'touch {mark}; echo loss 1' {{x}} {{y}} {{n}} {{kind}}"
    manifest.write_text(json.dumps({**json.loads(before), "evaluator": f"command:{command}"}))
    chaos.parent = chaos.start()
    assert chaos.parent.stderr is not None
    text, code = chaos.parent.stderr.read(), chaos.parent.wait()
    if mark.exists():
        raise Violation("a run that came back changed has executed a command")
    if not code or "trust=True" not in text:
        raise Violation(f"a run that came back changed ended with {code}:\n{text}")
    manifest.write_bytes(before)


def recycle(chaos: Chaos) -> None:
    """Kill a worker, and give its id to a process that is none of the run's, as soon as it is free."""
    assert chaos.parent is not None
    workers = [process for process in chaos.processes() if _parent_of(process) == chaos.parent.pid]
    if not workers or not os.access(LAST_PID, os.W_OK):
        return
    victim = chaos.random.choice(workers)
    with contextlib.suppress(psutil.Error):
        victim.kill()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        LAST_PID.write_text(str(victim.pid - 1))
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if process.pid == victim.pid:
            chaos.bystanders.append(process)
            return
        process.kill()
        process.wait()


def _parent_of(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def has_begun(chaos: Chaos) -> bool:
    """Return whether the run is on disk."""
    return (chaos.store / "chaos" / MANIFEST).exists()


def resume_copy(chaos: Chaos) -> None:
    """Have a copy of the run, whose parent is dead, go on to the end.

    Raises:
        Violation: It does not, or the run is not what it was.
    """
    if not (chaos.store / "chaos" / MANIFEST).exists():
        return
    before = read_all(chaos.store / "chaos")
    name = f"copy-{len(chaos.copies)}"
    chaos.parent = chaos.start(copy_as=name)
    chaos.ended()
    if read_all(chaos.store / "chaos") != before:
        raise Violation("the run was changed by a copy of it")
    chaos.copies.append((name, chaos.generations))


def begin_another(chaos: Chaos) -> None:
    """Begin another run, have the power go, and begin it again, or go on with it.

    Raises:
        Violation: It cannot be begun, and not gone on with.
    """
    number = chaos.thrown["newborn"]
    name = f"newborn-{number}"
    chaos.parent = chaos.start(name, trouble="power", cut=1 + (chaos.seed + number) % BIRTH, generations=1)
    chaos.parent.wait()
    chaos.kill_all()
    chaos.parent = chaos.start(name, generations=1)
    chaos.ended()


def read_all(folder: Path) -> dict[Path, bytes]:
    """Return what a folder's files hold."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command_of(process: psutil.Process) -> list[str]:
    """Return the command of a process; of one that is dead, and only waits for whoever began it, nothing."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie is one
        return []
