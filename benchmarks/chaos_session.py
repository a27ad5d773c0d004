"""One session of the run that benchmarks/chaos.py disturbs: what the parent process does, and what befalls it.

It is started anew for each session, with a `Plan` as its argument. It knows how troubles of the disk are made (full,
write-protected, without locks, a power cut) and how evo-tune is broken on purpose (MUTANTS); who is killed when, and
what must hold afterwards, is chaos.py's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

from evo_tune import Search
from evo_tune.dispatch import local
from evo_tune.dispatch.clusters import ray_cluster
from evo_tune.store import journal, run
from evo_tune.store.manifest import MANIFEST
from evo_tune.trust import decide, safe_files

TIMEOUT = 4.0
"""Seconds after which an evaluation that hangs is killed."""

RULES: dict[str, dict[str, Any]] = {
    "proposal": {"order": "proposal"},
    "arrival": {"order": "arrival"},
    "rungs": {"order": "proposal", "fidelity": "1/9,1/3,1", "prune": True, "seeds_per_trial": 2},
    "arrival-rungs": {"order": "arrival", "fidelity": "1/9,1/3,1", "prune": True, "seeds_per_trial": 2},
}
"""Under which rules a run is made, by name."""

MUTANTS = {
    "fsync": "nothing waits for the disk",
    "lock": "a run is not locked",
    "checks": "a journal that another program has changed is written on",
    "checksum": "checksums are not checked",
    "truncate": "half a write is not taken back",
    "rename": "files are written in place, not beside it and renamed",
    "trust": "what the user began is compared neither with the manifest nor with the files of a command",
    "pid": "the group of a dead worker is killed",
    "cap": "a log is never cut",
    "nodes": "a Ray cluster without a node counts as connected",
}
"""Ways in which evo-tune is broken on purpose: the storm must notice each."""


@dataclass(frozen=True)
class Plan:
    """What a session is to do.

    Args:
        folder: Where the evaluator and the store are.
        name: Of the run.
        rules: Of RULES.
        generations: In all.
        trouble: 'disk', 'readonly', 'nolocks', 'clock', 'power' or ''.
        cut: With 'power': before how many steps on the disk it comes.
        mutant: Of MUTANTS, or ''.
        copy_as: Name of a copy that goes on in place of the run, or ''.
        linger: Seconds for which its process stays once the run has ended.
        ready: Name of the file that says, as long as it is there, that this session has the run for itself.
        backend: Where the slots are.
        address: Of the cluster, or ''.
    """

    folder: str
    name: str
    rules: str
    generations: int
    trouble: str = ""
    cut: int = 0
    mutant: str = ""
    copy_as: str = ""
    linger: float = 0.0
    ready: str = "ready"
    backend: str = "joblib"
    address: str = ""

    def text(self) -> str:
        """Return the plan as an argument of a command."""
        return json.dumps(asdict(self))


def drive(plan: Plan) -> None:
    """Begin the run, or go on with it."""
    folder = Path(plan.folder)
    store = folder / "store"
    if plan.trouble == "disk":
        path = store / plan.name / journal.JOURNAL
        size = path.stat().st_size if path.exists() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 3000, resource.RLIM_INFINITY))
    elif plan.trouble == "readonly":
        obey_modes()
        protect(store, True)
    elif plan.trouble == "nolocks":
        fcntl.flock = partial(refuse_lock, fcntl.flock)
    elif plan.trouble == "clock":
        real = time.time
        time.time = lambda: real() - 3600.0
    elif plan.trouble == "power":
        Disk(store, plan.name, folder / f"synced-{plan.name}", plan.cut).install()
    if plan.mutant:
        mutate(plan.mutant)
    tell_tales(folder / f"told-{plan.copy_as or plan.name}")
    search = opened(plan, store)
    say_ready(folder / plan.ready)
    search.run()
    time.sleep(plan.linger)


def refuse_lock(flock: Callable[[Any, int], None], file: Any, how: int) -> None:
    """As fcntl.flock where the store has no locks."""
    if isinstance(file, int) and journal.JOURNAL in _path(file):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    flock(file, how)


def say_ready(path: Path) -> None:
    """Say that the run is this session's, and take it back just before the run is let go: another may follow then."""
    close = run.Run.close

    def closed(self: run.Run) -> None:
        if self.journal.is_claimed:
            path.unlink(missing_ok=True)
        close(self)

    path.touch()
    run.Run.close = closed  # type: ignore[method-assign]


