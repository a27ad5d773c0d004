"""What this process may use of its machine: whether the system will do, how many cores and how much memory.

A container has less than it sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from evo_tune.errors import OptionError

__all__ = ["affinity", "check_system", "cpu_count", "memory"]

PROC = Path("/proc")
CGROUP = PROC / "self" / "cgroup"
"""Says which cgroup the process is in."""

MOUNT = Path("/sys/fs/cgroup")
"""Where cgroups are mounted."""


def check_system(system: str = os.name) -> None:
    """Refuse a system without the process groups and signals by which workers are killed.

    Raises:
        OptionError: It is no Linux and nothing like it.
    """
    if system != "posix":
        raise OptionError(
            f"evo-tune cannot train on this system ({system}): expected Linux (macOS and WSL are not tested); on "
            "Windows, install and run it inside WSL"
        )


def cpu_count(proc: Path = CGROUP, root: Path = MOUNT) -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    The smaller of its CPU affinity and its cgroup's quota (a container's limit), rounded up.

    Args:
        proc: See CGROUP.
        root: See MOUNT.
    """
    return max(1, min([affinity(), *(math.ceil(quota) for quota in _quotas(proc, root))]))


def affinity() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(proc: Path = CGROUP, root: Path = MOUNT, system: Path = PROC / "meminfo") -> tuple[int, int] | None:
    """Return the bytes of memory that there are for this process and those that are free; None if nothing tells.

    Args:
        proc: See CGROUP.
        root: See MOUNT.
        system: What the machine has.
    """
    try:
        told = dict(line.split()[:2] for line in system.read_text().splitlines())
        found = [(1024 * int(told["MemTotal:"]), 1024 * int(told["MemAvailable:"]))]
    except (OSError, KeyError, ValueError):
        return None
    for folder, _ in _cgroups(proc, root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            numbers = [word for word in _words(folder / limit) + _words(folder / used) if word.isdigit()]
            if len(numbers) == 2:
                found.append((int(numbers[0]), max(0, int(numbers[0]) - int(numbers[1]))))
    return min(total for total, _ in found), min(free for _, free in found)


def _cgroups(proc: Path, root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the process's cgroup and of those around it, and whether they are of version 2."""
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
    """Yield the quotas of cgroups, in cores."""
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
