"""A storm of faults at random moments: does a run still end as if nothing had happened?

A run in birth order, on two slots, of a quick deterministic evaluator. In each round, after a random time, the
machine does something to it:

    worker     a worker, or whatever else the run has started, is killed
    parent     the parent is killed
    term       the parent gets SIGTERM, as SLURM and Kubernetes send it: it must stop within its grace time
    exit       an evaluation leaves by os._exit
    segfault   an evaluation reads address 0
    pause      the parent and all its workers are stopped, and go on after a while
    disk       a session finds the disk full after some kilobytes: it must stop and say so
    readonly   a session finds the store write-protected: it must stop and say so
    clock      a session finds the clock set back by an hour

A parent that is dead is followed by a resume. Faults of the genomes themselves are results: some raise, return NaN,
hang until the timeout, or ask for more memory than there is. In the end the same run is made undisturbed, and all
must be equal: every genome, status, metric and survivor. After every death of a parent nothing that it had recorded
may be lost and none of its processes left; at the end no temporary file and no semaphore.

    python benchmarks/chaos.py --rounds 200
    python benchmarks/chaos.py --rounds 50 --faults worker parent

Prints one line, and exits 1 on any violation.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import psutil

from evo_tune import Search
from evo_tune.loop.replay import verify
from evo_tune.plugins.find import find_evaluator, make_strategy
from evo_tune.store.manifest import MANIFEST, space_of
from evo_tune.store.run import Run

MARK = "EVO_TUNE_CHAOS"
"""Environment variable by which every process of a run can be found, orphans too."""

FAULTS = ("worker", "parent", "term", "exit", "segfault", "pause", "disk", "readonly", "clock")

ENDING = ("disk", "readonly")
"""Those that must end a session, with a message."""

GRACE = 30.0
"""Seconds that a run has after SIGTERM; SLURM and Kubernetes give as many by default."""

TIMEOUT = 4.0
"""Seconds after which an evaluation that hangs is killed."""

GENERATIONS = 4
"""Generations at first, and what a run that has ended before all rounds are over is extended by."""

PATIENCE = 10.0
"""Seconds in which a dead parent's processes must be gone."""

EVALUATOR = '''"""50 to 150 ms; fails if another process is or was in its folder; some genomes fail by themselves."""

import ctypes
import hashlib
import json
import os
import resource
import time
from pathlib import Path

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-2.0, 2.0), y=Float(1e-4, 1.0, log=True), n=Int(1, 64), kind=Choice(("a", "b", "c")))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    if os.listdir(context.folder):
        raise RuntimeError(f"{context.folder} is not empty: {os.listdir(context.folder)}")
    mine = context.folder / "owner"
    mine.write_text(str(os.getpid()))
    for fault in ("exit", "segfault"):  # of the machine: one evaluation takes it, and is tried again
        try:
            os.unlink(Path(__file__).with_name(fault))
        except FileNotFoundError:
            continue
        ctypes.string_at(0) if fault == "segfault" else os._exit(3)
    time.sleep(0.05 + 0.1 * (genome["n"] / 64))
    fail(hashlib.sha256(json.dumps(genome, sort_keys=True).encode()).digest()[0])
    if mine.read_text() != str(os.getpid()):
        raise RuntimeError(f"{context.folder} has another owner")
    mine.unlink()
    unlucky = float("nan") if genome["n"] % 16 == 5 else 0.0
    loss = unlucky + genome["x"] ** 2 + abs(genome["y"] - 0.01) + genome["n"] / 64 + len(genome["kind"])
    return {"loss": loss + (context.seed % 7) / 100, "size": float(genome["n"])}


def fail(draw):
    """Fail as this genome does: a result, the same whenever it is evaluated."""
    if draw < 8:
        raise ValueError("this genome cannot be trained")
    if draw < 12:
        time.sleep(3600)
    if draw < 20:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limit[1]))
        try:
            bytearray(1 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
'''


class Violation(Exception):
    """Something that must never happen."""


def drive(folder: Path, name: str, generations: int, trouble: str) -> None:
    """Begin the run, or go on with it: what the parent process does.

    Args:
        folder: Where the evaluator and the store are.
        name: Of the run.
        generations: In all.
        trouble: 'disk', 'readonly', 'clock' or ''.
    """
    store = folder / "store"
    if trouble == "disk":
        largest = max((file.stat().st_size for file in store.rglob("*.jsonl")), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 3000, resource.RLIM_INFINITY))
    if trouble == "readonly":
        obey_modes()
        protect(store, True)
    if trouble == "clock":
        real = time.time
        time.time = lambda: real() - 3600.0
    if (store / name / MANIFEST).exists():
        search = Search.resume(name, store=store, generations=generations)
    else:
        shape = {"generations": generations, "population": 6, "seed": 3, "order": "birth", "slots": 2, "retries": 1000}
        search = Search(str(folder / "quick.py"), store=store, name=name, timeout=TIMEOUT, **shape)
    search.run()


