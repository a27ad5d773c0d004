"""Limits of this process on its machine: supported systems, number of cores, amount of memory.

A container may use less than it sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from evo_tune.errors import OptionError

PROC = Path("/proc")
CGROUP = PROC / "self" / "cgroup"
"""File that names the process's cgroups."""

MOUNT = Path("/sys/fs/cgroup")
"""Mount point of cgroups."""


def check_system(system: str = os.name) -> None:
    """Reject a system without process groups and signals, which are needed to kill workers.

    Raises:
        OptionError: The system is not POSIX.
    """
    if system != "posix":
        raise OptionError(
            f"evo-tune cannot train on this system ({system}): expected Linux (macOS and WSL are not tested); on "
            "Windows, install and run it inside WSL"
        )


def cpu_count(proc: Path = CGROUP, root: Path = MOUNT) -> int:
    """Return the number of cores that this process may use, at least 1.

    It is the smaller of the CPU affinity and the cgroup's quota (a container's limit), rounded up.

    Args:
        proc: See CGROUP.
        root: See MOUNT.
    """
    return max(1, min([affinity(), *(math.ceil(quota) for quota in _quotas(proc, root))]))


def affinity() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_memory(proc: Path = CGROUP, root: Path = MOUNT, system: Path = PROC / "meminfo") -> tuple[int, int] | None:
    """Return the total and the free bytes of memory for this process; None if unknown.

    Args:
        proc: See CGROUP.
        root: See MOUNT.
        system: File with the machine's memory, in the format of /proc/meminfo.
    """
    try:
        sizes = dict(line.split()[:2] for line in system.read_text().splitlines())
        limits = [(1024 * int(sizes["MemTotal:"]), 1024 * int(sizes["MemAvailable:"]))]
    except (OSError, KeyError, ValueError):
        return None
    for folder, _ in _cgroups(proc, root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            numbers = [word for word in _words(folder / limit) + _words(folder / used) if word.isdigit()]
            if len(numbers) == 2:
                limits.append((int(numbers[0]), max(0, int(numbers[0]) - int(numbers[1]))))
    return min(total for total, _ in limits), min(free for _, free in limits)


def _cgroups(proc: Path, root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the process's cgroup and of its ancestors, and whether each is of version 2."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from ((folder, True) for folder in _upwards(root, path))
        elif controller in controllers.split(","):
            yield from ((folder, False) for folder in _upwards(root / controllers, path))


def _quotas(proc: Path, root: Path) -> Iterator[float]:
    """Yield the CPU quota of each cgroup that has one, in cores."""
    for folder, new in _cgroups(proc, root, "cpu"):
        files = ("cpu.max",) if new else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [word for name in files for word in _words(folder / name)]
        if len(words) == 2 and words[0].isdigit() and int(words[0]) > 0:  # no quota is 'max' or -1
            yield int(words[0]) / int(words[1])


def _upwards(mount: Path, path: str) -> list[Path]:
    inner = mount / path.strip("/")
    return [inner, *(folder for folder in inner.parents if folder == mount or mount in folder.parents)]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
