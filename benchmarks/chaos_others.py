"""What other programs do to the files and processes of a run in benchmarks/chaos.py, and what must hold then.

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

import psutil
from chaos_checks import Violation, comes_true

from evo_tune.errors import StoreError
from evo_tune.store.journal import JOURNAL
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run import Run

if TYPE_CHECKING:
    from chaos_faults import Chaos

NOISE = b"loss 0.5\n"

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
"""File by which root may choose the id of the next process."""


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
    from chaos_faults import GRACE

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