def protect(folder: Path, protected: bool) -> None:
    """Take from a folder and all in it the right to be written to, or give it back."""
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            path.chmod(path.stat().st_mode & ~0o222 if protected else path.stat().st_mode | 0o200)


def obey_modes() -> None:
    """Have the modes of files hold for this process even if it is root's: give up DAC_OVERRIDE (capabilities(7))."""
    libc, override = ctypes.CDLL(None), 1 << 1
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for place in (0, 1):  # effective, permitted
        sets[place] &= ~override
    libc.capset(header, sets)


class Chaos:
    """One run and what is done to it.

    Args:
        folder: An empty folder for it all.
        seed: Of the moments and the victims.
        faults: Which are thrown, of FAULTS.
    """

    def __init__(self, folder: Path, seed: int, faults: Sequence[str] = FAULTS) -> None:
        self.folder = folder
        self.faults = tuple(faults)
        self.deck: list[str] = []
        self.tracker_killed = False
        self.parents: list[int] = []
        self.random = random.Random(seed)
        self.mark = uuid.uuid4().hex
        self.generations = GENERATIONS
        self.thrown: Counter[str] = Counter()
        self.journal = b""
        self.parent: subprocess.Popen[str] | None = None
        (folder / "quick.py").write_text(EVALUATOR)

    def start(self, name: str = "chaos", trouble: str = "") -> subprocess.Popen[str]:
        """Start the parent, whichever it is by now."""
        arguments = [sys.executable, __file__, "--drive", str(self.folder), name, str(self.generations), trouble]
        environment = {**os.environ, MARK: self.mark}
        parent = subprocess.Popen(arguments, env=environment, text=True, stderr=subprocess.PIPE)
        self.parents.append(parent.pid)
        return parent

    def round(self) -> None:
        """Wait, and throw a fault, each kind as often; a run that ends by itself before that is extended first."""
        if not self.deck:
            self.deck = self.random.sample(self.faults, len(self.faults))
        fault = self.deck.pop()
        while True:
            if self.parent is None:
                self.parent = self.start()
            try:
                self.parent.wait(self.random.uniform(0.0, 1.5))
            except subprocess.TimeoutExpired:
                return self.throw(fault)
            self.ended()
            self.generations += GENERATIONS

    def throw(self, fault: str) -> None:
        """Do something to the run, which is at work."""
        assert self.parent is not None
        self.thrown[fault] += 1
        if fault in ("exit", "segfault"):
            (self.folder / fault).touch()
        elif fault == "worker":
            self.kill_other()
        elif fault == "pause":
            self.pause()
        elif fault == "term":
            self.terminate()
        else:
            self.parent.kill()
            self.parent.wait()
            trouble = fault if fault != "parent" else ""
            if trouble in ENDING:
                self.generations += GENERATIONS  # the session must have something left to write
            self.bury(resume_at_once=bool(trouble) or self.random.random() < 0.5, trouble=trouble)
            if trouble in ENDING:
                self.suffer(trouble)

    def kill_other(self) -> None:
        """Kill a process of the run that is not the parent, if there is one."""
        assert self.parent is not None
        others = [process for process in self.processes() if process.pid != self.parent.pid]
        if others:
            victim = self.random.choice(others)
            with contextlib.suppress(psutil.Error):
                self.tracker_killed |= "resource_tracker" in " ".join(victim.cmdline())
                victim.kill()

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

    def terminate(self) -> None:
        """Send SIGTERM.

        Raises:
            Violation: The run does not stop in time, or not cleanly.
        """
        assert self.parent is not None
        self.parent.terminate()
        try:
            code = self.parent.wait(GRACE)
        except subprocess.TimeoutExpired:
            raise Violation(f"SIGTERM has not stopped the run within {GRACE:g} s") from None
        # Before it has installed its handler, or after its end, the signal has its plain effect.
        if code not in (0, -signal.SIGTERM):
            assert self.parent.stderr is not None
            raise Violation(f"SIGTERM ended the run with {code}:\n{self.parent.stderr.read()}")
        self.bury()

    def suffer(self, trouble: str) -> None:
        """Let a session end under its trouble: a store that takes nothing more must end it, with a message.

        Raises:
            Violation: It ends otherwise.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        code = self.parent.wait()
        text = self.parent.stderr.read()
        protect(self.folder / "store", False)
        if "StoreError" not in text:
            raise Violation(f"{trouble}: the session ended with {code}:\n{text}")
        self.bury()

    def ended(self) -> None:
        """Check a parent that has ended by itself.

        Raises:
            Violation: It has failed, or left something behind.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        if self.parent.wait():
            raise Violation(f"the run ended with {self.parent.returncode}:\n{self.parent.stderr.read()}")
        self.bury()

    def bury(self, resume_at_once: bool = False, trouble: str = "") -> None:
        """Check what a dead parent has left.

        Raises:
            Violation: A process, or less than was recorded.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        self.parent.stderr.close()
        self.parent = None
        left = self.processes()
        self.check_journal()
        if resume_at_once:
            self.parent = self.start(trouble=trouble)
        _, alive = psutil.wait_procs(left, PATIENCE)
        if alive:
            raise Violation(f"{len(alive)} processes are left behind: {[process.cmdline() for process in alive]}")

    def check_journal(self) -> None:
        """Check that a journal only ever grows.

        Raises:
            Violation: It has lost or changed what was in it.
        """
        path = self.folder / "store" / "chaos" / "_journal.jsonl"
        journal = path.read_bytes() if path.exists() else b""
        if not journal.startswith(self.journal):
            raise Violation("the journal has lost or changed what was in it")
        self.journal = journal[: journal.rfind(b"\n") + 1]  # a torn tail will go

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the run that are alive."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def finish(self) -> tuple[Run, Run]:
        """Let the run come to its end; return it, and the same run made undisturbed."""
        if self.parent is None:
            self.parent = self.start()
        self.ended()
        self.check_litter()
        self.parent = self.start("undisturbed")
        self.ended()
        store = self.folder / "store"
        return Run.open(store / "chaos"), Run.open(store / "undisturbed")

    def check_litter(self) -> None:
        """Check that nothing is left over that was only meant for a while.

        Raises:
            Violation: A temporary file, or a semaphore although no process that takes them away was killed.
        """
        run = self.folder / "store" / "chaos"
        litter = [str(file) for file in run.rglob("*") if file.name.endswith(".part") or ".worker-" in file.name]
        if not self.tracker_killed:
            litter += [str(file) for pid in self.parents for file in Path("/dev/shm").glob(f"sem.*-{pid}-*")]
        if litter:
            raise Violation(f"left over: {litter}")


def compare(disturbed: Run, undisturbed: Run) -> None:
    """Compare two runs in all that does not depend on time.

    Raises:
        Violation: They differ, or a proposal does not come out again.
    """
    for one, other in zip(disturbed.trials(), undisturbed.trials(), strict=True):
        same = one.candidate == other.candidate and one.outcome.metrics == other.outcome.metrics
        if not same or (one.outcome.status, one.told_order) != (other.outcome.status, other.told_order):
            raise Violation(f"trials differ:\n{one}\n{other}")
    one, other = (_timeless(run) for run in (disturbed, undisturbed))
    if not one.equals(other):
        raise Violation(f"the Parquet files differ:\n{one.compare(other)}")
    manifest = disturbed.manifest
    space = space_of(manifest, find_evaluator(manifest.evaluator).space(manifest.options))
    found = verify(disturbed, space, make_strategy(manifest.strategy, manifest.strategy_options))
    if found:
        raise Violation(f"proposals that do not come out again: {found}")


def _timeless(run: Run) -> pd.DataFrame:
    frame = pd.read_parquet(run.folder).drop(columns=["seconds", "device"]).sort_values("id", ignore_index=True)
    return frame.assign(parents=frame["parents"].map(list))


def disturb(rounds: int, seed: int, faults: Sequence[str] = FAULTS) -> int:
    """Make a run under faults, print what came of it, and return the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        chaos = Chaos(Path(folder), seed, faults)
        try:
            for _ in range(rounds):
                chaos.round()
            disturbed, undisturbed = chaos.finish()
            compare(disturbed, undisturbed)
        except Violation as violation:
            print(f"VIOLATION (seed {seed}) after {chaos.thrown.total()} faults ({dict(chaos.thrown)}): {violation}")
            return 1
        finally:
            for process in chaos.processes():
                process.kill()
        faults_thrown = ", ".join(f"{number} {what}" for what, number in sorted(chaos.thrown.items()))
        ends = Counter(outcome.status for outcome in disturbed.outcomes.values())
        results = ", ".join(f"{number} {status}" for status, number in sorted(ends.items()))
        print(
            f"{chaos.thrown.total()} faults ({faults_thrown}), {len(disturbed.sessions)} sessions, "
            f"{len(disturbed.outcomes)} trials ({results}) in {time.monotonic() - began:.0f} s: every genome, metric "
            "and survivor is the undisturbed run's, nothing recorded was lost, nothing is left over, every proposal "
            "comes out again"
        )
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="number of faults")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help="which, if not all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        folder, name, generations, trouble = given.drive
        drive(Path(folder), name, int(generations), trouble)
        return
    sys.exit(disturb(given.rounds, given.seed, given.faults))


if __name__ == "__main__":
    main()
