"""What this machine has to train on, found without importing torch, and how slots are laid over it.

The user's CUDA_VISIBLE_DEVICES is taken word for word, UUIDs and MIG ids included; only without one is
nvidia-smi asked. This module starts no worker.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from evo_tune.dispatch import numa
from evo_tune.errors import OptionError

__all__ = ["AUTO", "CPU", "MPS", "ROCM", "Device", "Gpu", "Inventory", "Plan", "cpu_count", "gpus", "inventory", "plan"]

AUTO = "auto"
"""As `--per-device`: as many slots on a GPU as its memory has room for."""

MOST = 8
"""Slots on a GPU under `--per-device auto`, if there are cores enough to feed them."""

USABLE = 0.9
"""Share of a GPU's memory that is given out: what a training fits itself to as well."""

SMI_SECONDS = 15.0
"""How long nvidia-smi may take: seconds on a machine of many GPUs without the persistence daemon."""


@dataclass(frozen=True)
class Device:
    """Something to pin a worker to.

    Args:
        name: As Outcomes report it: 'cpu', 'cuda:2', 'cuda:MIG-…', 'rocm:0', 'mps'; 'cuda:0+1' for two GPUs in one.
        visible: What CUDA_VISIBLE_DEVICES is set to in the worker.
        inside: What torch calls it in the worker, which sees no other GPU; of several the first.
    """

    name: str
    visible: str
    inside: str = "cuda:0"


CPU = Device("cpu", "", "cpu")
ROCM = Device("rocm:0", "0")
"""An AMD GPU: torch calls it cuda, and HIP goes by CUDA_VISIBLE_DEVICES as well."""
MPS = Device("mps", "", "mps")
"""Apple's GPU."""


@dataclass(frozen=True)
class Plan:
    """Which slots to open.

    Args:
        slots: The device of each slot.
        threads: CPU threads of each slot.
        memory: Bytes that the slots of a GPU share out among them (see `packing`), by what makes it visible; empty
            where each slot may take what it wants.
        cores: What each slot's worker is kept on (see `numa`); empty where it may run on any.
    """

    slots: tuple[Device, ...]
    threads: int
    memory: dict[str, int] = field(default_factory=dict)
    cores: tuple[tuple[int, ...], ...] = ()


