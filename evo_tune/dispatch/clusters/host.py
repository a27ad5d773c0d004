"""Code that runs in a cluster engine's process, on any machine: local slots that serve a remote parent.

An engine (Dask, Ray) only carries messages. A training run has its own process below the engine's, in a
`LocalSlot`. It is pinned and timed there, and its death does not end the engine's worker. This module knows neither the
engines nor the parent's side, which is `remote.py`.
"""

import contextlib
import os
import platform
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from evo_tune.dispatch.devices import CPU, Device, find_gpus, plan
from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.slot import SlotClosed, SlotUnfit, Task
from evo_tune.errors import RunError
from evo_tune.genome.trial import Candidate
from evo_tune.plugins.code import local_sources, package_of, source_hash
from evo_tune.plugins.find import find_evaluator
from evo_tune.trust.safe_files import complete_or_absent, private_folder

# Seconds without a sign of life from the parent after which a training run is killed: otherwise it would write into the
# folder that a resumed run uses.
LEASE = 60.0


def versions() -> dict[str, str]:
    """Return the versions of Python and packages that affect results; all machines of a run must have the same."""
    packages = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("evo-tune", "torch", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[package] = metadata.version(package)
    return packages


@dataclass(frozen=True)
class PackedTask:
    """A task with the files that another machine needs to load its evaluator; plain data.

    Args:
        task: Task on the parent's machine.
        hash: `plugins.source_hash` of the evaluator's file there.
        sources: Content of the evaluator's file and of the local modules that it imports, by relative path.
        main: Relative path of the evaluator's file.
        versions: See `versions`.
        run: Unique identifier of the run; '' if its folders need none.
    """

    task: Task
    hash: str
    sources: dict[str, bytes]
    main: str
    versions: dict[str, str]
    run: str = ""

    @classmethod
    def of(cls, task: Task, run: str = "") -> "PackedTask":
        """Pack a task of a run."""
        main = Path(task.path).resolve()
        root = package_of(main)[1].resolve()
        placed = {_place(file, root): file.read_bytes() for file in local_sources(main)}
        return cls(task, source_hash(main), placed, _place(main, root), versions(), run)

    @property
    def mark(self) -> Path:
        """Path of a file in the trials' folder; a machine that sees the file shares this folder with the parent."""
        return Path(self.task.trials_folder, f".run-{self.run}")

    def mark_shared_folder(self) -> None:
        """Create the mark, so that machines recognize a shared trials' folder."""
        with contextlib.suppress(OSError):  # the journal reports a full disk
            self.mark.parent.mkdir(parents=True, exist_ok=True)
            self.mark.touch()

    def remove_mark(self) -> None:
        """Remove the mark, and the trials' folder if it is empty."""
        with contextlib.suppress(OSError):
            self.mark.unlink(missing_ok=True)
            self.mark.parent.rmdir()

    def unpack(self) -> Task:
        """Return the task with this machine's paths.

        The evaluator's file is taken from the same path if it has the same content (a shared folder), or from the
        package if it is a bundled one. Otherwise it is written to a temporary folder. A trials' folder that is not
        shared gets the run's identifier as a suffix, since another run may use the same path.

        Raises:
            RunError: The two machines have different versions or different bundled evaluators.
        """
        local_versions = versions()
        for name, version in self.versions.items():
            if local_versions.get(name) != version:
                raise RunError(
                    f"{platform.node()} has {name} {local_versions.get(name, 'not installed')}, the run's own machine "
                    f"{version}: results would not be comparable; install the same version on every machine"
                )
        task, path = self.task, Path(self.task.path)
        if self.run and not self.mark.exists():
            task = replace(task, trials_folder=f"{task.trials_folder}-{self.run}")
        if path.is_file() and source_hash(path) == self.hash:
            return task
        if self.task.reference.startswith("bundled:"):
            path = find_evaluator(self.task.reference).path
        else:
            folder = private_folder(Path(tempfile.gettempdir(), f"evo-tune-{os.getuid()}-{self.hash[:16]}"))
            path = folder / self.main
            for name, content in self.sources.items():
                target = folder / name
                if not target.is_file() or target.read_bytes() != content:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with complete_or_absent(target) as part:
                        part.write_bytes(content)
        if source_hash(path) != self.hash:
            raise RunError(
                f"{platform.node()} has another {self.task.reference} ({source_hash(path)[:12]}) than the run "
                f"({self.hash[:12]}): install the same evo-tune on every machine"
            )
        return replace(task, path=str(path))


def _place(file: Path, root: Path) -> str:
    """Return a source's path relative to its package's root, or else to the working folder, or only its name.

    Imports are searched in both folders, so one folder with these relative paths is enough.
    """
    for base in (root, Path.cwd().resolve()):
        if base in file.parents:
            return file.relative_to(base).as_posix()
    return file.name


def list_slot_devices(devices: str | None, per_device: int, cores: int, ranks: int = 1) -> list[Device]:
    """Return the device of each slot that this process can run.

    Args:
        devices: Value of --devices; None uses the GPUs that this process sees, else the CPU.
        per_device: Slots on each GPU.
        cores: CPU cores for training, if there is no GPU.
        ranks: Processes of one training run.

    Raises:
        RunError: nvidia-smi fails, so it is unknown whether there is a GPU.
    """
    visible_gpus, error = find_gpus()
    if devices is None and error and not visible_gpus:
        raise RunError(f"{error}; mend that, or give --devices cpu")
    slots = plan(None, devices, per_device if devices != "cpu" and visible_gpus else 1, ranks=ranks).slots
    return list((CPU,) * max(1, cores // ranks) if slots[0] == CPU else slots)


class SlotServer:
    """One slot in this process, for a remote parent.

    Args:
        packed_task: Task of the slot's candidates.
        name: Name of the slot in messages.
        device: Device that it is pinned to, as `list_slot_devices` returns it.
        timeout: See `LocalSlot`.
        retries: See `LocalSlot`.

    Raises:
        RunError: This machine cannot be used for the run; see `PackedTask.unpack`.
    """

    def __init__(
        self, packed_task: PackedTask, name: str, device: Device, timeout: float | None = None, retries: int = 0
    ) -> None:
        self._slot = LocalSlot(name, device, packed_task.unpack(), timeout, retries)
        self._heard = time.monotonic()

    def run(self, candidate: dict[str, Any], folder: str | None) -> dict[str, Any] | None:
        """Evaluate a candidate, given by its fields.

        Returns:
            The fields of the outcome; None if the slot was killed meanwhile; only 'unfit', the reason, if this
            machine cannot train.
        """
        self.renew_lease()
        ended = threading.Event()

        def kill_abandoned() -> None:
            while not ended.wait(1.0):
                if time.monotonic() - self._heard > LEASE:
                    self._slot.kill()

        threading.Thread(target=kill_abandoned, daemon=True).start()
        try:
            return vars(self._slot.run(Candidate(**candidate), folder))
        except SlotClosed:
            return None
        except SlotUnfit as error:
            return {"unfit": str(error)}
        finally:
            ended.set()

    def renew_lease(self) -> int | None:
        """Note that the parent is alive, for another `LEASE` seconds; return the process id of the worker."""
        self._heard = time.monotonic()
        return self._slot.pid

    def kill(self) -> None:
        """Kill the training run and close the slot."""
        self._slot.kill()

    def close(self) -> None:
        """End an idle worker and close the slot."""
        self._slot.close()