def opened(plan: Plan, store: Path) -> Search:
    """Return the run, begun or resumed; a copy of it, where one is wanted."""
    cluster = {"backend": plan.backend, "address": plan.address} if plan.address else {}
    if (store / plan.name / MANIFEST).exists():
        copy_as = plan.copy_as or None
        return Search.resume(plan.name, store=store, generations=plan.generations, copy_as=copy_as, **cluster)
    shape: dict[str, Any] = {"population": 6, "seed": 3, "slots": 2, "retries": 1000, **RULES[plan.rules], **cluster}
    evaluator = str(Path(plan.folder, "quick.py"))
    return Search(evaluator, store=store, name=plan.name, timeout=TIMEOUT, generations=plan.generations, **shape)


def tell_tales(path: Path) -> None:
    """Note every result once it was told, so that others can see whether it is lost: nobody asks the journal."""
    file, tell, write = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), Search.tell, os.write

    def told(self: Search, candidate: Any, outcome: Any) -> None:
        tell(self, candidate, outcome)
        with contextlib.suppress(OSError):  # the full disk is for the run to notice
            write(file, f"{candidate.id}\n".encode())

    Search.tell = told  # type: ignore[method-assign]


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


class Disk:
    """A disk that forgets, when the power goes, all that nobody has waited for.

    It stands between a session and os.open, os.write, os.fsync and os.replace, writes down what of a run's own files
    is safe (`lose` takes away of the rest), and kills the session before one of its steps, in the middle of a write.
    The folders of trials are not its concern: what trainings save there nobody waits for.

    Args:
        store: The store.
        name: Of the run in it.
        notes: The file that it writes down what is safe in.
        cut: Before which step, from 1; 0 for never.
    """

    def __init__(self, store: Path, name: str, notes: Path, cut: int) -> None:
        self.store, self.folder, self.cut, self.steps = store, store / name, cut, 0
        self.open, self.write, self.fsync, self.replace = os.open, os.write, os.fsync, os.replace
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for at in (self.store, self.folder):  # what was there before is safe
            if at.is_dir():
                self.note(at.stat(), os.listdir(at))
        for file in self.files():
            self.note(file.stat())

    def files(self) -> list[Path]:
        """Return the run's own files."""
        return [path for path in self.folder.glob("*") if path.is_file()]

    def note(self, found: os.stat_result, names: list[str] | None = None, size: int | None = None) -> None:
        """Write down that a file up to its end, or the names in a folder, are safe."""
        line = json.dumps([found.st_ino, names, found.st_size if size is None else size])
        self.write(self.notes, f"{line}\n".encode())

    def install(self) -> None:
        """Stand between this process and the disk from now on."""
        os.open, os.write, os.fsync, os.replace = self.opened, self.written, self.synced, self.replaced

    def step(self, fd: int, data: bytes = b"") -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path == self.store or path == self.folder or path.parent == self.folder:
            self.steps += 1
            if self.steps == self.cut:
                self.write(fd, data[: len(data) // 2]) if data else None
                os.kill(os.getpid(), signal.SIGKILL)

    def opened(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        """As os.open; a file that is emptied is not safe any more."""
        fd = self.open(path, flags, *rest, **more)
        if flags & (os.O_TRUNC | os.O_EXCL):  # new, or with the number of one that is gone
            self.note(os.fstat(fd), size=0)
        return fd

    def written(self, fd: int, data: Any) -> int:
        """As os.write."""
        self.step(fd, bytes(data))
        return self.write(fd, data)

    def synced(self, fd: Any) -> None:
        """As os.fsync."""
        fd = fd if isinstance(fd, int) else fd.fileno()
        self.step(fd)
        self.fsync(fd)
        found = os.fstat(fd)
        self.note(found, os.listdir(fd) if stat.S_ISDIR(found.st_mode) else None)

    def replaced(self, source: Any, target: Any, **more: Any) -> None:
        """As os.replace."""
        if "dst_dir_fd" in more:
            self.step(more["dst_dir_fd"])
        self.replace(source, target, **more)


def lose(store: Path, name: str, notes: Path, draw: random.Random) -> None:
    """Take from a run what a power cut may take: bytes that nobody has waited for, and one time in four names."""
    safe, forgetful = {}, draw.random() < 0.25
    for line in notes.read_text().splitlines():
        inode, names, size = json.loads(line)
        safe[inode] = (names, size)
    folder = store / name
    if not folder.is_dir():
        return
    if name not in safe.get(store.stat().st_ino, ([], 0))[0] and forgetful:
        shutil.rmtree(folder)
        return
    names = safe.get(folder.stat().st_ino, ([], 0))[0]
    for path in [path for path in folder.glob("*") if path.is_file()]:
        if path.name not in names and forgetful:
            path.unlink()
            continue
        least, size = safe.get(path.stat().st_ino, (None, 0))[1], path.stat().st_size
        if size > least:
            os.truncate(path, draw.choice((least, draw.randint(least, size), size)))


def mutate(mutant: str) -> None:
    """Break evo-tune in this process, as MUTANTS says."""
    if mutant == "fsync":
        os.fsync = lambda fd: None
    elif mutant == "lock":
        fcntl.flock = lambda file, how: None
    elif mutant == "checks":
        journal.Journal._require_size = lambda self, size: None  # type: ignore[method-assign]
    elif mutant == "checksum":
        journal.unseal_line = lambda line: line[: -journal.SEAL] + b"}"
    elif mutant == "trust":
        decide.reason_for_distrust = lambda folder, hashes: ""
        decide.allow_command = lambda *given: None
    elif mutant == "pid":
        local.Process.kill = partialmethod(kill_group_later, local.Process.kill)  # type: ignore[assignment]
    elif mutant == "cap":
        uncut = "import evo_tune.dispatch.log as log; log.Log.shorten = lambda self: None\nserve("
        local.PROGRAM = local.PROGRAM.replace("serve(", uncut)
    elif mutant == "nodes":
        ray_cluster.import_ray = partial(import_ray_with_dead_nodes, ray_cluster.import_ray)
    elif mutant == "truncate":
        truncate = os.ftruncate
        os.ftruncate = lambda fd, size: None if journal.JOURNAL in _path(fd) else truncate(fd, size)
    else:
        safe_files.replace = in_place


def import_ray_with_dead_nodes(import_ray: Callable[[], Any]) -> Any:
    """As `import_ray`, but a node that is dead counts as alive."""
    ray = import_ray()
    nodes = ray.nodes
    ray.nodes = lambda: [{**node, "Alive": True} for node in nodes()]
    return ray


def kill_group_later(worker: local.Process, kill: Callable[[local.Process], None]) -> None:
    """As `Process.kill`, and once more by the id alone, when the process may be reaped."""

    def again() -> None:
        with contextlib.suppress(OSError):
            os.killpg(worker.pid, signal.SIGKILL)

    kill(worker)
    threading.Timer(0.5, again).start()


def in_place(root: safe_files.Root, name: str, data: bytes, part: str, sync: bool = True, mode: int = 0o644) -> None:
    """As `safe_files.replace`, but not whole or not at all."""
    with safe_files.folder(root) as at:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode, dir_fd=at)
        try:
            os.write(file, data[: len(data) // 2])
            time.sleep(0.5)  # for a kill at this moment
            os.write(file, data[len(data) // 2 :])
            if sync:
                os.fsync(file)
                os.fsync(at)
        finally:
            os.close(file)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


if __name__ == "__main__":
    drive(Plan(**json.loads(sys.argv[1])))
