"""Slots: places that evaluate candidates. Each kind of slot is one file here (see `slot.Slot`).

`plan` returns the slots that this machine offers, and `open_slots` opens them. Importing this package starts nothing
and loads neither joblib nor torch.
"""

from __future__ import annotations

from evo_tune.dispatch.clusters.remote import Cluster, Engine, RemoteSlot
from evo_tune.dispatch.devices import AUTO, CPU, Device, Plan, check_system, cpu_count, gpus, inventory, plan
from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.log import remove_stale_files
from evo_tune.dispatch.packing import MemoryForecast, SharedCards, SharedSlot
from evo_tune.dispatch.slot import UNKNOWN, NoMachine, Slot, SlotClosed, SlotInterrupted, SlotUnfit, Task
from evo_tune.errors import OptionError

__all__ = [
    "AUTO",
    "CPU",
    "UNKNOWN",
    "Cluster",
    "Device",
    "LocalSlot",
    "MemoryForecast",
    "NoMachine",
    "Plan",
    "Slot",
    "SlotClosed",
    "SlotInterrupted",
    "SlotUnfit",
    "Task",
    "cpu_count",
    "gpus",
    "inventory",
    "open_slots",
    "plan",
    "remove_stale_files",
]


def open_slots(
    task: Task,
    plan: Plan,
    timeout: float | None = None,
    retries: int = 0,
    cluster: Cluster | None = None,
    forecast: MemoryForecast | None = None,
) -> list[Slot]:
    """Open the slots of a plan; the worker of each starts with its first candidate.

    Args:
        task: Settings common to all candidates.
        plan: Slots of this machine.
        timeout: Seconds after which an evaluation is killed (> 0); None means no limit.
        retries: Number of times that a crashed evaluation is repeated (≥ 0).
        cluster: Cluster to open the slots on instead.
        forecast: Memory forecast for slots that share a GPU, used if the plan has memory to share.

    Raises:
        OptionError: A timeout or number of retries is out of range, the cluster cannot be used, or the system is
            not supported.
    """
    check_system()
    if timeout is not None and not timeout > 0:
        raise OptionError(f"--timeout {timeout:g} is not allowed: expected more than 0 seconds")
    if retries < 0:
        raise OptionError(f"--retries {retries} is not allowed: expected 0 or more")
    if cluster is not None:
        engine: Engine
        if cluster.backend == "dask":
            from evo_tune.dispatch.clusters.dask_cluster import DaskEngine

            engine = DaskEngine(task, cluster, plan, timeout, retries)
        else:
            from evo_tune.dispatch.clusters.ray_cluster import RayEngine

            engine = RayEngine(task, cluster, plan, timeout, retries)
        count = engine.free_seats if cluster.slots is None else cluster.slots
        if not count:
            engine.close()
            raise OptionError(
                f"the cluster at {cluster.address} has no workers: start some, or say --slots N to wait for N"
            )
        return [RemoteSlot(f"slot {i}", engine, timeout) for i in range(count)]
    slots = [LocalSlot(f"slot {i}", device, task, timeout, retries) for i, device in enumerate(plan.slots)]
    if forecast is None or not plan.memory:
        return list(slots)
    cards = SharedCards({device.name: plan.memory[device.visible] for device in plan.slots}, forecast)
    return [SharedSlot(slot, cards) for slot in slots]
