"""One run and what is done to it: the faults of benchmarks/chaos.py, and what is checked after each.

What happens inside a session is chaos_session's; what is read from the disk, and done by others, chaos_checks'.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import chaos_session
import psutil
from chaos_checks import (
    GRACE,
    Violation,
    begin_another,
    betray,
    check_whole,
    come_back,
    comes_true,
    command_of,
    compare,
    flip,
    has_begun,
    left_over,
    move,
    recycle,
    resume_copy,
    scribble,
    swap,
    told_and_lost,
)
from chaos_session import RULES, Plan, lose, protect

from evo_tune.store.journal import JOURNAL
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run import Run

MARK = "EVO_TUNE_CHAOS"
"""Environment variable by which every process of a run can be found, orphans too."""

FAULTS = (
    *("worker", "parent", "all", "term", "int", "exit", "segfault", "pause"),
    *("disk", "readonly", "power", "clock", "newborn", "second", "copy"),
    *("hup", "nolocks", "scribble", "swap", "move", "flip", "recycle"),
    *("betray", "returned", "flood"),
)

SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "hup": signal.SIGHUP}

ENDING = ("disk", "readonly", "power", "nolocks")
"""Those that must end a session."""

AT_WORK = {"scribble": scribble, "swap": swap, "move": move, "betray": betray}
"""What is done to the files of a run that is at work, and must stop."""

AT_REST = {"flip": flip, "returned": come_back}
"""What is done to the files of a run whose parent is dead, and a resume must find."""

GENERATIONS = 4
"""Generations at first, and what a run that has ended before all rounds are over is extended by."""

PATIENCE = 10.0
"""Seconds in which a dead parent's processes must be gone."""

CUT = 60
"""Steps on the disk within which a power cut comes."""


