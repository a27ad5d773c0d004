"""What runs in a cluster engine's own process, on any machine: slots like the local ones, held for a parent far away.

An engine (Dask, Ray) only carries messages. The training runs in a process of its own below the engine's, in a
`LocalSlot`: pinned, timed, and free to die without taking the engine's worker along. This module knows no engine
and nothing of the parent's side, which is `remote.py`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from evo_tune.dispatch.devices import CPU, Device, gpus, plan, trouble
from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.slot import SlotClosed, SlotUnfit, Task
from evo_tune.errors import RunError
from evo_tune.genome.trial import Candidate
from evo_tune.plugins.find import find_evaluator, local_sources, package_of, source_hash

__all__ = ["Host", "Parcel", "offer", "versions"]

LEASE = 60.0
"""Seconds after which a training whose parent is not heard of any more is killed: it would write into the
folder that a resumed run uses."""


def versions() -> dict[str, str]:
    """Return the versions of what shapes a result: they must be the same on every machine of a run."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("evo-tune", "torch", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@dataclass(frozen=True)
class Parcel:
    """A task with what another machine needs to load its evaluator; plain data.

    Args:
        task: As the parent's machine has it.
        hash: `plugins.source_hash` of the evaluator's file there.
        sources: Content of the file and of the local modules that it imports, by their place under one folder.
        main: Which of them is the evaluator's file.
        versions: See `versions`.
        run: Identifier of the run, which no other has; '' where its folders need none.
    """

    task: Task
    hash: str
    sources: dict[str, bytes]
    main: str
    versions: dict[str, str]
    run: str = ""

    @classmethod
    def of(cls, task: Task, run: str = "") -> Parcel:
        """Pack a task of a run."""
        main = Path(task.path).resolve()
        root = package_of(main)[1].resolve()
        placed = {_place(file, root): file.read_bytes() for file in local_sources(main)}
        return cls(task, source_hash(main), placed, _place(main, root), versions(), run)

    @property
    def mark(self) -> Path:
        """A file in the trials' folder: a machine that sees it shares the folder with the parent's."""
        return Path(self.task.trials_folder, f".run-{self.run}")

    def set_mark(self) -> None:
        """Let the machines that share the trials' folder see that they do."""
        with contextlib.suppress(OSError):  # a full disk is for the journal to say
            self.mark.parent.mkdir(parents=True, exist_ok=True)
            self.mark.touch()

    def remove_mark(self) -> None:
        """Take it away, and the folder as well if no trial has one."""
        with contextlib.suppress(OSError):
            self.mark.unlink(missing_ok=True)
            self.mark.parent.rmdir()

    def unpack(self) -> Task:
        """Return the task as this machine has it.

        The evaluator's file is taken from the same path if it is there and the same (a shared folder), from
        the package if it is a bundled one, and is written to a temporary folder otherwise. A trials' folder that
        is not shared gets the run's name, since another run may have the same path elsewhere.

        Raises:
            RunError: Versions here and there differ, or the bundled evaluator does.
        """
        self._check_versions()
        task, path = self.task, Path(self.task.path)
        if self.run and not self.mark.exists():
            task = replace(task, trials_folder=f"{task.trials_folder}-{self.run}")
        if path.is_file() and source_hash(path) == self.hash:
            return task
        bundled = self.task.reference.startswith("bundled:")
        path = find_evaluator(self.task.reference).path if bundled else self._written()
        if source_hash(path) != self.hash:
            raise RunError(
                f"{platform.node()} has another {self.task.reference} ({source_hash(path)[:12]}) than the run "
                f"({self.hash[:12]}): install the same evo-tune on every machine"
            )
        return replace(task, path=str(path))

    def _check_versions(self) -> None:
        mine = versions()
        for name, theirs in self.versions.items():
            if mine.get(name) != theirs:
                raise RunError(
                    f"{platform.node()} has {name} {mine.get(name, 'not installed')}, the run's own machine {theirs}: "
                    "results would not be comparable; install the same version on every machine"
                )

    def _written(self) -> Path:
        folder = _private(Path(tempfile.gettempdir(), f"evo-tune-{os.getuid()}-{self.hash[:16]}"))
        for name, content in self.sources.items():
            target = folder / name
            if not target.is_file() or target.read_bytes() != content:
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
                part.write_bytes(content)
                part.replace(target)
        return folder / self.main


def _private(folder: Path) -> Path:
    """Return a folder that nobody else can write to, since what is in it is run; if this one is not, a new one."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if mine else Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))


def _place(file: Path, root: Path) -> str:
    """Return where a source goes under the one folder: as under its package's root, else as under the working one.

    Both folders are searched for imports, so everything is found again in one.
    """
    for base in (root, Path.cwd().resolve()):
        if base in file.parents:
            return file.relative_to(base).as_posix()
    return file.name


def offer(devices: str | None, per_device: int, cores: int, ranks: int = 1) -> list[Device]:
    """Return the device of each slot that this process can hold.

    Args:
        devices: As typed by the user; None takes the GPUs that this process sees, else the CPU.
        per_device: Slots on each GPU.
        cores: What there is for trainings where there is no GPU.
        ranks: Processes of one training.

    Raises:
        RunError: nvidia-smi fails, so nobody knows whether there is a GPU.
    """
    if devices is None and (wrong := trouble()) and not gpus():
        raise RunError(f"{wrong}; mend that, or give --devices cpu")
    slots = plan(None, devices, per_device if devices != "cpu" and gpus() else 1, ranks=ranks).slots
    return list((CPU,) * max(1, cores // ranks) if slots[0] == CPU else slots)


class Host:
    """One slot for a parent far away, in this process.

    Args:
        parcel: What the slot's candidates have in common.
        name: Of the slot, for people.
        device: What it is pinned to, as `offer` gives it.
        timeout: See `LocalSlot`.
        retries: See `LocalSlot`.

    Raises:
        RunError: This machine is not fit for the run; see `Parcel.unpack`.
    """

    def __init__(
        self, parcel: Parcel, name: str, device: Device, timeout: float | None = None, retries: int = 0
    ) -> None:
        self._slot = LocalSlot(name, device, parcel.unpack(), timeout, retries)
        self._heard = time.monotonic()

    def run(self, candidate: dict[str, Any], folder: str | None) -> dict[str, Any] | None:
        """Evaluate a candidate, given by its fields.

        Returns:
            The fields of the outcome; None if the slot was killed meanwhile; only 'unfit', why, if nothing can be
            trained here.
        """
        self.heard()
        done = threading.Event()
        threading.Thread(target=self._watch, args=(done,), daemon=True).start()
        try:
            return vars(self._slot.run(Candidate(**candidate), folder))
        except SlotClosed:
            return None
        except SlotUnfit as error:
            return {"unfit": str(error)}
        finally:
            done.set()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(1.0):
            if time.monotonic() - self._heard > LEASE:
                self._slot.kill()

    def heard(self) -> int | None:
        """Note that the parent lives; return the process id of the training."""
        self._heard = time.monotonic()
        return self._slot.pid

    def kill(self) -> None:
        """Kill the training; no other will follow."""
        self._slot.kill()

    def close(self) -> None:
        """Let an idle worker go."""
        self._slot.close()
