"""Kill -9 at random moments: does a run still end as if nothing had happened?

A run in birth order, on two slots, of a quick deterministic evaluator. In each round, after a random
time, a random worker (or whatever else the run has started) or the parent is killed; a dead parent is
followed by a resume. In the end the same run is made undisturbed, and all must be equal: every genome,
metric and survivor. After every death of a parent nothing that it had recorded may be lost and none of
its processes left.

    python benchmarks/chaos.py --rounds 50

Prints one line, and exits 1 on any violation.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil

from evo_tune import Search
from evo_tune.plugins import find_evaluator, make_strategy
from evo_tune.population import MANIFEST, Run, space_of
from evo_tune.replay import verify

MARK = "EVO_TUNE_CHAOS"
"""Environment variable by which every process of a run can be found, orphans too."""

GENERATIONS = 4
"""Generations at first, and what a run that has ended before all rounds are over is extended by."""

PATIENCE = 10.0
"""Seconds in which a dead parent's processes must be gone."""

EVALUATOR = '''"""50 to 150 ms; fails if another process is in its folder, or has been."""

import os
import time

from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-2.0, 2.0), y=Float(1e-4, 1.0, log=True), n=Int(1, 64), kind=Choice(("a", "b", "c")))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    if os.listdir(context.folder):
        raise RuntimeError(f"{context.folder} is not empty: {os.listdir(context.folder)}")
    mine = context.folder / "owner"
    mine.write_text(str(os.getpid()))
    time.sleep(0.05 + 0.1 * (genome["n"] / 64))
    if mine.read_text() != str(os.getpid()):
        raise RuntimeError(f"{context.folder} has another owner")
    mine.unlink()
    loss = genome["x"] ** 2 + abs(genome["y"] - 0.01) + genome["n"] / 64 + len(genome["kind"])
    return {"loss": loss + (context.seed % 7) / 100, "size": float(genome["n"])}
'''


class Violation(Exception):
    """Something that must never happen."""


def drive(folder: Path, name: str, generations: int) -> None:
    """Begin the run, or go on with it: what the parent process does."""
    store = folder / "store"
    if (store / name / MANIFEST).exists():
        search = Search.resume(name, store=store, generations=generations)
    else:
        shape = {"generations": generations, "population": 6, "seed": 3, "order": "birth", "slots": 2, "retries": 1000}
        search = Search(str(folder / "quick.py"), store=store, name=name, **shape)
    search.run()


class Chaos:
    """One run and what is done to it.

    Args:
        folder: An empty folder for it all.
        seed: Of the moments and the victims.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.mark = uuid.uuid4().hex
        self.generations = GENERATIONS
        self.killed: Counter[str] = Counter()
        self.journal = b""
        self.parent: subprocess.Popen[str] | None = None
        (folder / "quick.py").write_text(EVALUATOR)

    def start(self, name: str = "chaos") -> subprocess.Popen[str]:
        """Start the parent, whichever it is by now."""
        arguments = [sys.executable, __file__, "--drive", str(self.folder), name, str(self.generations)]
        environment = {**os.environ, MARK: self.mark}
        return subprocess.Popen(arguments, env=environment, text=True, stderr=subprocess.PIPE)

    def round(self) -> None:
        """Wait, and kill; a run that ends by itself before that is extended first."""
        while True:
            if self.parent is None:
                self.parent = self.start()
            try:
                self.parent.wait(self.random.uniform(0.0, 1.5))
            except subprocess.TimeoutExpired:
                return self.kill()
            self.ended()
            self.generations += GENERATIONS

    def kill(self) -> None:
        """Kill the parent, or another process of its run if there is one."""
        assert self.parent is not None
        others = [process for process in self.processes() if process.pid != self.parent.pid]
        if others and self.random.random() < 0.65:
            self.killed["workers"] += 1
            self.random.choice(others).kill()
            return
        self.killed["parents"] += 1
        self.parent.kill()
        self.parent.wait()
        self.bury(resume_at_once=self.random.random() < 0.5)

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

    def bury(self, resume_at_once: bool = False) -> None:
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
            self.parent = self.start()
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
        self.parent = self.start("undisturbed")
        self.ended()
        store = self.folder / "store"
        return Run.open(store / "chaos"), Run.open(store / "undisturbed")


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


def disturb(rounds: int, seed: int) -> int:
    """Make a run under kills, print what came of it, and return the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        chaos = Chaos(Path(folder), seed)
        try:
            for _ in range(rounds):
                chaos.round()
            disturbed, undisturbed = chaos.finish()
            compare(disturbed, undisturbed)
        except Violation as violation:
            print(f"VIOLATION (seed {seed}) after {chaos.killed.total()} kills: {violation}")
            return 1
        finally:
            for process in chaos.processes():
                process.kill()
        kills = ", ".join(f"{number} of {what}" for what, number in sorted(chaos.killed.items()))
        print(
            f"{chaos.killed.total()} kills ({kills}), {len(disturbed.sessions)} sessions, "
            f"{len(disturbed.outcomes)} trials in {time.monotonic() - began:.0f} s: every genome, metric and survivor "
            "is the undisturbed run's, nothing recorded was lost, no process is left, every proposal comes out again"
        )
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        folder, name, generations = given.drive
        drive(Path(folder), name, int(generations))
        return
    sys.exit(disturb(given.rounds, given.seed))


if __name__ == "__main__":
    main()