class Chaos:
    """One run and what is done to it.

    Args:
        folder: An empty folder for it all.
        seed: Of the moments and the victims.
        faults: Which are thrown, of FAULTS.
        rules: Under which the run is made, of RULES.
        mutant: Of MUTANTS, or ''.
    """

    def __init__(
        self, folder: Path, seed: int, faults: Sequence[str] = FAULTS, rules: str = "proposal", mutant: str = ""
    ) -> None:
        self.folder, self.store = folder, folder / "store"
        self.faults, self.rules, self.mutant = tuple(faults), rules, mutant
        self.deck: list[str] = []
        self.parents: list[int] = []
        self.ready: dict[int, Path] = {}
        """By parent: the file that is there as long as it has its run for itself."""
        self.seed, self.random = seed, random.Random(seed)
        self.mark = uuid.uuid4().hex
        self.generations = GENERATIONS
        self.limits: list[int] = []
        """Generations at which the run has ended by itself: the undisturbed one is extended from the same."""
        self.copies: list[tuple[str, int]] = []
        """Name, and generations at which it has ended."""
        self.thrown: Counter[str] = Counter()
        self.journal = b""
        self.cluster: tuple[str, str] = ("joblib", "")
        self.parent: subprocess.Popen[str] | None = None
        self.bystanders: list[subprocess.Popen[bytes]] = []
        """Processes that are none of the run's, and must outlive it."""
        self.store.mkdir()
        shutil.copy(Path(__file__).with_name("chaos_evaluator.py"), folder / "quick.py")

    def start(self, name: str = "chaos", **plan: str | float) -> subprocess.Popen[str]:
        """Start a parent, in a session of its own, as a terminal does; see `Plan` for what it is to do."""
        ready = f"ready-{len(self.parents)}"
        given = {"generations": self.generations, "mutant": self.mutant, "ready": ready, **plan}
        told = Plan(str(self.folder), name, self.rules, **given, backend=self.cluster[0], address=self.cluster[1])
        arguments = [sys.executable, chaos_session.__file__, told.text()]
        environment = {**os.environ, MARK: self.mark}
        pipe = subprocess.PIPE
        parent = subprocess.Popen(arguments, env=environment, text=True, stderr=pipe, start_new_session=True)
        self.parents.append(parent.pid)
        self.ready[parent.pid] = self.folder / ready
        return parent

    def round(self) -> None:
        """Wait, and throw a fault, each kind as often; a run that ends by itself before that is extended first."""
        self.deck = self.deck or self.random.sample(self.faults, len(self.faults))
        fault = self.deck.pop()
        while True:
            self.parent = self.parent or self.start()
            try:
                self.parent.wait(self.random.uniform(0.0, 1.5))
            except subprocess.TimeoutExpired:
                return self.throw(fault)
            self.extend()

    def throw(self, fault: str) -> None:
        """Do something to the run, which is at work."""
        assert self.parent is not None
        self.thrown[fault] += 1
        if fault in ("exit", "segfault", "flood"):
            (self.folder / fault).touch()
        elif fault in ("worker", "pause", "second", "all"):
            {"worker": self.kill_other, "pause": self.pause, "second": self.intrude, "all": self.kill_all}[fault]()
        elif fault in SIGNALS:
            self.interrupt(fault)
        elif fault == "recycle":
            recycle(self)
        elif fault in AT_WORK:
            if self.wait_ready(self.parent):  # before, it would find no run
                AT_WORK[fault](self)
                self.bury()
        else:
            self.parent.kill()
            self.parent.wait()
            if fault in ENDING:
                self.bury()
                self.suffer(fault)
            elif fault in AT_REST:
                self.bury()
                if has_begun(self):
                    AT_REST[fault](self)
                    self.bury()
            elif fault in ("copy", "newborn"):
                self.bury()
                resume_copy(self) if fault == "copy" else begin_another(self)
            else:
                clock = fault == "clock"
                self.bury(resume_at_once=clock or self.random.random() < 0.5, trouble="clock" if clock else "")

    def kill_other(self) -> None:
        """Kill a process of the run that is not the parent, if there is one."""
        assert self.parent is not None
        others = [process for process in self.processes() if process.pid != self.parent.pid]
        if others:
            victim = self.random.choice(others)
            with contextlib.suppress(psutil.Error):
                victim.kill()

    def kill_all(self) -> None:
        """Kill the parent and all its workers, in any order."""
        assert self.parent is not None
        victims = self.processes()
        for victim in self.random.sample(victims, len(victims)):
            with contextlib.suppress(psutil.Error):
                victim.kill()
        self.parent.wait()
        self.bury()

    def pause(self) -> None:
        """Stop every process, as a machine that is suspended does, and let them go on."""
        stopped = self.processes()
        for process in stopped:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        time.sleep(self.random.uniform(0.1, 2.0))
        for process in stopped:
            with contextlib.suppress(psutil.Error):
                process.resume()

    def interrupt(self, fault: str) -> None:
        """Send SIGTERM or SIGHUP to the parent, or Ctrl-C to all that a terminal would send it to.

        Raises:
            Violation: The run does not stop in time, or not cleanly.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        number = SIGNALS[fault]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.parent.pid, number) if fault == "int" else self.parent.send_signal(number)
        parent = self.parent
        if not comes_true(lambda: parent.poll() is not None, GRACE):
            raise Violation(f"{number.name} has not stopped the run within {GRACE:g} s of an idle machine")
        code = parent.returncode
        # Before it has installed its handler, or after its end, the signal has its plain effect.
        if code not in (0, -number):
            raise Violation(f"{number.name} ended the run with {code}:\n{self.parent.stderr.read()}")
        if code == 0 and Run.open(self.store / "chaos").ended is None:
            raise Violation(f"{number.name} ended the run, and its journal does not say so")
        self.bury()

    def intrude(self) -> None:
        """Start a second parent beside the first, which has the run for itself by then.

        Raises:
            Violation: It is let in, or is refused without a reason.
        """
        assert self.parent is not None
        if not self.wait_ready(self.parent):
            return  # it has ended meanwhile
        second = self.start()
        assert second.stderr is not None
        entered = self.wait_ready(second, self.parent)
        # Not whether the first is alive: it lets go of the run before it ends, and then the second may have it.
        if entered and self.ready[self.parent.pid].exists() and self.parent.poll() is None:
            raise Violation("a second parent was let into a run that is in use")
        text = second.stderr.read()
        second.wait()
        second.stderr.close()
        if second.returncode and "is in use by another process" not in text:
            raise Violation(f"a second parent ended with {second.returncode}:\n{text}")

    def wait_ready(self, parent: subprocess.Popen[str], first: subprocess.Popen[str] | None = None) -> bool:
        """Wait until a parent has the run, and say so; False if it has ended, or the one before it has."""
        while parent.poll() is None and (first is None or first.poll() is None):
            if self.ready[parent.pid].exists():
                return True
            time.sleep(0.01)
        return False

    def suffer(self, trouble: str) -> None:
        """Let a session end under its trouble: a store that takes nothing more must end it, with a message.

        Raises:
            Violation: It ends otherwise.
        """
        self.leave_work()
        self.parent = self.start(trouble=trouble, cut=self.random.randint(1, CUT))
        assert self.parent.stderr is not None
        code = self.parent.wait()
        if trouble == "power" and code == -signal.SIGKILL:
            self.kill_all()
            return
        text = self.parent.stderr.read()
        protect(self.store, False)
        if (trouble == "power" and code) or (trouble != "power" and "StoreError" not in text):
            raise Violation(f"{trouble}: the session ended with {code}:\n{text}")
        self.bury()
        if trouble == "disk":
            check_whole(self.store / "chaos" / JOURNAL)

    def leave_work(self) -> None:
        """See to it that a session has something left to write: let a run near its end come to it, and extend it."""
        if (self.store / "chaos" / MANIFEST).exists():
            run = Run.open(self.store / "chaos")
            if run.candidates and run.candidates[-1].generation > self.generations - 3:
                self.parent = self.start()
                self.extend()

    def extend(self) -> None:
        """Let the run come to its end, and give it more to do."""
        self.ended()
        self.limits.append(self.generations)
        self.generations += GENERATIONS

    def ended(self) -> None:
        """Check a parent that ends by itself.

        Raises:
            Violation: It has failed, or left something behind.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        text = self.parent.stderr.read()
        if self.parent.wait():
            raise Violation(f"the run ended with {self.parent.returncode}:\n{text}")
        self.bury()

    def bury(self, resume_at_once: bool = False, trouble: str = "") -> None:
        """Check what a dead parent has left.

        Raises:
            Violation: A process, or less than was told.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        self.parent.stderr.close()
        self.parent = None
        left = self.processes()
        for notes in self.folder.glob("synced-*"):
            lose(self.store, notes.name.removeprefix("synced-"), notes, self.random)
            notes.unlink()
        self.check_kept()
        if resume_at_once:
            self.parent = self.start(trouble=trouble)
        comes_true(lambda: not any(map(command_of, psutil.wait_procs(left, 0.0)[1])), PATIENCE)
        if left := [words for words in map(command_of, psutil.wait_procs(left, 0.0)[1]) if words]:
            raise Violation(f"{len(left)} processes are left behind: {left}")
        self.dismiss()

    def dismiss(self) -> None:
        """End the bystanders.

        Raises:
            Violation: The run has killed one.
        """
        while self.bystanders:
            bystander = self.bystanders.pop()
            killed = bystander.poll() is not None
            bystander.kill()
            bystander.wait()
            if killed:
                raise Violation("the run has killed a process that had the id of a dead worker")

    def check_kept(self) -> None:
        """Check that a journal only ever grows, and holds every result that was told.

        Raises:
            Violation: It has lost or changed what was in it.
        """
        path = self.store / "chaos" / JOURNAL
        if not path.with_name(MANIFEST).exists() and not self.journal:
            return  # the manifest comes last: before it there is no run, and the next session begins one
        journal = path.read_bytes() if path.exists() else b""
        if not journal.startswith(self.journal):
            raise Violation("the journal has lost or changed what was in it")
        self.journal = journal[: journal.rfind(b"\n") + 1]  # a torn tail will go
        for told in self.folder.glob("told-*"):
            if lost := told_and_lost(self.store / told.name.removeprefix("told-"), told):
                raise Violation(f"{len(lost)} results are lost that were told: {lost}")

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the run that are alive."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def finish(self) -> Run:
        """Let the run come to its end and compare it and its copies with the same run made undisturbed; return it.

        Raises:
            Violation: They differ, or something is left over.
        """
        self.parent = self.parent or self.start()
        self.extend()
        if litter := left_over(self.store):
            raise Violation(f"left over: {litter}")
        self.compare_undisturbed()
        return Run.open(self.store / "chaos")

    def compare_undisturbed(self) -> None:
        """Make the same run undisturbed, extended where it was, and compare the run and its copies with it."""
        for limit in self.limits if self.in_birth_order else []:
            self.parent = self.start("undisturbed", generations=limit)
            self.ended()
            for name in [name for name, end in self.copies if end == limit]:
                compare(Run.open(self.store / name), Run.open(self.store / "undisturbed"))
        undisturbed = Run.open(self.store / "undisturbed") if self.in_birth_order else None
        compare(Run.open(self.store / "chaos"), undisturbed)

    def close(self) -> None:
        """Leave no process behind."""
        with contextlib.suppress(Violation):
            self.dismiss()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    @property
    def in_birth_order(self) -> bool:
        """Whether the same run can be made twice."""
        return str(RULES[self.rules]["order"]) == "proposal"
