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
    python benchmarks/chaos.py --backend dask --rounds 8    a cluster's workers and scheduler (see chaos_cluster.py)

Prints a line for each run, and exits 1 on any violation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from chaos_checks import Violation
from chaos_cluster import ClusterChaos
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
