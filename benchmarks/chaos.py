"""A storm of faults at random moments: does a run still end as if nothing had happened?

A run on two slots of a quick deterministic evaluator. In each round, after a random time, the machine does something
to it:

    worker     a worker, or whatever else the run has started, is killed
    parent     the parent is killed
    all        the parent and all its workers are killed at once
    term       the parent gets SIGTERM, as SLURM and Kubernetes send it: it must stop within its grace time
    int        Ctrl-C, once: it must finish what is in flight and stop
    exit       an evaluation leaves by os._exit
    segfault   an evaluation reads address 0
    pause      the parent and all its workers are stopped, and go on after a while
    disk       a session finds the disk full after some kilobytes: it must stop and say so
    readonly   a session finds the store write-protected: it must stop and say so
    power      the power goes in the middle of a write, and takes what nobody had waited for
    clock      a session finds the clock set back by an hour
    newborn    another run is begun, and the power goes before it is one: its name must be free, or the run go on
    second     a second parent wants the same run: it must be refused
    copy       a copy of the run goes on beside it to the end
    hup        the terminal is closed: it must stop as after SIGTERM, and the journal must say so
    nolocks    a session finds a file system without locks: it must stop and say so
    scribble   another program appends a line to the journal: the run must stop, and the line must be named
    swap       another program puts a copy in the place of the journal: the run must stop, and save all results beside
    move       the folder of the run is moved away: the same
    flip       a bit of the journal is flipped: a resume must name the line, and cut nothing
    recycle    a worker is killed, and another program's process gets its id: it must live on
    betray     an evaluation appends a line to the journal: as scribble
    returned   the folder comes back with a command in its manifest: a resume must execute nothing, and ask
    flood      an evaluation prints 48 MiB: its log must not be longer than 16 MiB

A parent that is dead is followed by a resume; a run that ends before all rounds are over is extended. Faults of the
genomes themselves are results: some raise, return NaN, hang until the timeout, or ask for more memory than there is.
It is done to a run in proposal order, to one in order of arrival, and to runs with rungs, pruning and extra seeds
(`--rules`). In the end the same run is made undisturbed, and all must be equal: every genome, status,
curve, metric and survivor; in order of arrival, where no two runs are equal, every proposal must come out again. After
every death of a parent no result that was told may be lost, the journal must hold what it held, and no process may be
left; at the end no temporary file and no worker's output.

    python benchmarks/chaos.py --rounds 200
    python benchmarks/chaos.py --rounds 50 --faults worker parent --rules birth
    python benchmarks/chaos.py --mutants                    breaks evo-tune on purpose: each break must be noticed
    python benchmarks/chaos.py --backend dask --rounds 8    a cluster's workers and scheduler

On a cluster of this machine that is not the run's own (--backend dask or ray), these are done to it:

    stop       one of the cluster's workers is stopped for a while
    host       one of them is killed
    scheduler  the scheduler is killed, and with it the cluster: the run must stop and say so; then there is a new one
    raylet     (Ray) the process that keeps the only node is killed: as for the scheduler
    parent     the run's own process is killed

Prints a line for each run, and exits 1 on any violation.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from chaos_checks import Violation, comes_true
from chaos_faults import FAULTS, Chaos
from chaos_session import MUTANTS, RULES

from evo_tune.store.run import Run

AIMED = {
    "fsync": ("power",),
    "lock": ("second",),
    "checks": ("scribble", "betray"),
    "checksum": ("flip",),
    "truncate": ("disk",),
    "rename": ("parent",),
    "trust": ("returned",),
    "pid": ("recycle",),
    "cap": ("flood",),
    "nodes": ("raylet",),
}
"""By mutant: the faults that are thrown at it."""

CLUSTER_FAULTS = {
    "dask": ("stop", "host", "scheduler", "parent"),
    "ray": ("stop", "host", "scheduler", "raylet", "parent"),
}

LONG = 12
"""Generations at first: a cluster is slow to begin."""

STARTING = 60.0
"""Seconds that a cluster may take until it answers."""

NOTICED = 180.0
"""Seconds in which a run must have noticed that its cluster is gone."""

STARVED = 300.0
"""Seconds without a result after which the cluster is taken to have lost what trains."""

SAID = ("ClusterLost", "no Dask scheduler answers", "no Ray answers")
"""One of these a run must say of it."""

HOSTS = {"dask": "spawn_main", "ray": "ray::"}
"""What the command lines of those processes have in common that trainings run below."""


class ClusterChaos(Chaos):
    """One run on a cluster, and what is done to both.

    Args:
        folder: An empty folder for it all.
        seed: Of the moments and the victims.
        backend: 'dask' or 'ray'.
        faults: Which are thrown; none: all of the backend's CLUSTER_FAULTS.
        mutant: See `Chaos`.
    """

    def __init__(self, folder: Path, seed: int, backend: str, faults: Sequence[str] = (), mutant: str = "") -> None:
        super().__init__(folder, seed, faults or CLUSTER_FAULTS[backend], mutant=mutant)
        self.backend, self.generations = backend, LONG
        self.members: list[subprocess.Popen[bytes]] = []
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # a Ray that no other machine can reach
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # nor another user of this one
        self.cluster = (backend, self.open_cluster())

    def open_cluster(self) -> str:
        """Start a cluster; return its address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        if self.backend == "ray":
            head = ("ray.scripts.scripts", "start", "--head", "--port", port, "--num-cpus", "2", "--block")
            self.member(*head, "--include-dashboard", "false", "--node-ip-address", "127.0.0.1")
        else:
            self.member("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
            workers = ("--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
            self.member("distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *workers)
        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1.0):
                time.sleep(5.0)  # the workers come after it
                return f"127.0.0.1:{port}"
            time.sleep(0.2)
        raise SystemExit(f"no {self.backend} cluster has started within {STARTING:g} s")

    def member(self, *command: str) -> None:
        nothing = subprocess.DEVNULL
        arguments = [sys.executable, "-m", *command]
        self.members.append(subprocess.Popen(arguments, stdout=nothing, stderr=nothing, start_new_session=True))

    def close_cluster(self) -> None:
        """Kill every process of the cluster."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for member in self.members:
            member.wait()
        self.members = []

    def family(self) -> list[psutil.Process]:
        """Return the processes of the cluster."""
        found = []
        for member in self.members:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(member.pid)
                found += [process, *process.children(recursive=True)]
        return found

    def hosts(self) -> list[psutil.Process]:
        """Return those below which trainings run, or will."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if HOSTS[self.backend] in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def throw(self, fault: str) -> None:
        assert self.parent is not None
        self.wait_at_work()
        if fault == "parent":
            return super().throw(fault)
        self.thrown[fault] += 1
        hosts = self.hosts()
        if fault == "scheduler":
            self.lose(lambda one: one.pid == self.members[0].pid or "gcs_server" in one.name())
        elif fault == "raylet":
            psutil.Process(self.members[0].pid).suspend()  # it would end all the others
            self.lose(lambda one: one.name() == "raylet")
        elif hosts:
            victim = self.random.choice(hosts)
            with contextlib.suppress(psutil.Error):
                if fault == "host":
                    victim.kill()
                    return
                victim.suspend()
                time.sleep(self.random.uniform(1.0, 8.0))
                victim.resume()

    def wait_at_work(self) -> None:
        """Wait until a result has come through the cluster, which takes seconds, and a moment more.

        Raises:
            Violation: None comes: the cluster may have lost its only machine on a busy computer.
        """
        assert self.parent is not None
        told = self.folder / "told-chaos"
        before = told.stat().st_size if told.exists() else 0
        parent = self.parent

        def has_come() -> bool:
            return parent.poll() is not None or (told.exists() and told.stat().st_size > before)

        if not comes_true(has_come, STARVED):
            raise Violation(f"no result has come through the cluster for {STARVED:g} s of an idle machine")
        time.sleep(self.random.uniform(0.0, 0.5))

    def lose(self, is_needed: Callable[[psutil.Process], bool]) -> None:
        """Kill what holds the cluster together, and let the run go on with a new one.

        Args:
            is_needed: Returns whether a process is killed.

        Raises:
            Violation: The run does not notice.
        """
        assert self.parent is not None
        assert self.parent.stderr is not None
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if is_needed(process):
                    process.kill()
        parent = self.parent
        if not comes_true(lambda: parent.poll() is not None, NOTICED):
            raise Violation(f"{NOTICED:g} s of an idle machine after its cluster the run has not ended")
        code = parent.returncode
        text = self.parent.stderr.read()
        if code and not any(words in text for words in SAID):
            raise Violation(f"without its cluster the run ended with {code}:\n{text}")
        self.renew()

    def renew(self) -> None:
        """Put a new cluster in the place of one that the run has lost."""
        self.bury()
        self.close_cluster()
        self.cluster = (self.backend, self.open_cluster())

    def extend(self) -> None:
        """As for every run; but on a busy computer Ray may take its only machine for dead, and end it."""
        assert self.parent is not None
        while self.parent.wait() and self.backend == "ray" and not self.is_alive("raylet"):
            self.thrown["starved"] += 1
            self.renew()
            self.parent = self.start()
        super().extend()

    def is_alive(self, name: str) -> bool:
        """Return whether a process of the cluster with this name is alive."""
        with contextlib.suppress(psutil.Error):
            return any(one.name() == name and one.status() != psutil.STATUS_ZOMBIE for one in self.family())
        return False

    def compare_undisturbed(self) -> None:
        self.close_cluster()
        self.cluster = ("joblib", "")
        super().compare_undisturbed()

    def close(self) -> None:
        super().close()
        self.close_cluster()


def storm(chaos: Chaos, rounds: int) -> tuple[str, Run | None]:
    """Make a run under faults; return the first violation, or '' and the run."""
    try:
        for _ in range(rounds):
            chaos.round()
        return "", chaos.finish()
    except Violation as violation:
        return str(violation), None
    finally:
        chaos.close()


def disturb(rounds: int, seed: int, faults: Sequence[str], rules: str, backend: str = "joblib") -> bool:
    """Make a run under faults, print what came of it, and say whether all was well."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        cluster = backend != "joblib"
        chaos = ClusterChaos(Path(folder), seed, backend) if cluster else Chaos(Path(folder), seed, faults, rules)
        violation, run = storm(chaos, rounds)
    thrown = ", ".join(f"{number} {what}" for what, number in sorted(chaos.thrown.items()))
    if run is None:
        print(
            f"{rules}: VIOLATION (seed {seed}) after {chaos.thrown.total()} faults ({thrown}): {violation}", flush=True
        )
        return False
    ends = Counter(outcome.status for outcome in run.outcomes.values())
    results = ", ".join(f"{number} {status}" for status, number in sorted(ends.items()))
    same = f"; every genome, metric and survivor is the undisturbed run's, {len(chaos.copies)} copies' too"
    print(
        f"{rules}: {chaos.thrown.total()} faults ({thrown}), {len(run.sessions)} sessions, {len(run.outcomes)} trials "
        f"({results}) in {time.monotonic() - began:.0f} s: nothing told was lost, nothing is left over, every "
        f"proposal comes out again{same if chaos.in_birth_order else ''}",
        flush=True,
    )
    return True


def break_on_purpose(mutants: Sequence[str], rounds: int, seed: int) -> bool:
    """Make a run with each of these MUTANTS, print which check has noticed it, and say whether all were."""
    missed = 0
    for number, mutant in enumerate(mutants):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            where, faults = Path(folder), AIMED[mutant]
            if mutant == "nodes":
                chaos: Chaos = ClusterChaos(where, seed + number, "ray", faults, mutant)
            else:
                chaos = Chaos(where, seed + number, faults, mutant=mutant)
            violation, _ = storm(chaos, rounds)
        missed += not violation
        noticed = (
            " / ".join([violation.splitlines()[0], *violation.splitlines()[1:][-1:]]) if violation else "NOT NOTICED"
        )
        print(f"{mutant} ({MUTANTS[mutant]}), {chaos.thrown.total()} faults: {noticed[:300]}", flush=True)
    return not missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="number of faults, shared out among the runs")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help="which, if not all"
    )
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="which runs, if not all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--backend", choices=("joblib", "dask", "ray"), default="joblib", help="where the slots are")
    parser.add_argument(
        "--mutants", nargs="*", choices=MUTANTS, metavar="MUTANT", help="break evo-tune on purpose: is it noticed?"
    )
    given = parser.parse_args()
    if given.mutants is not None:
        sys.exit(not break_on_purpose(given.mutants or list(MUTANTS), given.rounds, given.seed))
    if given.backend != "joblib":
        sys.exit(not disturb(given.rounds, given.seed, (), given.backend, given.backend))
    shares = [len(range(number, given.rounds, len(given.rules))) for number in range(len(given.rules))]
    played = zip(given.rules, shares, strict=True)
    well = [disturb(share, given.seed + i, given.faults, rules) for i, (rules, share) in enumerate(played) if share]
    sys.exit(not all(well))


if __name__ == "__main__":
    main()
