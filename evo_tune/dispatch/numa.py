"""Which cores are near the same memory: where a machine has several NUMA nodes, a slot's worker stays on one.

Its memory is then on the node that uses it, whatever the scheduler does. Linux tells the nodes under /sys; elsewhere,
and where there is one node, nothing is bound. The number of threads is not this module's business: binding changes
no result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["bind", "nodes", "spread"]

NODES = Path("/sys/devices/system/node")


def nodes() -> list[tuple[int, ...]]:
    """Return the cores of each node that this process may use; none where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = os.sched_getaffinity(0)
    folders = sorted(NODES.glob("node[0-9]*"), key=lambda folder: int(folder.name.removeprefix("node")))
    found = [tuple(core for core in _listed(folder / "cpulist") if core in allowed) for folder in folders]
    return [cores for cores in found if cores]


def _listed(file: Path) -> list[int]:
    """Return the numbers in a list such as '0-3,8-11'; none where it cannot be read."""
    try:
        ends = [part.split("-") for part in file.read_text().strip().split(",") if part]
        return [core for pair in ends for core in range(int(pair[0]), int(pair[-1]) + 1)]
    except (OSError, ValueError):
        return []


def spread(slots: int, threads: int, nodes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return the cores of each slot, those of one node, in proportion to the nodes' sizes.

    Empty where there are not several nodes, or where one is too small for a slot's threads.
    """
    if len(nodes) < 2 or threads > min(map(len, nodes)):
        return ()
    taken = [0] * len(nodes)
    found = []
    for _ in range(slots):
        roomiest = max(range(len(nodes)), key=lambda node: len(nodes[node]) / (taken[node] + 1))
        taken[roomiest] += 1
        found.append(nodes[roomiest])
    return tuple(found)


def bind(cores: Sequence[int]) -> None:
    """Keep this process's threads, and those that it will start, on these cores; if there are none, do nothing."""
    for thread in os.listdir("/proc/self/task") if cores else ():
        os.sched_setaffinity(int(thread), cores)