def plan(
    slots: int | None = None,
    devices: str | None = None,
    per_device: int | str = 1,
    threads: int | None = None,
    ranks: int = 1,
) -> Plan:
    """Lay slots over devices: `per_device` on each GPU, or one on each core where there is no GPU.

    Where a training has several ranks, a slot has as many GPUs, or cores, for the whole run.

    Args:
        slots: Number of slots, if not all that fit; they are spread over the GPUs.
        devices: 'cpu', 'cuda', or GPUs by number or id: '0,2'. None takes the GPUs, else the CPU.
        per_device: Slots on each GPU; 'auto': up to 8 that share out its memory, if nvidia-smi tells how much that is.
        threads: CPU threads of each slot: 1 unless given. It never follows the number of slots, because
            the thread count changes the arithmetic.
        ranks: Processes of one training.

    Raises:
        OptionError: A number below 1, a device that is not there, fewer GPUs than ranks, or more slots than the GPUs
            hold.
    """
    for flag, number in (("slots", slots), ("per-device", per_device), ("threads", threads)):
        auto = flag == "per-device"
        if not (number is None or (auto and number == AUTO) or (isinstance(number, int) and number >= 1)):
            raise OptionError(f"--{flag} {number} is not allowed: expected 1 or more{' or auto' if auto else ''}")
    chosen = _choose(devices)
    if not chosen:
        if per_device not in (1, AUTO):
            raise OptionError(f"--per-device {per_device} needs a GPU, and this run uses none: give --slots instead")
        many, each = slots or max(1, cpu_count() // ranks), threads or 1
        return Plan((CPU,) * many, each, cores=numa.spread(many, each * ranks, numa.nodes()))
    chosen = chosen if ranks == 1 else _groups(chosen, ranks)
    memory = {} if isinstance(per_device, int) or ranks > 1 else _shareable(chosen)
    if not isinstance(per_device, int):
        fed = cpu_count() // (len(chosen) * (threads or 1))
        per_device = max(1, min(MOST, fed), math.ceil((slots or 1) / len(chosen))) if memory else 1
    room = len(chosen) * per_device
    if slots is not None and slots > room:
        what = "GPU(s)" if ranks == 1 else f"group(s) of {ranks} GPUs"
        raise OptionError(
            f"--slots {slots} is more than {room}, which is {len(chosen)} {what} with {per_device} slot(s) each: "
            "raise --per-device or lower --slots"
        )
    return Plan(tuple(chosen[i % len(chosen)] for i in range(slots or room)), threads or 1, memory)


def _groups(devices: tuple[Device, ...], ranks: int) -> tuple[Device, ...]:
    """Return groups of so many GPUs, as many as there are whole ones.

    Raises:
        OptionError: There is none.
    """
    groups = [devices[first : first + ranks] for first in range(0, len(devices) - ranks + 1, ranks)]
    if not groups:
        raise OptionError(
            f"ranks={ranks} wants {ranks} GPUs for each training, and this run has {len(devices)}: give fewer ranks, "
            "more GPUs or --devices cpu"
        )
    return tuple(
        Device(
            "cuda:" + "+".join(device.name.removeprefix("cuda:") for device in group),
            ",".join(device.visible for device in group),
        )
        for group in groups
    )


def _shareable(devices: tuple[Device, ...]) -> dict[str, int]:
    """Return the bytes of each GPU that may be given out; empty if those of any are not known.

    What others hold of a GPU now is theirs. That decides when trainings begin, and no result depends on it.
    """
    known = _look_up(devices)
    found = {}
    for device in devices:
        gpu = known.get(device.visible)
        if gpu is None or gpu.total is None:
            return {}
        free = gpu.total if gpu.free is None else gpu.free
        found[device.visible] = max(1, min(int(USABLE * gpu.total), free))
    return found


def _choose(devices: str | None) -> tuple[Device, ...]:
    """Return the GPUs to use; none stands for the CPU."""
    if devices == "cpu":
        return ()
    found = gpus()
    if devices is None:
        return found
    if not found:
        raise OptionError(f"--devices {devices}: {_none_found()}; use --devices cpu")
    if devices == "cuda":
        return found
    wanted = [name.strip().removeprefix("cuda:") for name in devices.split(",")]
    return tuple(_named(name, found, devices) for name in wanted)


def _named(name: str, found: tuple[Device, ...], given: str) -> Device:
    for device in found:
        if name in (device.name.removeprefix("cuda:"), device.visible):
            return device
    there = ", ".join(device.name.removeprefix("cuda:") for device in found)
    raise OptionError(f"--devices {given}: there is no GPU {name!r}; expected cpu, cuda, or some of {there}")


def _none_found() -> str:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return f"CUDA_VISIBLE_DEVICES={given!r} hides every GPU"
    return "nvidia-smi lists no GPU" if shutil.which("nvidia-smi") else "there is no nvidia-smi, so no GPU was found"


def gpus() -> tuple[Device, ...]:
    """Return the GPUs that a worker may be pinned to, MIG instances each for itself."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(_parse_smi(_ask_smi("-L"))) or tuple(_others())
    found = []
    for name in (part.strip() for part in given.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name):
            break  # CUDA as well ignores what follows an id that it does not know, such as -1
        found.append(Device(f"cuda:{name}", name))
    return tuple(found)


def _others() -> Iterator[Device]:
    """Yield the one device of another maker that torch may offer."""
    if os.path.exists("/dev/kfd"):  # AMD's driver
        yield ROCM
    elif sys.platform == "darwin" and platform.machine() == "arm64":
        yield MPS


class Gpu(NamedTuple):
    """What nvidia-smi knows of a GPU.

    Args:
        name: Its model.
        total: Its memory, bytes; None if it does not say.
        free: What nobody holds of it now.
        capability: Its compute capability: '8.0'.
    """

    name: str
    total: int | None
    free: int | None
    capability: str | None


@dataclass(frozen=True)
class Inventory:
    """What is known of a plan's devices, for people.

    Args:
        gpus: What is known of a GPU, by what makes it visible.
        why: How the plan came about, in lines.
    """

    gpus: dict[str, Gpu]
    why: tuple[str, ...]


def inventory(plan: Plan) -> Inventory:
    """Return what is known of a plan's devices and why they were chosen; torch is not asked."""
    cores, affinity = cpu_count(), _affinity()
    quota = f", of {affinity} that its container would show" if cores < affinity else ""
    why = [f"this process may keep {cores} cores busy{quota}"]
    if plan.slots[0] == CPU:
        why.append(f"no GPU is used: {_none_found() if not gpus() else 'the CPU was asked for'}")
        why.append("one slot a core, one thread each: many slots of one thread outdo one of many threads")
    else:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        why.append("GPUs as nvidia-smi lists them" if given is None else f"GPUs by CUDA_VISIBLE_DEVICES={given}")
    why.append("--devices, --slots, --per-device and --threads change this")
    return Inventory(_look_up(plan.slots), tuple(why))


def _look_up(devices: tuple[Device, ...]) -> dict[str, Gpu]:
    """Return what nvidia-smi knows of devices, by what makes them visible; of those that it knows."""
    ids = {id for device in devices for id in device.visible.split(",") if device.name.startswith("cuda")}
    if not ids:
        return {}
    rows = _rows()
    found = {id: _look_up_one(id, rows) for id in ids}
    return {id: gpu for id, gpu in found.items() if gpu is not None}


def _look_up_one(id: str, rows: dict[str, Gpu]) -> Gpu | None:
    if id.isdigit():  # CUDA numbers GPUs of several models by speed, nvidia-smi along the PCI bus
        same = len({gpu.name for gpu in rows.values()}) == 1
        return list(rows.values())[int(id)] if same and int(id) < len(rows) else None
    known = _instances() if id.startswith("MIG") else rows.items()
    return next((gpu for uuid, gpu in known if uuid.startswith(id)), None)


def _rows() -> dict[str, Gpu]:
    """Return every GPU by UUID."""
    capabilities = dict(_query("compute_cap"))  # older drivers do not know it, and would say nothing at all
    found = {}
    for uuid, name, total, free in _query("name", "memory.total", "memory.free"):
        mebibytes = [int(text) * 2**20 if text.isdigit() else None for text in (total, free)]
        found[uuid] = Gpu(name, *mebibytes, capabilities.get(uuid))
    return found


def _query(*fields: str) -> Iterator[tuple[str, ...]]:
    """Yield UUID and fields of each GPU."""
    text = _ask_smi("--query-gpu=" + ",".join(("uuid", *fields)), "--format=csv,noheader,nounits")
    for line in text.splitlines():
        parts = tuple(part.strip() for part in line.split(","))
        if len(parts) == 1 + len(fields):
            yield parts


def _instances() -> Iterator[tuple[str, Gpu]]:
    """Yield UUID and what is known of each MIG instance; its profile tells its memory: 3g.20gb."""
    for line in _ask_smi("-L").splitlines():
        mig = re.search(r"(MIG \S*?(\d+)gb\S*)\s+Device.*\(UUID: ([^)]+)\)", line)
        if mig:
            yield mig[3], Gpu(mig[1], int(mig[2]) * 10**9, None, "8.0")  # no GPU of less has instances


def _ask_smi(*flags: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        asked = subprocess.run([program, *flags], capture_output=True, text=True, timeout=SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout if asked.returncode == 0 else ""


def _parse_smi(text: str) -> Iterator[Device]:
    """Yield the devices in what `nvidia-smi -L` prints; a GPU that is cut into MIG instances gives those.

    They are pinned by UUID: nvidia-smi counts along the PCI bus, CUDA by speed.
    """
    whole: Device | None = None
    for line in text.splitlines():
        uuid = re.search(r"\(UUID: ([^)]+)\)", line)
        number = re.match(r"GPU (\d+):", line)
        if number and uuid:
            if whole:
                yield whole
            whole = Device(f"cuda:{number[1]}", uuid[1])
        elif uuid and line.strip().startswith("MIG"):
            whole = None
            yield Device(f"cuda:{uuid[1]}", uuid[1])
    if whole:
        yield whole


def cpu_count(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    The smaller of its CPU affinity and its cgroup's quota (a container's limit), rounded up.

    Args:
        proc: Says which cgroup the process is in.
        root: Where cgroups are mounted.
    """
    return max(1, min([_affinity(), *(math.ceil(quota) for quota in _quotas(proc, root))]))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(proc: Path, root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the process's cgroup and of those around it (versions 2 and 1)."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            for folder in _upwards(root, path):
                yield from _quota(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / controllers, path):
                yield from _quota(_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"))


def _upwards(mount: Path, path: str) -> list[Path]:
    inner = mount / path.strip("/")
    return [inner, *(folder for folder in inner.parents if folder == mount or mount in folder.parents)]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _quota(words: list[str]) -> Iterator[float]:
    if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:  # no quota is 'max' or -1
        yield int(words[0]) / int(words[1])
